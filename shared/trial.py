"""Networks tried on a few black images: what they take, and what they answer with."""

import inspect
import math
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.func import functional_call

from shared.answers import LastStep, find_last_step
from shared.architectures import Match, is_factory
from shared.architectures.held import held_network
from shared.errors import ConfigError
from shared.layout import settle_layout, spare_images
from shared.seeding import generator

_MAX_CHECKED_PIXELS = 2**20
_ROUNDING = 1e-4  # of the largest logit
_NUM_TRIED = 2  # images: of a single one a forward may squeeze the batch away
# What people resize images to, the commonest first: of several that a network takes it is that.
_USUAL = "224 32 28 64 48 96 128 256 299 112 150 160 180 192 200 227 240 300 320 384 448 512"
_USUAL += " 100 120 144 80 56 50 40 36 30 24 20 16 12 8"
USUAL_SIDES = tuple(map(int, _USUAL.split()))


def try_logits(network: nn.Module, shape: tuple[int, int, int], match: Match) -> tuple[int, bool]:
    """Send images of ``shape`` ``(C, H, W)`` through: do they fit, are logits what comes out?

    Its parameters no longer require a gradient. A network that cannot do with channels last, or
    changes its images, is told so (:mod:`shared.layout`).

    Returns:
        The number of logits: the head's, or what a factory makes of it; and whether they are rows,
        ``(N, K)``.

    Raises:
        ConfigError: If not.
    """
    network.requires_grad_(False)  # whether answers follow the images is the question
    # Without memory where images are huge, whatever a file says of its image size; not always,
    # because PyTorch then loads a second and a half of Python first.
    device = "cpu" if shape[1] * shape[2] <= _MAX_CHECKED_PIXELS else "meta"
    is_own = is_factory(match.architecture)  # what is in the catalog is known to be sound
    # No leaf: a first step in place is not allowed on those.
    images = torch.zeros(_NUM_TRIED, *shape, device=device, requires_grad=is_own) * 1
    _require_one_input(network, match.architecture)
    try:
        logits = _answer(network, images)
    except Exception as error:  # whatever somebody's forward may raise
        raise _refusal(network, images.detach().zero_(), match, error) from error
    if images._version > 0:  # how often it was written into
        spare_images(network)
    if device == "cpu":
        settle_layout(network, shape)
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or not _is_of_logits(logits, match):
        advice = f"of several heads, {_let(match.architecture)} return the one"
        if isinstance(logits, Tensor) and logits.numel() > _NUM_TRIED:
            advice = f"are images of {shape[1]}x{shape[2]} what it takes (--image-size)? {advice}"
        raise ConfigError(
            f"{match.architecture} answers {_NUM_TRIED} images with {found}, expected one tensor "
            f"of logits, ({_NUM_TRIED}, {match.num_classes}); {advice} to invert"
        )
    if is_own:
        refuse_without_gradient(match.architecture, logits)
    if is_own and device == "cpu":
        _differentiate(match.architecture, logits, images)
        _refuse_draws(network, shape, match)
    return logits.numel() // _NUM_TRIED, logits.ndim == 2


def _is_of_logits(answer: Tensor, match: Match) -> bool:
    """Tell whether an answer to :data:`_NUM_TRIED` images is one row of logits for each."""
    # The file's last matrix is the head of most networks, but what is answered is the answer.
    if is_factory(match.architecture) and answer.numel() > 0:
        # A single logit each may have lost its dimension, and behind a convolution there are more.
        rows = answer.ndim > 0 and len(answer) == _NUM_TRIED
        return rows and math.prod(answer.shape[2:]) == 1
    return tuple(answer.shape) == (_NUM_TRIED, match.num_classes)


def last_step(network: nn.Module, shape: tuple[int, int, int], match: Match) -> LastStep | None:
    """Return what the network computes last, where that makes probabilities, else None.

    Args:
        network: On the CPU.
        shape: ``(C, H, W)`` of images that it takes; of huge ones it is not tried.
        match: What the network is: only somebody's own may do so.
    """
    if not is_factory(match.architecture) or shape[1] * shape[2] > _MAX_CHECKED_PIXELS:
        return None
    try:
        return find_last_step(network.eval(), torch.zeros(_NUM_TRIED, *shape))
    except RuntimeError:  # a forward that works without gradients alone
        return None


def sides_instead(network: nn.Module, in_channels: int, size: tuple[int, int]) -> list[int]:
    """Return which of :data:`USUAL_SIDES` images may have, if not ``size`` ``(H, W)``.

    Few networks refuse a size: those that flatten what is left of an image, for a linear layer that
    takes just so many numbers.

    Returns:
        Likeliest first; none where the network takes ``size``.
    """
    with suppress(Exception):  # whatever somebody's forward may raise
        _answer(network, torch.zeros(_NUM_TRIED, in_channels, *size))
        return []
    return _sides_taken(network, in_channels)


