"""Train any architecture of the catalog on a folder of images: how the project gets teachers.

    python benchmarks/train_teacher.py --data DIR --arch resnet18 --out teacher.safetensors

DIR holds train/ and test/, each with a folder per class. SGD with Nesterov momentum, a one-cycle
learning rate, random flips and shifts on the device; the accuracy reported is the last epoch's.
"""

import argparse
import math
import time
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared.architectures import build_network, find_candidate
from shared.augment import random_flip, random_shift
from shared.checkpoint import load_checkpoint, save_network
from shared.device import autocast, compute_dtype, describe_device, resolve_device
from shared.evaldata import EvalData, list_classes, read_image_folder
from shared.images import to_pixels
from shared.metrics import accuracy, predict
from shared.seeding import derive_seed, generator
from shared.spec import TeacherSpec
from shared.teacher import fingerprint


def parse_arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="file.safetensors")
    parser.add_argument("--arch", default="resnet20", help="as in dreamforge synth --arch")
    parser.add_argument("--image-size", type=int, help="pixels; default: the architecture's usual")
    parser.add_argument("--grayscale", action="store_true", help="one channel instead of three")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.2, help="peak of the cycle")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--shift", type=int, default=None, help="pixels; default: size / 8")
    parser.add_argument("--no-flip", action="store_true", help="where left and right matter")
    parser.add_argument("--init", type=Path, help="checkpoint to start from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--note", default="", help="source and licence of the data, recorded")
    return parser.parse_args()


def make_network(options: argparse.Namespace, num_classes: int, channels: int) -> nn.Module:
    """Return the network with seeded He initialisation, or with the tensors of ``--init``."""
    network = build_network(options.arch, num_classes=num_classes, in_channels=channels)
    draws = generator(options.seed, "initialisation")
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=draws)
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=draws)
    if options.init is not None:
        own = network.state_dict()
        found = load_checkpoint(options.init).tensors
        fitting = {k: v for k, v in found.items() if k in own and v.shape == own[k].shape}
        network.load_state_dict(fitting, strict=False)
        print(f"{options.init}: took {len(fitting)} of {len(own)} tensors")
    return network


def augment(
    images: Tensor, options: argparse.Namespace, size: int, draws: torch.Generator
) -> Tensor:
    """Return the images flipped and shifted, each by its own draw."""
    if not options.no_flip:
        images = random_flip(images, draws)
    shift = size // 8 if options.shift is None else options.shift
    return random_shift(images, shift, draws) if shift else images


def train(
    network: nn.Module,
    data: dict[str, EvalData],
    spec: TeacherSpec,
    device: torch.device,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Train in place, print a line per epoch, and return the last epoch's accuracies."""
    images, labels = (tensor.to(device) for tensor in (data["train"].images, data["train"].labels))
    mean = torch.tensor(spec.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(spec.std, device=device).view(1, -1, 1, 1)
    dtype = compute_dtype(device, options.precision)
    batch_size = min(options.batch_size, len(labels))
    num_batches = len(labels) // batch_size
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=options.lr,
        momentum=0.9,
        nesterov=True,
        weight_decay=options.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=options.epochs * num_batches, cycle_momentum=False
    )
    torch.default_generator.manual_seed(derive_seed(options.seed, "dropout"))
    started = time.perf_counter()
    accuracies: dict[str, float] = {}
    for epoch in range(options.epochs):
        network.train()
        draws = generator(options.seed, "epoch", epoch)
        order = torch.randperm(len(labels), generator=draws)[: num_batches * batch_size].to(device)
        hits = torch.zeros((), device=device)
        for rows in order.split(batch_size):
            batch = augment(images[rows], options, spec.image_shape[1], draws)
            inputs = (to_pixels(batch) - mean) / std
            with autocast(device, dtype):
                logits = network(inputs.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            hits += (logits.detach().argmax(1) == labels[rows]).sum()
        test = data["test"]
        answers = predict(network, test.images, spec, device)
        accuracies = {
            "train": float(hits) / (num_batches * batch_size),
            "test": accuracy(answers, test.labels),
        }
        print(
            f"epoch {epoch + 1:3d}/{options.epochs}  train {accuracies['train']:.4f} (augmented)  "
            f"test {accuracies['test']:.4f}  {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    return accuracies


def make_spec(options: argparse.Namespace, names: list[str], images: Tensor) -> TeacherSpec:
    """Return the spec; mean and std are those of the training images."""
    pixels = to_pixels(images[:: max(1, len(images) // 10_000)])
    return TeacherSpec(
        architecture=options.arch,
        num_classes=len(names),
        image_shape=tuple(images.shape[1:]),
        mean=tuple(round(float(value), 4) for value in pixels.mean((0, 2, 3))),
        std=tuple(round(float(value), 4) for value in pixels.std((0, 2, 3))),
        class_names=tuple(names),
        fingerprint="0" * 64,  # not known before training
    )


def main() -> None:
    """Read the images, train, save."""
    options = parse_arguments()
    device = resolve_device(options.device)
    size = options.image_size or find_candidate(options.arch).usual().size[0]
    shape = (1 if options.grayscale else 3, size, size)
    names = list_classes(options.data / "train")
    labels = {name: label for label, name in enumerate(names)}
    data = {
        split: read_image_folder(options.data / split, labels, shape) for split in ("train", "test")
    }
    spec = make_spec(options, names, data["train"].images)
    network = make_network(options, len(names), shape[0])
    network.to(device, memory_format=torch.channels_last)
    accuracies = train(network, data, spec, device, options)
    network.cpu().to(memory_format=torch.contiguous_format)
    arguments = {
        name: value for name, value in vars(options).items() if isinstance(value, (int, float, str))
    }
    provenance = {
        "data": options.note or options.data.name,
        "num_images": {split: len(part.labels) for split, part in data.items()},
        "accuracy": accuracies,
        "training": arguments,
        "device": describe_device(device),
        "versions": {name: version(name) for name in ("torch", "torchvision")},
    }
    metadata = spec.to_json() | {"fingerprint": fingerprint(network), "provenance": provenance}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_network(options.out, network, metadata)
    print(f"{options.out}: test accuracy {accuracies['test']:.4f}")


if __name__ == "__main__":
    main()
