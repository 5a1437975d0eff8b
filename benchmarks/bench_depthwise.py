"""What strided depthwise convolutions cost, as they are and computed densely.

    OMP_NUM_THREADS=1 python benchmarks/bench_depthwise.py

Milliseconds of a forward and a backward pass in bfloat16, channels-last, fastest of several: of the
three strided layers of a CIFAR-sized MobileNetV2, then of whole networks, with gradients of the
inputs alone (inversion) and of all (training). Prints one Markdown table.
"""

import argparse
import copy
import platform
import time
from collections.abc import Callable

import torch
from summary import markdown
from torch import Tensor, nn

from shared.architectures import build_network
from shared.depthwise import unstride
from shared.device import autocast, describe_device, resolve_device, synchronize
from shared.seeding import generator

LAYERS = ((144, 32), (192, 16), (576, 8))  # channels and side of the inputs
NETWORKS = (("cifar_mobilenet_v2", 32), ("shufflenet_v2_x1_0", 64))


def milliseconds(compute: Callable[[], object], device: torch.device, repetitions: int) -> float:
    """Return the time of the fastest call, after a first one that does not count."""
    times = []
    for _ in range(1 + repetitions):
        synchronize(device)
        started = time.perf_counter()
        compute()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return 1000 * min(times[1:])


def passes(
    network: nn.Module, inputs: Tensor, *, train: bool, dtype: torch.dtype = torch.bfloat16
) -> Callable[[], object]:
    """Return a function that runs ``network`` forward and backward."""
    network = network.train(train).requires_grad_(train)
    leaf = inputs.clone().requires_grad_()
    wanted = (leaf, *network.parameters()) if train else (leaf,)

    def compute() -> object:
        with autocast(inputs.device, dtype):
            loss = network(leaf).float().square().mean()
        return torch.autograd.grad(loss, wanted)

    return compute


def main() -> None:
    """Read the flags and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    chosen = parser.parse_args()
    device = resolve_device(chosen.device)
    cases: list[tuple[str, nn.Module, int, int]] = [
        (
            f"{width} channels of {side} px",
            nn.Conv2d(width, width, 3, 2, 1, groups=width),
            width,
            side,
        )
        for width, side in LAYERS
    ]
    cases += [(name, build_network(name, num_classes=10), 3, side) for name, side in NETWORKS]
    rows = []
    for name, network, channels, side in cases:
        strided = network.to(device, memory_format=torch.channels_last)
        dense = copy.deepcopy(strided)
        unstride(dense, device)
        draws = generator(0, "depthwise")
        inputs = torch.randn(chosen.batch_size, channels, side, side, generator=draws)
        inputs = inputs.to(device, memory_format=torch.channels_last)
        for train in (False, True):
            before, after = (
                milliseconds(passes(each, inputs, train=train), device, chosen.repetitions)
                for each in (strided, dense)
            )
            times = [f"{before:.1f}", f"{after:.1f}", f"{before / after:.1f} x"]
            rows.append([name, "all" if train else "inputs", *times])
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{describe_device(device)}; {versions}\n")
    print(markdown(["", "gradients of", "strided, ms", "dense, ms", "faster"], rows))


if __name__ == "__main__":
    main()
