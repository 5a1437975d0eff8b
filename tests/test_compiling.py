import dataclasses

import pytest
import torch
from torch import nn

import shared.compiling as compiling
from dreamforge.compile_choice import batch_norm_values, settle_compile
from dreamforge.config import SynthesisConfig
from dreamforge.engine import Engine
from dreamforge.forge import synthesize
from dreamforge.inversion_loss import InversionLoss
from shared.compiling import decide, is_worth_compiling, why_not
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.spec import TeacherSpec
from shared.teacher import Teacher, fingerprint

CPU = torch.device("cpu")
NUM_CLASSES = 4
SHAPE = (3, 8, 8)
needs_compiler = pytest.mark.skipif(bool(why_not(CPU)), reason="no C++ compiler")


@pytest.fixture(scope="module")
def small_teacher():
    """One convolution, since every layer takes seconds to compile."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, NUM_CLASSES),
        )
    network.eval().requires_grad_(False)
    spec = TeacherSpec(
        architecture="small",
        num_classes=NUM_CLASSES,
        image_shape=SHAPE,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        fingerprint=fingerprint(network),
    )
    return Teacher(network=network, spec=spec)


def test_a_run_is_compiled_from_some_size_on(monkeypatch):
    monkeypatch.setattr(compiling, "why_not", lambda device: "")
    least = compiling.VALUES_PER_LAYER["cpu"]

    assert not is_worth_compiling(CPU, 20, 20 * least)
    assert is_worth_compiling(CPU, 20, 20 * least + 1)


def test_no_compiler_means_no_compiling_unless_it_must_be(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")

    assert not decide("auto", CPU, 1, 1e30)
    assert not decide("off", CPU, 1, 1e30)
    with pytest.raises(ConfigError, match=r"--compile on: found no C\+\+ compiler"):
        decide("on", CPU, 1, 1e30)


def test_batch_norm_inputs_are_counted_per_image(tiny_teacher):
    num_layers, num_values = batch_norm_values(tiny_teacher)

    # ResNet-8 on 8x8: three convolutions of 16 channels, two of 32 at 4x4, two of 64 at 2x2.
    assert (num_layers, num_values) == (7, 3 * 16 * 64 + 2 * 32 * 16 + 2 * 64 * 4)


def test_short_runs_are_not_compiled_and_the_generator_has_no_choice(tiny_teacher, tiny_config):
    config = tiny_config.resolve(SHAPE)

    assert settle_compile(tiny_teacher, config, CPU).compile == "off"
    generator = SynthesisConfig(num_images=24, batch_size=8, method="generator").resolve(SHAPE)
    assert settle_compile(tiny_teacher, generator, CPU) == generator


@needs_compiler
def test_a_long_run_is_compiled_whatever_the_process(tiny_teacher, tiny_config):
    config = dataclasses.replace(tiny_config, num_images=10**9).resolve(SHAPE)

    assert settle_compile(tiny_teacher, config, CPU).compile == "on"


@needs_compiler
def test_compiled_loss_and_gradient_are_those_of_the_plain_loop(small_teacher, tiny_config):
    config = tiny_config.resolve(SHAPE)
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(8, 3, 8, 8, generator=draws)
    targets = torch.arange(8) % 4
    results = []
    for compiled in (False, True):
        inputs = images.clone().requires_grad_()
        loss_of = InversionLoss(
            small_teacher.network, config, CPU, torch.float32, compiled=compiled
        )
        with loss_of:
            loss, terms = loss_of(inputs, targets)
            (gradient,) = torch.autograd.grad(loss, inputs)
        results.append((loss.detach(), terms["bn"], terms["class"], gradient))

    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_a_compiled_set_says_so_and_is_the_same_to_the_byte(small_teacher, tiny_config, tmp_path):
    config = dataclasses.replace(tiny_config, num_images=20, compile="on", steps=3)
    # Batches of six and seven: compiled for both.
    for name in ("one", "two"):
        synthesize(small_teacher, config, tmp_path / name / "dreams.h5", CPU)
    shards = [sorted((tmp_path / name).glob("dreams-*.h5")) for name in ("one", "two")]

    assert [path.read_bytes() for path in shards[0]] == [path.read_bytes() for path in shards[1]]
    manifest = DreamSet.open(tmp_path / "one" / "dreams.h5").manifest
    assert manifest.synthesis["compile"] == "on"


def test_what_cannot_be_compiled_is_made_without(tiny_teacher, tiny_config, monkeypatch):
    def refuse(*args):
        raise compiling.compiler_errors()[0]("data-dependent branch\nmore lines")

    monkeypatch.setattr("dreamforge.inversion_loss.compile_function", lambda function: refuse)
    config = dataclasses.replace(tiny_config.resolve(SHAPE), compile="on")
    engine = Engine(tiny_teacher, config, CPU)
    plain = Engine(tiny_teacher, dataclasses.replace(config, compile="off"), CPU)

    assert "data-dependent branch" in engine.prepare()
    made = engine.synthesize(0, 0, 8).dreams
    assert torch.equal(made.images, plain.synthesize(0, 0, 8).dreams.images)
