"""The one place that knows which device there is and what it can do.

Everything else takes a ``torch.device`` and a compute ``torch.dtype`` and runs the same lines on
CUDA and on the CPU.
"""

import ctypes
import os
import platform
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import torch

from shared.errors import ConfigError
from shared.process_wide import ProcessWide

MALLOPT_TRIM_THRESHOLD, MALLOPT_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT_BLOCK_BYTES, KEPT_TOTAL_BYTES = 2**30, 2**31 - 1
KINDS = ("cpu", "cuda")
_DETERMINISTIC = ProcessWide(
    lambda: torch.backends.cudnn.deterministic,
    lambda value: setattr(torch.backends.cudnn, "deterministic", value),
    needed=True,
)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_device(name: str, local_rank: int | None = None) -> torch.device:
    """Return the device called ``name``: ``auto`` (CUDA where there is one), ``cpu``, ``cuda:1``.

    Processes that a launcher started on one machine take its CUDA devices in turn, by
    ``local_rank``, unless ``name`` picks one.

    Raises:
        ConfigError: If the name is no device, or no such device is present.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank is not None and torch.cuda.device_count():
        name = f"cuda:{local_rank % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"--device {name}: not a device; use auto, cpu, cuda or cuda:N"
        ) from error
    if device.type not in KINDS:
        raise ConfigError(f"--device {name}: only cpu and cuda are supported")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(f"--device {name}: {found} CUDA devices are visible; use --device cpu")
    if device.type == "cpu":
        _keep_freed_memory()
    return device


def devices_of(gpus: str, name: str) -> list[str]:
    """Return the devices, by name, of the processes that ``--gpus`` asks for, one each.

    Args:
        gpus: ``all``, how many, or which (``0,1,3``). Without CUDA only a number: processes that
            share the CPU.
        name: ``--device``'s value; a device with a number in it leaves nothing to choose.

    Raises:
        ConfigError: If the text is none of these, or there are fewer devices.
    """
    words = gpus.strip().split(",")
    if ":" in name or not (gpus == "all" or all(word.strip().isdecimal() for word in words)):
        raise ConfigError(
            f"--gpus {gpus} --device {name}: expected --gpus all, a number, or a list such as "
            "0,1,3, and --device auto, cuda or cpu"
        )
    kind, found = resolve_device(name).type, torch.cuda.device_count()
    count = int(words[0]) if len(words) == 1 and gpus != "all" else None
    if kind == "cpu" and count:
        return ["cpu"] * count
    if kind == "cpu":
        raise ConfigError(
            f"--gpus {gpus}: no CUDA device is in use; on the CPU give a number of processes"
        )
    chosen = range(count or found) if len(words) == 1 else [int(word) for word in words]
    if count == 0 or max(chosen) >= found or len(set(chosen)) < len(chosen):
        raise ConfigError(
            f"--gpus {gpus}: {found} CUDA devices are visible; expected so many at most, each once"
        )
    return [f"cuda:{index}" for index in chosen]


def compute_dtype(device: torch.device, precision: str) -> torch.dtype:
    """Return the dtype for convolutions: ``auto`` is bfloat16 where the device is fast in it.

    On a CPU that takes matrix units (AMX). AVX-512 has instructions for bfloat16 as well, but on an
    Intel CPU whose AMX was hidden they were slower than float32 in every network that was tried
    (``benchmarks/bench_precision.py``).
    """
    if precision != "auto":
        return PRECISIONS[precision]
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        # Private, but the only question of its kind, and missing it costs speed alone.
        fast = bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())
    return torch.bfloat16 if fast else torch.float32


def is_slow_in_strides(device: torch.device) -> bool:
    """Return whether depthwise convolutions are slower with a stride than without.

    Their gradients on the CPU: 2 to 11 times (torch 2.15; ``benchmarks/bench_depthwise.py``).
    """
    return device.type == "cpu"


@contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Run the block in mixed precision; float32 leaves everything as it is."""
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        yield


@contextmanager
def usual_devices() -> Iterator[None]:
    """Run the block as if nobody had begun an autocast or chosen a default device around it."""
    with ExitStack() as stack:
        if _is_in_autocast():
            # What autocast has cast it keeps until the outermost block ends, which is not ours:
            # every step of ours would compute with the weights of the first.
            for kind in KINDS:
                stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        # Where it is the CPU anyway, to say so would slow down every call of PyTorch.
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def reproducible_convolutions() -> AbstractContextManager[None]:
    """Use only kernels that give the same bits each time; of weight gradients, not all do."""
    return _DETERMINISTIC.held()


def collective_backend(device: torch.device, num_processes: int) -> str:
    """Return what joins the processes of one machine: NCCL, if each has a GPU of its own.

    Args:
        device: Of this process.
        num_processes: On this machine.
    """
    own = device.type == "cuda" and num_processes <= torch.cuda.device_count()
    return "nccl" if own else "gloo"


def synchronize(device: torch.device) -> None:
    """Wait for queued work, so that a clock read next means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a CPU tensor to ``device`` without waiting for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def describe_device(device: torch.device) -> str:
    """Return the device's name as provenance wants it: model and number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_model()} ({torch.get_num_threads()} threads)"


def num_bytes_free(device: torch.device) -> int:
    """Return how much memory is free on the device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    # Linux calls memory that caches files "available", not "free"; it can be had at once.
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def reset_peak_memory(device: torch.device) -> None:
    """Start a new measurement for :func:`peak_num_bytes` (CUDA; the CPU only counts up)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_num_bytes(device: torch.device) -> int:
    """Return the largest memory use so far: of the allocator on CUDA, of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on every platform that has a CPU

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _is_in_autocast() -> bool:
    """Return whether a block of autocast is around this one, be it one that switches it off."""
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return depth > 1


def _keep_freed_memory() -> None:
    """Let the C library keep large blocks for the next step instead of returning them.

    Every step allocates and frees activations of many MiB. glibc maps and unmaps each of them, and
    the kernel clears their pages anew: about a tenth of a step. Other libraries stay as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(MALLOPT_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
    libc.mallopt(MALLOPT_TRIM_THRESHOLD, KEPT_TOTAL_BYTES)


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
