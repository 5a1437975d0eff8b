"""What a pruned network costs to store and to run, next to the dense one: measured, not promised.

One multiply-add (MAC) is two floating-point operations.
"""

import copy
import gzip
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from recover.importance import prunable_weights
from recover.multiply_adds import count_macs
from shared.checkpoint import to_safetensors
from shared.device import describe_device, synchronize

NOTE = (
    "Unstructured zeros do not speed PyTorch up: its kernels multiply by them like by any other "
    "number. They save storage once the file is compressed or packed, and multiply-adds only on "
    "hardware or in a runtime made for sparse weights."
)
FLOAT32_NUM_BYTES = 4
GZIP_LEVEL = 6  # of the gzip program, too
NUM_TIMED_RUNS = 21
SECONDS_OF_TIMING = 1.0
LEAST_TIMED_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a student costs, next to the dense network of its architecture and to its teacher.

    Attributes:
        num_bytes_dense: Parameters and statistics as float32.
        num_bytes_packed: The same with every prunable weight as a bitmask of its zeros and its
            other values; not worth it below a sparsity of 1/32.
        num_bytes_gzip: The tensors as safetensors, without metadata, through ``gzip -6``.
        macs_dense: Multiply-adds by weights for one image, zeros included; see
            :mod:`recover.multiply_adds`.
        macs_sparse: Those of them whose weight is not zero.
        seconds_teacher: One image through the teacher: median of the runs.
        seconds_student: One image through the student, likewise, in turns with the other.
        num_runs: How many runs each median is of.
        num_threads: PyTorch's, on the CPU.
        device: That was measured on.
        note: What zeros are good for.
        num_weights_teacher: Prunable weights of the teacher. This and the next two differ from the
            student's own where it has another architecture; None in reports of earlier versions.
        num_bytes_teacher: The teacher's parameters and statistics as float32.
        macs_teacher: The teacher's multiply-adds for one image.
    """

    num_bytes_dense: int
    num_bytes_packed: int
    num_bytes_gzip: int
    macs_dense: int
    macs_sparse: int
    seconds_teacher: float
    seconds_student: float
    num_runs: int
    num_threads: int
    device: str
    note: str = NOTE
    num_weights_teacher: int | None = None
    num_bytes_teacher: int | None = None
    macs_teacher: int | None = None


def measure_costs(student: nn.Module, teacher: nn.Module, image_shape: tuple[int, ...]) -> Costs:
    """Return what ``student`` costs beside the dense ``teacher``; both stay as they are.

    Args:
        student: On any device, with zeros in it.
        teacher: On the same device.
        image_shape: ``(C, H, W)`` of one image.
    """
    device = next(student.parameters()).device
    image = torch.zeros(1, *image_shape, device=device)
    dense, left = count_macs(student, image)
    latency = measure_latency({"teacher": teacher, "student": student}, image)
    return Costs(
        num_bytes_dense=num_bytes_dense(student),
        num_bytes_packed=num_bytes_packed(student),
        num_bytes_gzip=num_bytes_gzip(student),
        macs_dense=dense,
        macs_sparse=left,
        seconds_teacher=statistics.median(latency["teacher"]),
        seconds_student=statistics.median(latency["student"]),
        num_runs=len(latency["student"]),
        num_threads=torch.get_num_threads(),
        device=describe_device(device),
        num_weights_teacher=sum(weight.numel() for weight in prunable_weights(teacher).values()),
        num_bytes_teacher=num_bytes_dense(teacher),
        macs_teacher=count_macs(teacher, image)[0],
    )


def num_bytes_dense(network: nn.Module) -> int:
    """Return the bytes of all parameters and floating-point buffers as float32; tied ones once."""
    return FLOAT32_NUM_BYTES * sum(tensor.numel() for tensor in _stored(network))


def num_bytes_packed(network: nn.Module) -> int:
    """Return the bytes with each prunable weight as one bit per entry and its nonzero values."""
    weights = prunable_weights(network).values()
    mask_bytes = sum(math.ceil(weight.numel() / 8) for weight in weights)
    num_zeros = sum(weight.numel() - int(weight.detach().count_nonzero()) for weight in weights)
    return num_bytes_dense(network) - FLOAT32_NUM_BYTES * num_zeros + mask_bytes


def num_bytes_gzip(network: nn.Module) -> int:
    """Return the bytes of a safetensors file of the network, compressed as ``gzip`` does.

    Without metadata, which has the same size at every sparsity.
    """
    return len(gzip.compress(to_safetensors(network, {}), GZIP_LEVEL, mtime=0))


def measure_latency(networks: Mapping[str, nn.Module], image: Tensor) -> dict[str, list[float]]:
    """Return the seconds of some forward passes of each network, in turns, batch of one.

    Taking turns spreads whatever else the machine does over all of them. Copies in the default
    memory format are measured, so that what a network was used for before makes no difference.

    Args:
        networks: By name, on the image's device.
        image: ``(1, C, H, W)``.
    """
    copies = {name: _plain_copy(network) for name, network in networks.items()}
    return time_in_turns(
        {name: partial(_seconds_of_a_pass, network, image) for name, network in copies.items()}
    )


def time_in_turns(runs: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Return what some calls of each of ``runs`` return: the seconds that it took, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():  # the first pass chooses kernels and takes memory
        run()
    started = time.perf_counter()
    for number in range(NUM_TIMED_RUNS):
        if number >= LEAST_TIMED_RUNS and time.perf_counter() - started > SECONDS_OF_TIMING:
            break
        for name, run in runs.items():
            seconds[name].append(run())
    return seconds


def _plain_copy(network: nn.Module) -> nn.Module:
    copied: nn.Module = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    return copied.eval().requires_grad_(False)


def _seconds_of_a_pass(network: nn.Module, image: Tensor) -> float:
    synchronize(image.device)
    started = time.perf_counter()
    with torch.no_grad():
        network(image)
    synchronize(image.device)
    return time.perf_counter() - started


def _stored(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from (buffer for buffer in network.buffers() if buffer.is_floating_point())
