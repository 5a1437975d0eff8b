"""``torch.compile`` where it pays: one entry, so that its pitfalls are met in one place.

Compiled code is faster because what lies between two convolutions becomes one pass over memory.
It costs about a minute to make, which short runs do not earn back.
"""

import importlib.util
import logging
import os
import shutil
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from shared.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")


# How many BatchNorm inputs (values, over a whole run) pay for compiling one layer, with a margin
# of two. Measured on a CPU of 2 cores (benchmarks/bench_synthesis.py); on other devices guessed
# from their memory's rate, since the gain is memory traffic saved.
VALUES_PER_LAYER = {"cpu": 2e9}
VALUES_PER_LAYER_ELSEWHERE = 1e12


def is_worth_compiling(device: torch.device, num_layers: int, num_values: float) -> bool:
    """Return whether a run over ``num_values`` activations earns the compiling back.

    The answer decides the last bits of a result, so it depends on nothing that could differ
    between two processes of one run: not on clocks, caches or what else the machine is doing.
    """
    least = VALUES_PER_LAYER.get(device.type, VALUES_PER_LAYER_ELSEWHERE)
    return num_values > least * num_layers and not why_not(device)


def why_not(device: torch.device) -> str:
    """Return what compiling for ``device`` lacks; empty if nothing."""
    if device.type == "cpu":
        compiler = os.environ.get("CXX", "g++")
        return "" if shutil.which(compiler) else f"no C++ compiler ({compiler})"
    return "" if importlib.util.find_spec("triton") else "no triton"


def decide(choice: str, device: torch.device, num_layers: int, num_values: float) -> bool:
    """Return whether to compile, from ``--compile`` and the size of the run.

    Raises:
        ConfigError: If it must be and cannot be.
    """
    if choice == "auto":
        return is_worth_compiling(device, num_layers, num_values)
    if choice == "on" and (reason := why_not(device)):
        raise ConfigError(f"--compile on: found {reason}; install it or use --compile off")
    return choice == "on"


def compile_function(function: Callable[P, T]) -> Callable[P, T]:
    """Return ``function`` compiled for the shapes of its first call; the result is reproducible.

    A call with other shapes compiles again: give odd ones to the function itself.
    """
    # Here, since importing them takes as long as importing torch.
    import torch._dynamo
    import torch._inductor.config

    # It warns of a CUDA toolkit without a GPU, which concerns nobody here.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    # Beyond the limit it would silently run uncompiled, with other last bits.
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    options: dict[str, Any] = {}
    if hasattr(torch._inductor.config, "deterministic"):  # 2.10: no choices by stop-watch
        options["deterministic"] = True
    return torch.compile(function, fullgraph=True, dynamic=False, options=options)


def compiler_errors() -> tuple[type[Exception], ...]:
    """Return what the first call of a compiled function raises if it cannot be compiled."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    return TorchDynamoException, InductorError
