"""Named settings of a recovery run, and their sources.

No torch here: ``recover --help`` must answer at once.
"""

from collections.abc import Mapping
from typing import Any

# Each preset holds what its source says; what the source leaves open keeps our default.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    # Tripurwar et al. 2025 (arXiv:2511.20702), from their code: half of the weights in one shot,
    # 15 epochs of 1,024 dreams in batches of 32 (480 updates) at a constant 1e-3, temperature 3
    # without the T^2 factor, flips and crops of 4 px, BatchNorm in eval mode throughout and never
    # re-estimated. Unlike there, a tenth of the dreams is held out: --holdout 0 uses them all.
    "tripurwar2025": {
        "sparsity": 0.5,
        "schedule": "one-shot",
        "steps": 480,
        "batch_size": 32,
        "lr": 1e-3,
        "lr_schedule": "constant",
        "warmup": 0.0,
        "momentum": 0.9,
        "nesterov": False,
        "clip": 0.0,
        "weight_decay": 0.0,
        "temperature": 3.0,
        "scale_loss": False,
        "mix": "none",
        "flip": True,
        "shift": 4,
        "bn_mode": "frozen",
        "repair_images": 0,
        "feature_weight": 0.0,
        "precision": "float32",
    },
}
