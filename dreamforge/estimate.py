"""What a run will cost, before it is paid: a few real steps are timed, the rest is arithmetic.

A run is what is paid once (starting, building the engine, warming up or compiling), then steps,
then files. Steps are timed in the run's own engine, which is stopped when enough of them are done.
"""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dreamforge.config import SynthesisConfig, parse_sparsities
from dreamforge.engines import num_rehearsed_batches, rehearsing_engine
from dreamforge.plan import plan_shards
from dreamforge.resume import shard_attributes
from shared.device import compute_dtype, num_bytes_free, peak_num_bytes, synchronize
from shared.dreams import DreamBatch
from shared.files import sha256_of
from shared.seeding import generator
from shared.shards import read_shard, write_shard
from shared.teacher import Teacher

SECONDS_TO_TIME = 5.0  # of steps, after the first ones
NUM_DEVICES = 8  # of the machine that the estimate is also made for
STATE_COPIES = 8  # inputs, gradient, two moments, best, moved, and two in flight; float32
STEPS_AROUND = 0.5  # a batch's noise, targets and answer in float32, in steps


def estimate(
    teacher: Teacher,
    config: SynthesisConfig,
    device: torch.device,
    *,
    embed_teacher: bool = False,
    seconds_to_start: float = 0,
) -> dict[str, Any]:
    """Return disk, memory and hours of a resolved config on ``device``.

    Steps are timed at the run's own batch size where that fits into half of the free memory,
    else at the largest power of two that does; ``timed_batch_size`` says which. Files are timed
    in the temporary folder. Eight devices share whole shards, and each pays again what is paid
    once.

    ``num_bytes_in_memory`` is what a batch keeps alive on the device. What a process takes of the
    host's memory at its most, with Python, PyTorch, the weights and on the CPU the timed batch, is
    measured: ``num_bytes_of_process``.

    Args:
        teacher: What will be inverted.
        config: Resolved.
        device: One of the devices of the run.
        embed_teacher: The teacher's weights go into the index.
        seconds_to_start: What a process takes before it comes here: imports, the teacher.
    """
    per_image = step_num_bytes(teacher, config, device)
    batch_size = config.batch_size or 1
    fitting = max(2, num_bytes_free(device) // (2 * per_image))
    timed = batch_size if batch_size <= fitting else 1 << (fitting.bit_length() - 1)
    probe = dataclasses.replace(config, num_images=timed, batch_size=timed)
    seconds_once, seconds_per_step = _time_steps(teacher, probe, device)
    steps = (config.steps or 1) + STEPS_AROUND
    seconds_per_image = steps * seconds_per_step / timed
    seconds_once += seconds_to_start
    seconds_once += num_rehearsed_batches(config) * batch_size * seconds_per_image
    seconds_per_image += _seconds_to_store(teacher, probe)
    seconds = config.num_images * seconds_per_image
    num_shards = len(plan_shards(config, Path("dreams.h5")))
    most = -(-num_shards // NUM_DEVICES) / num_shards  # of the work, on the busiest device
    row = 2 * teacher.spec.num_classes + 8 + 4 + 4
    num_bytes = config.num_images * (_num_values(teacher) + row)
    if embed_teacher:
        num_bytes += sum(tensor.nbytes for tensor in teacher.network.state_dict().values())
    return {
        "num_bytes_on_disk": num_bytes,
        "num_bytes_in_memory": per_image * batch_size,
        "num_bytes_of_process": peak_num_bytes(torch.device("cpu")),
        "num_bytes_free": num_bytes_free(device),
        "timed_batch_size": timed,
        "image_steps_per_second": timed / seconds_per_step,
        "seconds_once": seconds_once,
        "hours": (seconds_once + seconds) / 3600,
        "hours_on_8_devices": (seconds_once + most * seconds) / 3600,
    }


def step_num_bytes(teacher: Teacher, config: SynthesisConfig, device: torch.device) -> int:
    """Return about how many bytes one image keeps alive during a step, in all networks."""
    dtype = compute_dtype(device, config.precision)
    adaptive = config.method == "adaptive"
    num_networks = 1 + (len(parse_sparsities(config.opponent_sparsity)) if adaptive else 0)
    return num_networks * activation_num_bytes(teacher, dtype)


def activation_num_bytes(teacher: Teacher, dtype: torch.dtype) -> int:
    """Return about how many bytes one image keeps alive during a step of one network.

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


class _EnoughError(Exception):
    """Ends a rehearsal. Steps are only interrupted where they report."""


class _Stopwatch:
    """Notes when which step was done, and ends the rehearsal after enough of them."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, int]] = []

    def __call__(self, step: int, terms: dict[str, float]) -> None:
        self._marks.append((time.perf_counter(), step))
        if self._marks[-1][0] - self._marks[0][0] >= SECONDS_TO_TIME:
            raise _EnoughError

    def read(self) -> tuple[float, float]:
        """Return when the first step would have begun at the later steps' pace, and that pace."""
        (first, step), (last, last_step) = self._marks[0], self._marks[-1]
        pace = (last - first) / (last_step - step)
        return first - step * pace, pace


def _time_steps(
    teacher: Teacher, config: SynthesisConfig, device: torch.device
) -> tuple[float, float]:
    """Return the seconds that are paid once, and those of a step."""
    started = time.perf_counter()
    engine = rehearsing_engine(teacher, config, device)
    watch = _Stopwatch()
    try:
        engine.rehearse(config.num_images, watch)
    except _EnoughError:
        begun, pace = watch.read()
        return max(0.0, begun - started), pace
    synchronize(device)
    first = time.perf_counter() - started
    # Batches too short to be stopped in the middle: whole ones, without the first.
    num_batches, begun = 0, time.perf_counter()
    while num_batches == 0 or time.perf_counter() - begun < SECONDS_TO_TIME / 2:
        engine.rehearse(config.num_images)
        synchronize(device)
        num_batches += 1
    batch = (time.perf_counter() - begun) / num_batches
    return max(0.0, first - batch), max(1e-9, batch / (config.steps or 1))


def _seconds_to_store(teacher: Teacher, config: SynthesisConfig) -> float:
    """Return the seconds per image of writing shards, reading them once more and their sha256."""
    spec, num_images = teacher.spec, config.num_images
    pixels = (num_images, *spec.image_shape)
    noise = torch.randint(0, 256, pixels, generator=generator(0, "estimate"), dtype=torch.uint8)
    dreams = DreamBatch(
        images=noise,
        labels=torch.zeros(num_images, dtype=torch.int64),
        logits=torch.zeros(num_images, spec.num_classes, dtype=torch.float16),
        batch=torch.zeros(num_images, dtype=torch.int32),
        loss=torch.zeros(num_images),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.h5"
        attributes = {**shard_attributes(teacher, config, 1), "shard": 0}
        started = time.perf_counter()
        write_shard(path, dreams, attributes, compression=config.compress)
        read_shard(path)
        sha256_of(path)
        return (time.perf_counter() - started) / num_images
