"""What cards say of every set, by whether its images are synthetic; None is for nobody knows."""

from collections.abc import Mapping
from typing import Any

PURPOSE = (
    "Pruning, distilling and quantizing the teacher, or a network like it, where its training data "
    "may not be used. Measuring how well that works."
)
LIMITS = (
    "The images show what this one teacher responds to. They are no sample of its training data, "
    "carry its mistakes and biases, and are no basis to judge accuracy on real images."
)
_DREAMS = (
    "Synthetic does not mean private. The images are derived from the teacher's weights, which "
    "were fitted to its training data and can leak who or what was in it; so can students "
    "distilled on them (arXiv:2502.12976). Treat the set as confidential as the teacher."
)
_DRAWN = (
    "The images are drawn by a program, and show nobody. Labels and logits are the answers of a "
    "network that was fitted to its training data; students distilled on them can leak who or what "
    "was in it (arXiv:2502.12976)."
)
_REAL = (
    "These are real images, imported to be compared with dreams. What their source allows, and the "
    "rights of the people in them, decide what may be done with them."
)
_UNKNOWN = (
    "The set does not say whether its images are synthetic. Treat them as real ones: what their "
    "source allows, and the rights of the people in them, decide what may be done with them."
)
SIGMOIDS = (
    "Sigmoids: classes from 1 on are findings, of which an image may show several at once. A label "
    "names one of them, or none (0); the logit of none, the first, is implied and always 0."
)
ONE_SIGMOID = (
    "A sigmoid: an image shows what class 1 is, or not (class 0); the logit of class 0 is implied "
    "and always 0."
)

_WHAT = {True: "Dreams made from", False: "Real images labeled by", None: "Images labeled by"}
KIND = {True: "synthetic images", False: "real images", None: "images of unknown origin"}
_PRIVACY = {True: _DREAMS, False: _REAL, None: _UNKNOWN}


def what(facts: Mapping[str, Any]) -> str:
    """Return how a sentence on a set begins, of the facts of :func:`dreamforge.info.describe`."""
    return "Drawn scenes labeled by" if _is_drawn(facts) else _WHAT[facts["synthetic"]]


def privacy(facts: Mapping[str, Any]) -> str:
    """Return what is to be said of privacy."""
    return _DRAWN if _is_drawn(facts) else _PRIVACY[facts["synthetic"]]


def _is_drawn(facts: Mapping[str, Any]) -> bool:
    return facts["synthetic"] is True and facts["method"] == "draw"
