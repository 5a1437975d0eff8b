"""What dreams show beside real images: spectrum, colors, and how images differ from each other.

    python benchmarks/dream_statistics.py show --teacher resnet20.pt --real cifar/test dreams.h5 ...

Markdown tables. The first splits the mean square of normalised pixels, the set's mean color
apart, by spatial frequency in cycles per pixel, brightness (the mean of the channels) and color
(what is left). The next are of how images differ from each other at each BatchNorm of the teacher,
since batch statistics fix only the sum of what lies between and within images: which share of a
channel's variance lies between images, in how many dimensions, and how far this variation is from
that between real images. The last has what ``shared/natural.py`` starts from, and how sure the
teacher is.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from summary import markdown
from torch import Tensor

from shared.cli import Tool
from shared.cli_options import teacher_arguments, teacher_options
from shared.dreamset import DreamSet
from shared.evaldata import open_eval_data
from shared.images import to_pixels
from shared.seeding import generator
from shared.teacher import Teacher, batch_norms, load_teacher

BANDS = (0.0, 0.01, 0.04, 0.07, 0.15, 0.3, 0.5, 0.8)  # cycles per pixel


def band_powers(planes: Tensor) -> list[float]:
    """Return the mean square of float32 ``(N, C, H, W)`` in each of :data:`BANDS`, summed over C.

    The sum over the bands is the mean square over images and places, summed over the channels.
    """
    _, _, height, width = planes.shape
    vertical = torch.fft.fftfreq(height).abs().unsqueeze(1)
    frequency = torch.hypot(vertical, torch.fft.fftfreq(width).abs())
    power = torch.fft.fft2(planes).abs().square().mean(0).sum(0) / (height * width) ** 2
    return [
        float(power[(frequency >= low) & (frequency < high)].sum())
        for low, high in itertools.pairwise(BANDS)
    ]


def spectrum(inputs: Tensor) -> tuple[list[float], list[float]]:
    """Return the band powers of brightness and of color; their sum is the mean square."""
    channels = inputs.shape[1]
    inputs = inputs - inputs.mean((0, 2, 3), keepdim=True)
    brightness = inputs.mean(1, keepdim=True)
    color = [power / channels for power in band_powers(inputs - brightness)]
    return band_powers(brightness), color


def overall(inputs: Tensor) -> tuple[float, float, float]:
    """Return the shares of whole images and of color in the mean square, and contrasts' spread.

    The last is the standard deviation of the logarithm of the standard deviation within images.
    """
    inputs = inputs - inputs.mean((0, 2, 3), keepdim=True)
    total, means = inputs.square().mean(), inputs.mean((2, 3), keepdim=True)
    color = inputs - inputs.mean(1, keepdim=True)
    contrast = (inputs - means).square().mean((1, 2, 3)).sqrt()
    return (
        float(means.square().mean() / total),
        float(color.square().mean() / total),
        float(contrast.log().std()),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variation:
    """How images differ from each other in the inputs of one BatchNorm.

    Attributes:
        means: Float32 ``(N, C)``, each image's own.
        share: Of a channel's variance, what lies between images; mean over the channels.
    """

    means: Tensor
    share: float

    @property
    def dimensions(self) -> float:
        """Effective rank of the means' covariance, ``(sum e)^2 / sum e^2`` of its eigenvalues."""
        covariance = torch.cov(self.means.T)
        return float(covariance.trace().square() / covariance.square().sum().clamp_min(1e-24))

    def divergence(self, reference: "Variation") -> float:
        """KL divergence of the means' Gaussian from that of ``reference``, in nats per channel.

        A hundredth of each one's mean variance is added to both diagonals: means of few images,
        or of channels that hardly fire, have covariances without an inverse.
        """
        own, other = _gaussian(self.means), _gaussian(reference.means)
        return float(torch.distributions.kl_divergence(own, other)) / self.means.shape[1]


def _gaussian(means: Tensor) -> torch.distributions.MultivariateNormal:
    covariance = torch.cov(means.T.double())
    ridge = covariance.diagonal().mean().clamp_min(1e-12) / 100
    covariance += ridge * torch.eye(len(covariance), dtype=torch.float64)
    return torch.distributions.MultivariateNormal(means.mean(0).double(), covariance)


