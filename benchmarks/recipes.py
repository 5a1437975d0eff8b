"""The commands behind the kinds of transfer sets that benchmarks compare."""

import shlex

DRAWN = ("noise", "fractal", "leaves", "scenes")  # what is neither a dream nor a real image
# The recipe of arXiv:2511.20702 as published is the preset of this name in both tools.
PUBLISHED = "tripurwar2025"


def published_words() -> tuple[str, ...]:
    """Return the command that makes the published recipe's dreams; see :func:`dream_words`."""
    return ("dreamforge", "synth", "--preset", PUBLISHED)


def dream_words(steps: int, options: str) -> tuple[str, ...]:
    """Return the command that makes our dreams, but for teacher, number, seed and place.

    Args:
        steps: Adam steps per batch.
        options: More options of ``dreamforge synth``, as a shell would have them.
    """
    return ("dreamforge", "synth", "--steps", str(steps), *shlex.split(options))


def real_words(folder: str) -> tuple[str, ...]:
    """Return the command that chooses from the real images in ``folder``, a folder per class."""
    return ("transfer_sets", "choose", "--real", folder)


def drawn_words(kind: str) -> tuple[str, ...]:
    """Return the command that draws images of ``kind``, one of ``DRAWN``."""
    return ("transfer_sets", "draw", kind)
