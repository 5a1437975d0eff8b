"""What bfloat16 is worth on this device, and what ``--precision auto`` takes.

    OMP_NUM_THREADS=1 python benchmarks/bench_precision.py

Milliseconds of a forward and a backward pass in float32 and in bfloat16, channels-last, fastest of
several, with gradients of the inputs alone (inversion) and of all (training). Prints one Markdown
table.
"""

import argparse
import platform
from collections.abc import Sequence

import torch
from bench_depthwise import milliseconds, passes
from summary import markdown

from shared.architectures import build_network
from shared.device import PRECISIONS, compute_dtype, describe_device, resolve_device
from shared.seeding import generator

NETWORKS = {  # side of the images, images
    "resnet20": (32, 128),
    "cifar_resnet18": (32, 32),
    "cifar_vgg11_bn": (32, 64),
    "cifar_mobilenet_v2": (32, 16),
    "resnet50": (224, 2),
}


def main(words: Sequence[str] | None = None) -> int:
    """Read the flags and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS), help="which of them")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="batches larger by this factor")
    chosen = parser.parse_args(words)
    device = resolve_device(chosen.device)
    rows = []
    for name in chosen.networks.split(","):
        side, num_images = NETWORKS[name]
        network = build_network(name, num_classes=10).to(device, memory_format=torch.channels_last)
        batch = max(2, round(chosen.scale * num_images))
        inputs = torch.randn(batch, 3, side, side, generator=generator(0, "precision"))
        inputs = inputs.to(device, memory_format=torch.channels_last)
        for train in (False, True):
            single, half = (
                milliseconds(
                    passes(network, inputs, train=train, dtype=dtype), device, chosen.repetitions
                )
                for dtype in PRECISIONS.values()
            )
            times = [f"{single:.1f}", f"{half:.1f}", f"{single / half:.2f} x"]
            what = f"{name}, {batch} of {side} px"
            rows.append([what, "all" if train else "inputs", *times])
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    taken = str(compute_dtype(device, "auto")).removeprefix("torch.")
    print(f"{describe_device(device)}; {versions}; `--precision auto` is {taken} here\n")
    print(markdown(["", "gradients of", *(f"{name}, ms" for name in PRECISIONS), "faster"], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
