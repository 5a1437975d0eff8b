import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from told_dreams import VARIATION_WEIGHT, ToldDreams, VariationTerm, image_means

from dreamforge.config import SynthesisConfig
from recover.features import features_of
from shared.errors import ConfigError
from shared.evaldata import EvalData
from shared.images import to_pixels
from shared.progress import ignore_progress
from shared.seeding import generator
from shared.teacher import Teacher

NUM = 16


@pytest.fixture
def config(tiny_teacher: Teacher) -> SynthesisConfig:
    config = SynthesisConfig(num_images=NUM, steps=40, compile="off", precision="float32")
    return config.resolve(tiny_teacher.spec.image_shape)


@pytest.fixture
def data(tiny_teacher: Teacher) -> EvalData:
    spec = tiny_teacher.spec
    draws = generator(0, "real")
    images = torch.randint(0, 256, (40, *spec.image_shape), generator=draws).to(torch.uint8)
    return EvalData(images=images, labels=torch.arange(40) % spec.num_classes)


def means(teacher: Teacher, images: Tensor) -> dict[tuple[str, int], Tensor]:
    with torch.no_grad(), features_of(teacher.network) as features:
        teacher.network(teacher.normalize(to_pixels(images)))
    return {key: image_means(value) for key, value in features.items()}


def test_the_variation_of_the_same_images_is_no_distance_and_double_a_known_one() -> None:
    values = torch.randn(5000, 3, generator=generator(0, "values"))
    key = ("layer", 0)
    term = VariationTerm({key: values})

    # Doubled about the mean, the covariance (ridge included) is four times as large.
    doubled = 2 * values - values.mean(0)
    expected = VARIATION_WEIGHT * 0.5 * (4 - 1 - torch.tensor(4.0).log())

    assert float(term({key: values})) == pytest.approx(0, abs=1e-4)
    assert float(term({key: doubled})) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("kind", ["nothing", "start", "features", "variation"])
def test_every_kind_makes_dreams_that_are_the_same_again(
    tiny_teacher: Teacher, config: SynthesisConfig, data: EvalData, kind: str
) -> None:
    config = dataclasses.replace(config, steps=2)
    first, again = (
        ToldDreams(kind, tiny_teacher, config, data, "").images(0, 0, NUM, ignore_progress)
        for _ in range(2)
    )

    assert first.shape == (NUM, *tiny_teacher.spec.image_shape)
    assert first.dtype == torch.uint8
    assert torch.equal(first, again)


def test_dreams_that_start_from_real_images_stay_near_them(
    tiny_teacher: Teacher, config: SynthesisConfig, data: EvalData
) -> None:
    config = dataclasses.replace(config, steps=1, jitter=0, flip=False)
    told, untold = (
        ToldDreams(kind, tiny_teacher, config, data, "").images(0, 0, NUM, ignore_progress)
        for kind in ("start", "nothing")
    )

    def nearest(images: Tensor) -> float:
        distances = torch.cdist(images.float().flatten(1), data.images.float().flatten(1))
        return float(distances.amin(1).mean())

    assert nearest(told) < 0.5 * nearest(untold)


def test_dreams_that_were_told_the_variation_have_more_of_it(
    tiny_teacher: Teacher, config: SynthesisConfig, data: EvalData
) -> None:
    told, untold = (
        ToldDreams(kind, tiny_teacher, config, data, "").images(0, 0, NUM, ignore_progress)
        for kind in ("variation", "nothing")
    )
    term = VariationTerm(means(tiny_teacher, data.images))

    assert float(term(means(tiny_teacher, told))) < 0.8 * float(term(means(tiny_teacher, untold)))


def test_a_layer_that_is_not_there_is_refused(
    tiny_teacher: Teacher, config: SynthesisConfig, data: EvalData
) -> None:
    with pytest.raises(ConfigError, match="--at: found 'nowhere'"):
        ToldDreams("variation", tiny_teacher, config, data, "nowhere")
