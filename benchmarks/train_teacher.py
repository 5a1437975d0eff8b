"""Train any architecture of the catalog on a folder of images: how the project gets teachers.

    python benchmarks/train_teacher.py --data DIR --arch resnet18 --out teacher.safetensors
    python benchmarks/train_teacher.py --data cifar10:ROOT --arch cifar_vgg19_bn --out v.safetensors

DIR holds train/ and test/, each with a folder per class, or for a network of several findings
train.csv and test.csv (see shared/findings.py); ROOT is torchvision's folder of CIFAR-10. Images
of another size are made to fit. SGD with Nesterov momentum, a one-cycle learning rate, random flips
and shifts on the device; the accuracy reported is the last epoch's.

Interrupted, or killed, the same command goes on from the checkpoint beside --out (.part); on one
thread of a CPU the result has the bits of an undisturbed run.
"""

import argparse
import dataclasses
import hashlib
import math
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from part_file import PartFile, part_path
from runner import command_line, ending_well
from torch import nn
from training import Recipe, Training

from recover.interrupt import interrupts_deferred
from shared.answers import settle_answers
from shared.architectures import build_network, find_candidate
from shared.architectures.renaming import renamed_by_position
from shared.checkpoint import load_checkpoint, save_network
from shared.device import compute_dtype, describe_device, resolve_device
from shared.errors import ConfigError, InterruptedRunError
from shared.evaldata import EvalData, list_classes, read_cifar10, read_image_folder
from shared.files import remove_stale_temporaries
from shared.findings import finding_names, open_findings
from shared.images import to_pixels
from shared.metrics import accuracy, predict
from shared.seeding import derive_seed, generator
from shared.spec import NONE, SIGMOID, SOFTMAX, TeacherSpec
from shared.teacher import fingerprint

# Where the result is, where the data is and what computes: they do not decide the weights.
ELSEWHERE = frozenset({"out", "data", "device", "note", "overwrite"})


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", required=True, metavar="DIR|cifar10:ROOT", help="folder with train/ and test/"
    )
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
    parser.add_argument(
        "--overwrite", action="store_true", help="replace --out, and what was begun"
    )
    return parser.parse_args(words)


def read_data(
    source: str, image_shape: tuple[int, int, int]
) -> tuple[dict[str, EvalData], list[str]]:
    """Return both splits of ``--data``, made to fit ``(C, H, W)``, and the names of the classes.

    Of findings the first class is "none".

    Raises:
        InputFileError: If they are not there, or an image cannot be read.
    """
    if source.startswith("cifar10:"):
        root = Path(source.removeprefix("cifar10:"))
        train, names = read_cifar10(root, image_shape, train=True)
        return {"train": train, "test": read_cifar10(root, image_shape)[0]}, names
    folder = Path(source)
    if (folder / "train.csv").is_file():
        names = [NONE, *finding_names(folder / "train.csv")]
        spec = untrained_spec("", names, image_shape, SIGMOID)
        return {
            split: open_findings(folder / f"{split}.csv", spec) for split in ("train", "test")
        }, names
    names = list_classes(folder / "train")
    labels = {name: label for label, name in enumerate(names)}
    return {
        split: read_image_folder(folder / split, labels, image_shape) for split in ("train", "test")
    }, names


def make_network(options: argparse.Namespace, num_classes: int, channels: int) -> nn.Module:
    """Return the network with seeded He initialisation, or with the tensors of ``--init``.

    Those of another implementation, none of whose names fit, are taken in their order.

    Raises:
        ConfigError: If none fits.
    """
    # What is not set below, such as the bias of a linear layer, draws from the global generator.
    torch.default_generator.manual_seed(derive_seed(options.seed, "defaults"))
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
        known = found.keys() & own.keys()
        renamed = found if known else renamed_by_position(network, found) or {}
        fitting = {k: v for k, v in renamed.items() if k in own and v.shape == own[k].shape}
        if not fitting:
            raise ConfigError(
                f"--init {options.init}: none of its {len(found)} tensors fits {options.arch}"
            )
        network.load_state_dict(fitting, strict=False)
        print(f"{options.init}: took {len(fitting)} of {len(own)} tensors")
    return network


def untrained_spec(
    arch: str, names: list[str], image_shape: tuple[int, int, int], answers: str
) -> TeacherSpec:
    """Return the spec of a network that is not trained yet; mean 0 and std 1."""
    return TeacherSpec(
        architecture=arch or "unknown",
        num_classes=len(names),
        image_shape=image_shape,
        mean=(0.0,) * image_shape[0],
        std=(1.0,) * image_shape[0],
        class_names=tuple(names),
        fingerprint="0" * 64,
        answers=answers,
    )


