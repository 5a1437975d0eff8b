"""What a run will cost, before it is paid: a few real steps are timed, the rest is arithmetic."""

import dataclasses
import time
from typing import Any

import torch
from torch import Tensor, nn

from dreamforge.config import SynthesisConfig
from dreamforge.engine import Engine
from shared.device import compute_dtype, num_bytes_free, synchronize
from shared.teacher import Teacher

NUM_TIMED_STEPS = 3
STATE_COPIES = 8  # inputs, gradient, two moments, best, moved, and two in flight; float32


def estimate(teacher: Teacher, config: SynthesisConfig, device: torch.device) -> dict[str, Any]:
    """Return disk, memory and hours of a resolved config on ``device``.

    Steps are timed at the run's own batch size where that fits into half of the free memory,
    else at the largest power of two that does; ``timed_batch_size`` says which.
    """
    per_image = activation_num_bytes(teacher, compute_dtype(device, config.precision))
    batch_size = config.batch_size or 1
    fitting = max(2, num_bytes_free(device) // (2 * per_image))
    timed = batch_size if batch_size <= fitting else 1 << (fitting.bit_length() - 1)
    probe = dataclasses.replace(config, num_images=timed, batch_size=timed)
    seconds_per_step = _time_steps(teacher, probe, device)
    image_steps = config.num_images * (config.steps or 1)
    seconds = image_steps * seconds_per_step / timed
    row = 2 * teacher.spec.num_classes + 8 + 4 + 4
    num_bytes = config.num_images * (_num_values(teacher) + row)
    return {
        "num_bytes_on_disk": num_bytes,
        "num_bytes_in_memory": per_image * batch_size,
        "num_bytes_free": num_bytes_free(device),
        "timed_batch_size": timed,
        "image_steps_per_second": timed / seconds_per_step,
        "hours": seconds / 3600,
        "hours_on_8_devices": seconds / 3600 / 8,
    }


def activation_num_bytes(teacher: Teacher, dtype: torch.dtype) -> int:
    """Return about how many bytes one image keeps alive during a step.

    Every leaf module's output in the compute dtype, counted in a forward pass of two images,
    plus the optimiser's copies of the image in float32.
    """
    num_values = 0

    def count(module: nn.Module, inputs: Any, outputs: Any) -> None:
        nonlocal num_values
        if isinstance(outputs, Tensor):
            num_values += outputs.numel()

    leaves = [m for m in teacher.network.modules() if not any(m.children())]
    handles = [leaf.register_forward_hook(count) for leaf in leaves]
    try:
        teacher.logits(torch.zeros(2, *teacher.spec.image_shape, dtype=torch.uint8))
    finally:
        for handle in handles:
            handle.remove()
    activations = num_values // 2 * dtype.itemsize
    return activations + STATE_COPIES * _num_values(teacher) * torch.float32.itemsize


def _num_values(teacher: Teacher) -> int:
    channels, height, width = teacher.spec.image_shape
    return channels * height * width


def _time_steps(teacher: Teacher, config: SynthesisConfig, device: torch.device) -> float:
    """Return seconds per step, after one step to warm up."""
    seconds = []
    for steps in (1, NUM_TIMED_STEPS):
        engine = Engine(teacher, dataclasses.replace(config, steps=steps), device)
        synchronize(device)
        started = time.perf_counter()
        engine.rehearse(config.num_images)
        synchronize(device)
        seconds.append((time.perf_counter() - started) / steps)
    return max(1e-9, seconds[-1])
