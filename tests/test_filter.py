from pathlib import Path

import pytest
import torch
from dreamset_fixtures import tiny_dreams, write_dream_set

from dreamforge.filter import Criteria, choose, filter_set
from dreamforge.preview import answers_of
from dreamforge.verify import verify
from shared.confidence import confidences
from shared.dreams import DreamBatch
from shared.dreamset import DreamSet
from shared.errors import ConfigError


@pytest.fixture
def dreams(tmp_path: Path) -> DreamSet:
    """24 dreams in 2 shards; of label 3 the teacher thinks otherwise."""
    plain = tiny_dreams()
    logits = plain.logits.clone()
    logits[plain.labels == 3] = torch.tensor([3.0, 0, 0, 1]).half()
    changed = DreamBatch(
        images=plain.images,
        labels=plain.labels,
        logits=logits,
        batch=plain.batch,
        loss=plain.loss,
    )
    return DreamSet.open(write_dream_set(tmp_path, dreams=changed, teacher=b"weights"))


def test_no_criteria_keep_everything(dreams: DreamSet) -> None:
    assert choose(dreams, Criteria()).tolist() == list(range(24))


def test_agreement_drops_what_the_teacher_sees_differently(dreams: DreamSet) -> None:
    rows = choose(dreams, Criteria(agree=True))

    assert rows.tolist() == [row for row in range(24) if row % 4 != 3]


def test_confidence_is_of_the_label(dreams: DreamSet) -> None:
    scores = torch.cat([confidences(*answer) for answer in answers_of(dreams)])

    rows = choose(dreams, Criteria(min_confidence=0.7))

    assert rows.tolist() == [row for row in range(24) if scores[row] >= 0.7]
    assert 0 < len(rows) < 18


def test_the_best_of_each_class_are_kept(dreams: DreamSet) -> None:
    scores = torch.cat([confidences(*answer) for answer in answers_of(dreams)])

    rows = choose(dreams, Criteria(per_class=2)).tolist()

    for label in range(4):
        of_class = sorted(range(label, 24, 4), key=lambda row: -float(scores[row]))
        assert {row for row in rows if row % 4 == label} == set(of_class[:2])


@pytest.mark.parametrize(("count", "per_class"), [(4, [1, 1, 1, 1]), (23, [6, 6, 6, 5])])
def test_a_number_is_balanced(dreams: DreamSet, count: int, per_class: list[int]) -> None:
    rows = choose(dreams, Criteria(num_images=count))

    assert len(rows) == count
    assert sorted(dreams.labels[rows].bincount().tolist(), reverse=True) == per_class
    assert rows.tolist() == sorted(rows.tolist())


def test_the_filtered_set_holds_these_rows(dreams: DreamSet, tmp_path: Path) -> None:
    criteria = Criteria(agree=True, per_class=3)
    out = tmp_path / "best.h5"

    manifest = filter_set(dreams.path, out, criteria, shard_size=4)

    rows, best = choose(dreams, criteria), DreamSet.open(out)
    assert torch.equal(best.read(0, 9).images, dreams.images(rows))
    assert manifest.quality["teacher_accuracy"] == 1.0
    assert manifest.provenance["filter"] == {"agree": True, "per_class": 3}
    assert manifest.provenance["sources"][0]["num_images"] == 24
    assert manifest.synthesis == dreams.manifest.synthesis
    assert best.teacher_blob() == b"weights"
    assert verify(out, deep=False).fine


def test_an_empty_set_is_not_written(dreams: DreamSet, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of 24 dreams meets"):
        filter_set(dreams.path, tmp_path / "best.h5", Criteria(min_confidence=1.0))
    assert not (tmp_path / "best.h5").exists()


@pytest.mark.parametrize(
    "values", [{"min_confidence": 1.1}, {"min_confidence": -1}, {"per_class": 0}, {"num_images": 0}]
)
def test_impossible_criteria_are_refused(values: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Criteria(**values)
