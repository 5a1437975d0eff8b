"""A label of sigmoids is one finding's: what else an image shows takes nothing from it."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from dreamset_fixtures import tiny_dreams, tiny_spec, write_dream_set

from dreamforge.filter import Criteria, choose, filter_set
from dreamforge.preview import answers_of, contact_sheet
from shared.confidence import confidences, first_confidences, recognised
from shared.dreams import DreamBatch
from shared.dreamset import DreamSet

# Logits of two findings, the label, the probability of the label, and whether it is given.
KNOWN = [
    ((9.0, 9.0), 1, "sigmoid(9)", True),  # both there: a softmax would say 1/2 of either
    ((2.0, 5.0), 1, "sigmoid(2)", True),  # the first choice is the other one
    ((-1.0, 5.0), 1, "sigmoid(-1)", False),
    ((-2.0, -3.0), 0, "sigmoid(2)", True),
    ((-2.0, 1.0), 0, "sigmoid(-1)", False),
    ((0.0, -1.0), 0, "sigmoid(0)", True),
]


def parts() -> tuple[torch.Tensor, torch.Tensor]:
    logits = F.pad(torch.tensor([found for found, *_ in KNOWN]), (1, 0))
    return logits, torch.tensor([label for _, label, *_ in KNOWN])


def test_labels_of_findings_are_as_sure_as_their_own_sigmoid() -> None:
    expected = [torch.tensor(float(text[8:-1])).sigmoid().item() for *_, text, _ in KNOWN]

    assert confidences(*parts(), "sigmoid").tolist() == pytest.approx(expected)


def test_a_finding_is_recognised_where_it_is_likelier_than_not_and_none_where_no_finding_is():
    assert recognised(*parts(), "sigmoid").tolist() == [given for *_, given in KNOWN]


def test_what_is_recognised_is_sure_by_half_and_the_surest_label_is_the_first_choice() -> None:
    draws = torch.Generator().manual_seed(0)
    logits = F.pad(3 * torch.randn(200, 4, generator=draws), (1, 0))
    every = [torch.full((200,), label) for label in range(5)]

    sure = torch.stack([confidences(logits, labels, "sigmoid") for labels in every], dim=1)
    given = torch.stack([recognised(logits, labels, "sigmoid") for labels in every], dim=1)

    assert torch.equal(sure > 0.5, given)
    assert torch.equal(sure.argmax(1), logits.argmax(1))
    assert torch.equal(first_confidences(logits, "sigmoid"), sure.amax(1))


def test_one_finding_is_the_softmax_of_two_classes() -> None:
    draws = torch.Generator().manual_seed(1)
    logits = F.pad(torch.randn(50, 1, generator=draws), (1, 0))
    labels = torch.randint(0, 2, (50,), generator=draws)

    torch.testing.assert_close(
        confidences(logits, labels, "sigmoid"), confidences(logits, labels, "softmax")
    )
    assert torch.equal(recognised(logits, labels, "sigmoid"), recognised(logits, labels, "softmax"))


def test_a_softmax_is_what_it_was() -> None:
    draws = torch.Generator().manual_seed(2)
    logits = torch.randn(50, 7, generator=draws).half()
    labels = torch.randint(0, 7, (50,), generator=draws)

    shares = logits.float().softmax(1)
    assert torch.equal(confidences(logits, labels, "softmax"), shares[torch.arange(50), labels])
    assert torch.equal(first_confidences(logits, "softmax"), shares.amax(1))
    assert torch.equal(recognised(logits, labels, "softmax"), logits.argmax(1) == labels)


@pytest.fixture
def findings(tmp_path: Path) -> DreamSet:
    """A set whose dreams are the known ones, four times over."""
    plain, (logits, labels) = tiny_dreams(24), parts()
    dreams = DreamBatch(
        images=plain.images,
        labels=labels.repeat(4),
        logits=logits.half().repeat(4, 1),
        batch=plain.batch,
        loss=plain.loss,
    )
    spec = tiny_spec(num_classes=3, class_names=("none", "top", "left"), answers="sigmoid")
    return DreamSet.open(write_dream_set(tmp_path, dreams=dreams, spec=spec))


def test_what_filter_keeps_is_what_the_new_set_says_is_recognised(
    findings: DreamSet, tmp_path: Path
) -> None:
    agreed = [row for row in range(24) if KNOWN[row % 6][3]]
    sure = [row for row in range(24) if row % 6 in (0, 1, 3)]

    assert choose(findings, Criteria(agree=True)).tolist() == agreed
    assert choose(findings, Criteria(min_confidence=0.8)).tolist() == sure
    # Of the first finding the dreams of both, sure of it, and not those of the other alone.
    assert choose(findings, Criteria(per_class=4)).tolist() == sorted([0, 6, 12, 18, 3, 9, 15, 21])
    manifest = filter_set(findings.path, tmp_path / "best.h5", Criteria(agree=True))
    assert manifest.quality["teacher_accuracy"] == 1
    logits = torch.cat([logits for logits, *_ in answers_of(findings)])[agreed]
    expected = logits[:, 1:].float().amax(1).abs().sigmoid().mean().item()
    assert manifest.quality["mean_confidence"] == pytest.approx(expected)
    assert contact_sheet(findings).mode == "RGB"
