"""What is worth a look in a set that was just made.

No torch here: ``dreamforge --help`` must answer at once.
"""

from collections.abc import Mapping

from dreamforge.config import SynthesisConfig

SUSPICIOUS_LOSS = 5.0  # sets of networks built as they were trained had 0.02 to 4.8


def remarks_on_loss(config: SynthesisConfig, quality: Mapping[str, float]) -> tuple[str, ...]:
    """Return a sentence where the dreams' loss is higher than that of well-built teachers.

    Args:
        config: Nothing is said of losses that are made up otherwise than by default.
        quality: Of the finished set; empty of an unfinished one.
    """
    loss = quality.get("mean_loss")
    if loss is None or loss <= SUSPICIOUS_LOSS or not _has_usual_loss(config):
        return ()
    return (
        f"the dreams' mean loss is {loss:.1f}, and 5 at most is usual: more --steps, or the "
        "network is not built as it was trained (padding, activations, mean and std)",
    )


def _has_usual_loss(config: SynthesisConfig) -> bool:
    """Tell whether the loss is made up as by default, so that numbers can be compared."""
    usual = SynthesisConfig()
    names = ("method", "class_loss", "class_weight", "targets", "bn_distance", "bn_weight")
    others = (config.diversity_weight, config.tv_weight, config.l2_weight)
    return not any(others) and all(getattr(config, x) == getattr(usual, x) for x in names)