def make_spec(options: argparse.Namespace, names: list[str], data: EvalData) -> TeacherSpec:
    """Return the spec; mean and std are those of the training images."""
    images = data.images
    pixels = to_pixels(images[:: max(1, len(images) // 10_000)])
    _, channels, height, width = images.shape
    answers = SOFTMAX if data.labels.ndim == 1 else SIGMOID
    return dataclasses.replace(
        untrained_spec(options.arch, names, (channels, height, width), answers),
        mean=tuple(round(float(value), 4) for value in pixels.mean((0, 2, 3))),
        std=tuple(round(float(value), 4) for value in pixels.std((0, 2, 3))),
    )


def make_recipe(options: argparse.Namespace, size: int, device: torch.device) -> Recipe:
    """Return how the network is trained on images of ``size`` pixels."""
    return Recipe(
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        weight_decay=options.weight_decay,
        shift=size // 8 if options.shift is None else options.shift,
        flip=not options.no_flip,
        seed=options.seed,
        dtype=compute_dtype(device, options.precision),
    )


def identity(options: argparse.Namespace, recipe: Recipe, data: EvalData) -> dict[str, Any]:
    """Return what decides the weights, as JSON types; the images by their bytes."""
    chosen = {name: value for name, value in vars(options).items() if name not in ELSEWHERE}
    digest = hashlib.blake2b(data.images.numpy().data, digest_size=8)
    digest.update(data.labels.numpy().data)
    facts = {"precision": str(recipe.dtype), "data": digest.hexdigest(), "init": str(options.init)}
    return chosen | facts


def train(
    training: Training,
    num_epochs: int,
    part: PartFile,
    evaluate: Callable[[], float],
    interrupted: Callable[[], bool],
) -> dict[str, float]:
    """Train to the end, print a line per epoch, and return the last epoch's accuracies.

    Raises:
        InterruptedRunError: If ``interrupted`` says so after an update; all of it is saved.
    """
    accuracies: dict[str, float] = {}
    while training.epoch < num_epochs:
        while training.num_left:
            training.update()
            if interrupted():
                part.save(training)
                raise InterruptedRunError(
                    f"interrupted in epoch {training.epoch + 1} of {num_epochs}; the same command "
                    f"goes on from here: {command_line()}"
                )
        accuracies = {"train": training.end_epoch(), "test": evaluate()}
        print(
            f"epoch {training.epoch:3d}/{num_epochs}  train {accuracies['train']:.4f} (augmented)  "
            f"test {accuracies['test']:.4f}  {part.seconds_so_far:.0f} s",
            flush=True,
        )
        if part.is_due and training.epoch < num_epochs:
            part.save(training)
    return accuracies


def run(options: argparse.Namespace, interrupted: Callable[[], bool]) -> None:
    """Read the images, train, save."""
    device = resolve_device(options.device)
    size = options.image_size or find_candidate(options.arch).usual().size[0]
    data, names = read_data(options.data, (1 if options.grayscale else 3, size, size))
    spec = make_spec(options, names, data["train"])
    network = make_network(options, spec.num_logits, spec.image_shape[0])
    settle_answers(network, spec.answers)
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    recipe = make_recipe(options, size, device)
    training = Training(network, data["train"], spec, device, recipe)
    part = PartFile(options.out, identity(options, recipe, data["train"]))
    part.load(training, overwrite=options.overwrite)
    test = data["test"]
    accuracies = train(
        training,
        options.epochs,
        part,
        lambda: accuracy(predict(network, test.images, spec, device), test.labels),
        interrupted,
    )
    network.cpu().to(memory_format=torch.contiguous_format)
    facts = provenance(options, data, accuracies, device)
    metadata = spec.to_json() | {"fingerprint": fingerprint(network), "provenance": facts}
    save_network(options.out, network, metadata)
    part.remove()
    print(f"{options.out}: test accuracy {accuracies['test']:.4f}")


def provenance(
    options: argparse.Namespace,
    data: dict[str, EvalData],
    accuracies: dict[str, float],
    device: torch.device,
) -> dict[str, Any]:
    """Return where the weights come from, as the file records it; no paths."""
    return {
        "data": options.note or Path(options.data.removeprefix("cifar10:")).name,
        "num_images": {split: len(part.labels) for split, part in data.items()},
        "accuracy": accuracies,
        "training": {
            name: value
            for name, value in vars(options).items()
            if isinstance(value, int | float | str) and name not in ("data", "overwrite")
        },
        "device": describe_device(device),
        "versions": {name: version(name) for name in ("torch", "torchvision")},
    }


def main() -> int:
    """Train, or go on; SIGINT and SIGTERM wait for the end of an update."""
    options = parse_arguments()
    if options.out.exists() and not options.overwrite:
        raise ConfigError(
            f"{options.out}: is there already; choose another --out, or --overwrite it"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(options.out, part_path(options.out))
    with interrupts_deferred() as interrupted:
        run(options, interrupted)
    return 0


if __name__ == "__main__":
    ending_well(main)
