"""Settings by name: ours, and those of the papers with where they come from.

No torch here: ``dreamforge --help`` must answer at once.
"""

from collections.abc import Mapping
from typing import Any

# Each preset holds what its source says; what the source leaves open keeps our default.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    # Yin et al. 2020 (arXiv:1912.08795), CIFAR-10 script's settings, as notes in docs/method.md:
    # batch 256, 2000 steps, Adam 0.1, TV 1e-3 ("better" set), BN weight 10, jitter 2, white noise.
    "yin2020-cifar10": {
        "steps": 2000,
        "batch_size": 256,
        "lr": 0.1,
        "beta1": 0.9,
        "beta2": 0.999,
        "lr_schedule": "constant",
        "bn_distance": "l2",
        "bn_weight": 10.0,
        "image_norm": "l2",
        "tv_weight": 1e-3,
        "l2_weight": 0.0,
        "jitter": 2,
        "jitter_kind": "roll",
        "space": "pixels",
        "init": "white",
    },
    # The same paper, ImageNet, 2k steps at 224 px (its setting 1): Adam (0.5, 0.9), cosine with
    # 100 warm-up steps, BN weight 0.01 with ten times that on the first layer.
    "yin2020-imagenet": {
        "steps": 2000,
        "batch_size": 84,
        "lr": 0.25,
        "beta1": 0.5,
        "beta2": 0.9,
        "lr_schedule": "cosine",
        "warmup": 100,
        "bn_distance": "l2",
        "bn_weight": 0.01,
        "first_bn_multiplier": 10.0,
        "image_norm": "l2",
        "tv_weight": 1e-4,
        "l2_weight": 1e-5,
        "jitter": 30,
        "jitter_kind": "roll",
        "space": "pixels",
        "init": "white",
    },
    # Tripurwar et al. 2025 (arXiv:2511.20702), from their code: entropy instead of targets,
    # 32 images a batch, 200 steps of Adam 0.05, BN weight 10 on unsquared norms, TV 1e-5 (sum of
    # absolute differences). Their jitter of 32 px belongs to 224 px: one seventh of the side.
    "tripurwar2025": {
        "steps": 200,
        "batch_size": 32,
        "lr": 0.05,
        "beta1": 0.9,
        "beta2": 0.999,
        "lr_schedule": "constant",
        "class_loss": "entropy",
        "bn_distance": "l2",
        "bn_weight": 10.0,
        "image_norm": "l1",
        "tv_weight": 1e-5,
        "l2_weight": 0.0,
        "flip": False,
        "jitter_kind": "roll",
        "space": "pixels",
        "init": "white",
        "precision": "float32",
    },
}
# The one published setting that depends on the image size.
JITTER_SHARE = {"tripurwar2025": 1 / 7}


def preset_values(name: str, side: int) -> dict[str, Any]:
    """Return the settings of preset ``name`` for images whose longer side is ``side`` pixels."""
    values = dict(PRESETS[name])
    if name in JITTER_SHARE:
        values["jitter"] = round(JITTER_SHARE[name] * side)
    return values
