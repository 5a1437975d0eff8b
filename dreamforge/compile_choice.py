"""Whether a run's network is compiled: decided once, from the run alone, and recorded with it."""

import dataclasses

import torch
from torch import Tensor

from dreamforge.config import SynthesisConfig
from dreamforge.methods import PIXEL_METHODS
from dreamforge.plan import batch_sizes
from shared.compiling import decide
from shared.hooks import on_input
from shared.teacher import Teacher, batch_norms


def settle_compile(
    teacher: Teacher, config: SynthesisConfig, device: torch.device
) -> SynthesisConfig:
    """Return the resolved config with ``compile`` on or off, where its method has a choice.

    Compiled code rounds otherwise, so all processes of a run must agree: the answer depends on
    the teacher, the config and the kind of device, and on whether that can compile at all.

    Raises:
        ConfigError: If it is on and the machine has no compiler.
    """
    if config.method not in PIXEL_METHODS:
        return config
    num_layers, num_values = batch_norm_values(teacher)
    image_steps = config.num_images * (config.steps or 1)
    num_layers *= len(batch_sizes(config))  # each is compiled for itself
    compile_it = decide(config.compile, device, num_layers, num_values * image_steps)
    return dataclasses.replace(config, compile="on" if compile_it else "off")


def batch_norm_values(teacher: Teacher) -> tuple[int, int]:
    """Return how many BatchNorm layers one image goes through, and how many values they see."""
    num_values: list[int] = []

    def count(given: Tensor) -> None:
        num_values.append(given.numel())

    handles = [on_input(norm, count) for norm in batch_norms(teacher.network).values()]
    try:
        teacher.logits(torch.zeros(1, *teacher.spec.image_shape, dtype=torch.uint8))
    finally:
        for handle in handles:
            handle.remove()
    return len(num_values), sum(num_values)
