import json
import math
import sys
from pathlib import Path

import pytest
import torch
from conftest import QUADRANTS, blobs
from dreamset_fixtures import tiny_dreams, write_dream_set
from PIL import Image
from torch import nn

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import dream_quality

from shared.architectures import build_network
from shared.dreams import DreamBatch
from shared.dreamset import DreamSet
from shared.errors import IncompatibleError
from shared.images import to_pixels
from shared.seeding import generator
from shared.teacher import Teacher, batch_norms

LABELS = torch.tensor([0, 0, 0, 1, 1, 1])


def spread_out(num_images, num_features=6):
    return torch.randn(num_images, num_features, generator=generator(0, "features"))


def test_orthogonal_features_have_distance_one_and_opposite_ones_two():
    assert dream_quality.cosine_diversity(torch.eye(6), LABELS) == pytest.approx(1)
    opposite = torch.tensor([[1.0, 0], [-1, 0]])
    assert dream_quality.cosine_diversity(opposite, torch.zeros(2)) == pytest.approx(2)


def test_diversity_is_the_mean_over_pairs_of_a_class():
    features, labels = spread_out(10), torch.tensor([0, 1] * 3 + [1] * 4)
    naive = [
        1 - torch.cosine_similarity(features[i], features[j], dim=0).item()
        for i in range(10)
        for j in range(i)
        if labels[i] == labels[j]
    ]

    found = dream_quality.cosine_diversity(features, labels)
    assert found == pytest.approx(sum(naive) / len(naive), abs=1e-6)


def test_one_image_repeated_in_every_class_is_seen_as_collapse():
    collapsed = torch.eye(2, 6)[LABELS] * 3

    assert dream_quality.cosine_diversity(collapsed, LABELS) == pytest.approx(0, abs=1e-9)
    assert dream_quality.effective_rank(collapsed, LABELS) == 0
    assert dream_quality.cosine_diversity(torch.eye(2), torch.arange(2)) == 0  # no pair at all


def test_equal_singular_values_count_fully_and_unequal_ones_less():
    # Each direction and its opposite: mean 0, singular values all equal.
    directions = torch.cat([torch.eye(4), -torch.eye(4)])
    one_class = torch.zeros(8)
    assert dream_quality.effective_rank(directions, one_class) == pytest.approx(4)

    # Shares 3/4 and 1/4: exp(-(0.75 ln 0.75 + 0.25 ln 0.25)).
    uneven = torch.tensor([[3.0, 0], [0, 1], [-3, 0], [0, -1]])
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert dream_quality.effective_rank(uneven, torch.zeros(4)) == pytest.approx(expected)


def test_the_rank_is_that_within_the_classes():
    centers = torch.eye(6)[:2][LABELS] * 100
    along = torch.tensor([-1.0, 0, 1] * 2)[:, None] * torch.eye(6)[5]

    assert dream_quality.effective_rank(centers + along, LABELS) == pytest.approx(1)


def test_a_few_images_repeated_are_less_diverse_than_many(tiny_teacher):
    images, labels = blobs(64)
    rows = torch.cat([(labels == label).nonzero()[:2, 0] for label in range(4)])
    repeated = rows.repeat(8)
    many = dream_quality.measure(images, labels, tiny_teacher, None)
    few = dream_quality.measure(images[repeated], labels[repeated], tiny_teacher, None)

    assert few.num_images == many.num_images
    assert few.effective_rank < many.effective_rank / 2
    assert few.diversity < many.diversity
    assert few.second_accuracy is None


def test_features_are_what_the_last_layer_gets(tiny_teacher):
    images, _ = blobs(5)
    features = dream_quality.last_features(tiny_teacher, images)
    linear = [m for m in tiny_teacher.network.modules() if isinstance(m, nn.Linear)][-1]

    assert torch.allclose(linear(features), tiny_teacher.logits(images), atol=1e-5)
    assert not linear._forward_pre_hooks