def variations(teacher: Teacher, images: Tensor) -> dict[str, Variation]:
    """Return by BatchNorm how uint8 ``(N, C, H, W)`` differ from each other."""
    with _moments(teacher) as seen, torch.no_grad():
        for part in images.split(256):
            teacher.network(teacher.normalize(to_pixels(part)))
    found: dict[str, Variation] = {}
    for name, parts in seen.items():
        means, squares = (torch.cat(column) for column in zip(*parts, strict=True))
        total = (squares.mean(0) - means.mean(0).square()).clamp_min(1e-12)
        share = float((means.var(0, correction=0) / total).mean())
        found[name] = Variation(means=means, share=share)
    return found


@contextmanager
def _moments(teacher: Teacher) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Collect each image's mean and mean square per channel at every BatchNorm over images."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def see(name: str, values: Tensor) -> None:
        if values.dim() == 4:
            moments = values.mean((2, 3)), values.square().mean((2, 3))
            seen.setdefault(name, []).append(moments)

    handles = [
        norm.register_forward_pre_hook(lambda _m, given, name=name: see(name, given[0]))
        for name, norm in batch_norms(teacher.network).items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@click.group(cls=Tool, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Look at what dreams show beside real images."""


@main.command("show")
@click.argument("sets", metavar="DREAMS...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--teacher", type=click.Path(path_type=Path), required=True)
@teacher_options
@click.option("--real", required=True, help="real images, as recover run --eval-data")
@click.option("--n", "num_images", default=1000, show_default=True, help="images of each")
def show(sets: tuple[Path, ...], teacher: Path, real: str, num_images: int, **options: Any) -> None:
    """Print what DREAMS show beside real images."""
    loaded = load_teacher(teacher, **teacher_arguments(options))
    images = open_eval_data(real, loaded.spec).images
    order = torch.randperm(len(images), generator=generator(0, "dream statistics"))
    shown = {f"real ({real})": images[order[:num_images]]}
    for path in sets:
        dreams = DreamSet.open(path)
        shown[str(path)] = dreams.read(0, min(num_images, dreams.num_images)).images
    click.echo(_spectra(loaded, shown))
    click.echo(_variations(loaded, shown))
    click.echo(_overall(loaded, shown))


def _spectra(teacher: Teacher, shown: dict[str, Tensor]) -> str:
    rows = []
    for name, images in shown.items():
        inputs = teacher.normalize(to_pixels(images))
        for kind, powers in zip(("brightness", "color"), spectrum(inputs), strict=True):
            rows.append([name, kind, *(f"{power:.4f}" for power in powers)])
    bands = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(BANDS)]
    return markdown(["images", "of", *bands], rows)


def _variations(teacher: Teacher, shown: dict[str, Tensor]) -> str:
    found = {name: variations(teacher, images) for name, images in shown.items()}
    real, *dreams = found.values()

    def table(title: str, columns: list[str], values: Callable[[str], list[float]]) -> str:
        rows = [[layer, *(f"{value:.3f}" for value in values(layer))] for layer in real]
        return markdown([f"{title} at", *columns], rows)

    return "\n".join(
        [
            table(
                "share between images",
                list(shown),
                lambda at: [v[at].share for v in found.values()],
            ),
            table("dimensions", list(shown), lambda at: [v[at].dimensions for v in found.values()]),
            table(
                "distance from real images",
                list(shown)[1:],
                lambda at: [v[at].divergence(real[at]) for v in dreams],
            ),
        ]
    )


def _overall(teacher: Teacher, shown: dict[str, Tensor]) -> str:
    rows = []
    for name, images in shown.items():
        found = overall(teacher.normalize(to_pixels(images)))
        confidence = teacher.logits(images).softmax(1).amax(1).mean()
        rows.append([name, *(f"{value:.3f}" for value in (*found, confidence.item()))])
    head = ["images", "brightness and tint of whole images", "color", "spread of log contrast"]
    return markdown([*head, "mean confidence"], rows)


if __name__ == "__main__":
    main()