def _sides_taken(network: nn.Module, in_channels: int) -> list[int]:
    taken = []
    for side in USUAL_SIDES:
        with suppress(Exception):
            # Nothing but shapes is computed.
            _answer(network, torch.zeros(_NUM_TRIED, in_channels, side, side, device="meta"))
            taken.append(side)
    return taken


def _refusal(network: nn.Module, images: Tensor, match: Match, error: Exception) -> ConfigError:
    """Return what to say of a forward that raised an error for images with a gradient."""
    reason = " ".join(str(error).split())[:120]
    if is_factory(match.architecture) and _takes(network, images):
        return _without_gradient(match.architecture, f": {reason}")
    if _takes(network, images[:1]):
        return ConfigError(
            f"{match.architecture} takes a single image at a time, as forwards with view(-1) "
            "do, expected batches; let it keep the first dimension"
        )
    channels, height, width = images.shape[1:]
    sides = _sides_taken(network, channels)
    such = f" (such as {' or '.join(map(str, sides[:3]))})" if sides else ""
    return ConfigError(
        f"{match.architecture} does not take images of {height}x{width} with {channels} "
        f"channels ({reason}); set --image-size{such}"
    )


def refuse_without_gradient(architecture: str, logits: Tensor) -> None:
    """Check that logits follow the images that they were computed of, which require a gradient.

    Raises:
        ConfigError: If not: then nothing can be inverted, and no student taught.
    """
    if not logits.is_floating_point() or not logits.requires_grad:
        raise _without_gradient(architecture)


def _differentiate(architecture: str, logits: Tensor, images: Tensor) -> None:
    """Raise ConfigError if no gradient of the images is computed, though there seems to be one."""
    try:
        torch.autograd.grad(logits.sum(), images)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"{architecture}: its answers cannot be differentiated ({reason}), expected logits "
            "with a gradient of the images (torch.utils.checkpoint takes use_reentrant=False)"
        ) from error


def _without_gradient(architecture: str, reason: str = "") -> ConfigError:
    return ConfigError(
        f"{architecture} answers without a gradient (no_grad, detach or argmax in its forward?"
        f"{reason}), expected logits that PyTorch can differentiate; {_let(architecture)} return "
        "those"
    )


def _let(architecture: str) -> str:
    """Return whose forward to change: what is held in Python was made by no factory."""
    if held_network(architecture) is not None:
        return "let its forward"
    return "let a factory (--arch package.module:factory)"


def _require_one_input(network: nn.Module, architecture: str) -> None:
    """Raise ConfigError if a forward cannot be called with images and nothing else."""
    try:
        wanted = inspect.signature(network.forward).parameters.values()
    except (TypeError, ValueError):  # no function of Python
        return
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [each.name for each in wanted if each.default is each.empty and each.kind not in kinds]
    if len(needed) > 1:
        raise ConfigError(
            f"{architecture} takes {len(needed)} inputs ({', '.join(needed)[:80]}), expected the "
            "images alone; give the others a default, or wrap it in a network that adds them"
        )


def _refuse_draws(network: nn.Module, shape: tuple[int, int, int], match: Match) -> None:
    """Raise ConfigError if the network answers the same images once so and once otherwise."""
    images = torch.rand(_NUM_TRIED, *shape, generator=generator(0, "trial"))
    with torch.no_grad():
        first, second = (network(images) for _ in range(2))
    if not bool(first.isfinite().all()):
        raise ConfigError(
            f"{match.architecture} answers noise with NaN or inf (the log of 0, a mask of -inf?), "
            f"expected finite logits; {_let(match.architecture)} return those"
        )
    most = float(first.abs().max())
    if torch.allclose(first, second, rtol=_ROUNDING, atol=_ROUNDING * most):
        return
    raise ConfigError(
        f"{match.architecture} answers the same images differently from time to time (F.dropout "
        "without training=self.training in its forward?), expected one answer; let it draw in "
        "training mode alone"
    )


def _takes(network: nn.Module, images: Tensor) -> bool:
    with suppress(Exception):  # whatever somebody's forward may raise
        _answer(network, images)
        return True
    return False


def _answer(network: nn.Module, images: Tensor) -> object:
    """Send images through copies of the network's tensors on their device.

    The answer has a gradient where the images require one.
    """
    # By their first names: a module that has two is computed with the tensors of both.
    values = {**dict(network.named_buffers()), **dict(network.named_parameters())}
    tensors = {name: tensor.to(images.device) for name, tensor in values.items()}
    with torch.set_grad_enabled(images.requires_grad):
        return functional_call(network.eval(), tensors, (images,))