def test_a_network_without_a_linear_layer_is_refused(tiny_teacher):
    odd = Teacher(network=nn.Sequential(nn.Conv2d(3, 4, 1)), spec=tiny_teacher.spec)

    with pytest.raises(IncompatibleError, match="no linear layer"):
        dream_quality.last_features(odd, blobs(1)[0])


def test_the_distance_is_zero_for_remembered_statistics_and_large_for_others(tiny_teacher):
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 4))
    teacher = Teacher(network=network, spec=tiny_teacher.spec)
    images, _ = blobs(40)
    inputs = teacher.normalize(to_pixels(images))
    (layer,) = batch_norms(network).values()
    layer.running_mean.copy_(inputs.mean((0, 2, 3)))
    layer.running_var.copy_(inputs.var((0, 2, 3), unbiased=False))

    assert dream_quality.bn_distance(teacher, images) == pytest.approx(0, abs=1e-5)
    # A mean one standard deviation off: KL is 1/2 for each channel.
    layer.running_mean += layer.running_var.sqrt()
    assert dream_quality.bn_distance(teacher, images) == pytest.approx(0.5, abs=1e-3)
    assert "forward" not in vars(layer)


def test_a_set_is_measured_beside_as_many_real_images(teacher_file, tiny_teacher, tmp_path, runner):
    images, labels = blobs(32)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        folder = tmp_path / "real" / QUADRANTS[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number:02d}.png")
    rows = tiny_dreams(16)
    same = DreamBatch(
        images=images[:16],
        labels=labels[:16],
        logits=rows.logits,
        batch=rows.batch,
        loss=rows.loss,
    )
    index = write_dream_set(tmp_path, dreams=same, spec=tiny_teacher.spec)
    words = ["measure", str(index), "--teacher", str(teacher_file), "--device", "cpu"]
    words += ["--second", str(teacher_file), "--eval-data", str(tmp_path / "real")]
    result = runner.invoke(dream_quality.main, [*words, "--out", str(tmp_path / "quality.json")])
    assert result.exit_code == 0, result.output

    found = json.loads((tmp_path / "quality.json").read_text())
    assert found["dreams"]["num_images"] == found["real"]["num_images"] == 16
    assert found["dreams"]["second_accuracy"] == found["dreams"]["teacher_accuracy"]
    assert found["synthesis_seconds"] == 1.5


def test_a_judge_looks_at_dreams_of_another_size(
    teacher_file, tiny_teacher, tmp_path, runner, monkeypatch
):
    index = write_dream_set(tmp_path)
    batch = DreamSet.open(index).read(0, 24)
    answers = torch.zeros(24, 4)
    answers[torch.arange(24), (batch.labels + (torch.arange(24) >= 6)) % 4] = 1.0
    seen = []

    def logits(_, images, _batch_size=None):
        seen.append(tuple(images.shape))
        return answers

    monkeypatch.setattr(Teacher, "logits", logits)
    words = ["recognise", str(index), "--judge", str(teacher_file), "--image-size", "16"]

    result = runner.invoke(dream_quality.main, [*words, "--device", "cpu"])

    assert result.exit_code == 0, result.output
    assert seen == [(24, 3, 16, 16)]
    cells = [cell.strip() for cell in result.stdout.splitlines()[2].strip("|").split("|")]
    assert cells[3] == "25.0"  # the first six of 24
    assert cells[4] == "100.0"  # there are four classes


def test_a_judge_of_other_classes_is_refused(tmp_path, runner):
    index = write_dream_set(tmp_path)
    torch.save(build_network("resnet8", num_classes=7).state_dict(), tmp_path / "judge.pt")

    result = runner.invoke(
        dream_quality.main, ["recognise", str(index), "--judge", str(tmp_path / "judge.pt")]
    )

    assert result.exit_code == 4
    assert "7 classes, expected the 4 of" in result.stderr
