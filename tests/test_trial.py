"""What a network's answers must be like, whatever somebody's forward does."""

import pytest
import torch
import torch.nn.functional as F
from conftest import NUM_CLASSES
from test_sparing import Normalizing, Plain, load
from torch import Tensor
from torch.utils.checkpoint import checkpoint

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


class Checkpointed(Plain):
    """Has a gradient that is only computed where all others are."""

    def forward(self, inputs: Tensor) -> Tensor:
        return checkpoint(super().forward, inputs, use_reentrant=True)


class CheckpointedSince(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return checkpoint(super().forward, inputs, use_reentrant=False)


class Overwriting(Plain):
    """Changes what its own gradient needs."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits = super().forward(inputs)
        return logits.exp_() * logits.mul_(2).exp_()


class Logarithms(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        return torch.log(super().forward(inputs) - 1e3)


class Masking(Plain):
    def forward(self, inputs: Tensor) -> Tensor:
        absent = F.one_hot(torch.tensor(0), NUM_CLASSES).bool()
        return super().forward(inputs).masked_fill(absent, -torch.inf)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("kind", [Checkpointed, Overwriting])
def test_answers_that_cannot_be_differentiated_are_refused_in_one_line(kind: type[Plain]) -> None:
    with pytest.raises(ConfigError, match="cannot be differentiated") as caught:
        load(kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [Logarithms, Masking])
def test_answers_that_are_not_finite_are_refused_in_one_line(kind: type[Plain]) -> None:
    with pytest.raises(ConfigError, match=r"NaN or inf .* expected finite logits") as caught:
        load(kind)
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("kind", [Plain, Normalizing, DroppingInTraining, CheckpointedSince])
def test_sound_networks_are_taken(kind: type[Plain]) -> None:
    spec = load(kind).spec

    assert spec.num_classes == NUM_CLASSES
    require_fitting(kind(), "somebodys:Network", spec)
