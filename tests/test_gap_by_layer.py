import copy
import sys
from pathlib import Path

import pytest
import torch
from conftest import blobs
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from gap_by_layer import QUANTILES, features, likeness, margins, missed

from shared.architectures import build_network
from shared.errors import IncompatibleError
from shared.seeding import generator
from shared.teacher import Teacher


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(0, "gap"))


def missed_by(network: nn.Module, teacher: Teacher, images: Tensor) -> dict[tuple[str, int], float]:
    return missed(features(network, teacher, images), features(teacher.network, teacher, images))


def test_a_copy_misses_nothing(tiny_teacher: Teacher) -> None:
    images, _ = blobs(64)
    shares = missed_by(copy.deepcopy(tiny_teacher.network), tiny_teacher, images)

    assert set(shares.values()) == {0}
    assert ("linear", 0) in shares


def test_what_comes_before_a_change_is_not_missed(tiny_teacher: Teacher) -> None:
    images, _ = blobs(64)
    changed = copy.deepcopy(tiny_teacher.network)
    torch.nn.init.zeros_(changed.get_submodule("layer3.0.bn2").weight)
    shares = missed_by(changed, tiny_teacher, images)

    assert shares["layer3.0.conv2", 0] == 0
    assert shares["linear", 0] > 0.1


def test_a_network_of_other_widths_is_refused(tiny_teacher: Teacher) -> None:
    other = build_network("cifar_vgg11_bn", num_classes=tiny_teacher.spec.num_classes).eval()
    images, _ = blobs(4)
    larger = images.repeat_interleave(4, 2).repeat_interleave(4, 3)

    with pytest.raises(IncompatibleError, match="no layer"):
        missed_by(other, tiny_teacher, larger)


def test_likeness_of_logits_known_without_it() -> None:
    logits = noise(50, 7)

    assert likeness(logits, logits) == pytest.approx((1, 1, 1))
    assert likeness(0.5 * logits + 3, logits) == pytest.approx((1, 0.5, 1))
    assert likeness(-logits, logits)[:2] == pytest.approx((-1, -1))


def test_margins_are_between_the_two_highest() -> None:
    wanted = torch.arange(101.0)
    logits = torch.stack([torch.zeros(101), 5 + wanted, torch.full((101,), 5.0)], dim=1)

    assert margins(logits) == pytest.approx([100 * at for at in QUANTILES])
