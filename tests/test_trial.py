"""What a network's answers must be like, whatever somebody's forward does."""

import pytest
import torch
import torch.nn.functional as F
from conftest import NUM_CLASSES
from test_sparing import Normalizing, Plain, load
from torch import Tensor

from recover.student import require_fitting
from shared.errors import ConfigError


class WithoutGradient(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(inputs)


class Detached(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).detach()


class OfDetachedImages(Plain):
    """Its parameters have a gradient, and images none."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.detach())


class Chosen(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).argmax(1)


class ByNumpy(Plain):
    """Raises where images require a gradient."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(inputs.numpy()))


class Dropping(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return F.dropout(super().forward(inputs))


class DroppingInTraining(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return F.dropout(super().forward(inputs), training=self.training)


@pytest.mark.parametrize("kind", [WithoutGradient, Detached, OfDetachedImages, Chosen, ByNumpy])
def test_answers_without_a_gradient_are_refused_in_one_line(kind: type[Plain]) -> None:
    with pytest.raises(ConfigError, match="answers without a gradient") as caught:
        load(kind)
    assert "\n" not in str(caught.value)


def test_they_are_refused_of_huge_images_too() -> None:
    """Which are tried without memory."""
    with pytest.raises(ConfigError, match="answers without a gradient"):
        load(Detached, image_size=2048)
    assert load(Plain, image_size=2048).spec.image_shape == (3, 2048, 2048)


@pytest.mark.parametrize("kind", [WithoutGradient, Detached])
def test_a_random_student_of_that_kind_is_refused(kind: type[Plain]) -> None:
    spec = load(Plain).spec

    with pytest.raises(ConfigError, match="--student somebodys:Network: answers without"):
        require_fitting(kind(), "somebodys:Network", spec)


def test_a_network_that_draws_its_answers_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="differently from time to time") as caught:
        load(Dropping)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [Plain, Normalizing, DroppingInTraining])
def test_sound_networks_are_taken(kind: type[Plain]) -> None:
    spec = load(kind).spec

    assert spec.num_classes == NUM_CLASSES
    require_fitting(kind(), "somebodys:Network", spec)
