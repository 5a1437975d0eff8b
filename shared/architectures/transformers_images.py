"""What the image processors of transformers make of pixels: a mean and a std, as they compute it.

Their records leave out what is a class's default, and some classes do what no record says: those of
MobileViT never normalise, that of PP-LCNet swaps red and blue. So the library's own processor is
shown a few colours, and the numbers of the record are believed where they explain its answers.
"""

import importlib
import importlib.util
import itertools
import json
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from shared.architectures.quiet_library import silence

_TYPE = re.compile(r"[a-z0-9_-]{1,64}")
_CLASSES = ("image_processor_type", "feature_extractor_type")
_FLAGS = (
    *("do_rescale", "do_normalize", "do_flip_channel_order"),
    *("rescale_offset", "include_top"),  # of EfficientNet
)
_NUMBERS = ("image_mean", "image_std", "rescale_factor")
_USUAL = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
# What a class may pass over, wherever it stands.
_IGNORED = (
    *((), ("do_normalize",), ("rescale_offset", "include_top")),
    ("do_normalize", "rescale_offset", "include_top"),
)
# Of another size the processor might make something of a colour's edge.
_UNCHANGED = {"do_resize": False, "do_center_crop": False, "do_pad": False}
_COLORS = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (51, 102, 204))
_SIDE = 16  # pixels
_CLOSE = 1e-4
_MOST = 1e30  # far beyond any scale, and its square is a float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """What becomes of pixels in [0, 1]: ``inputs = (pixels - mean) / std``.

    Attributes:
        mean: Per channel, in the order red, green, blue; or one for all.
        std: Likewise.
        is_swapped: The inputs are in the order blue, green, red.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_swapped: bool = False


def scaling_of(model_type: str, record: Mapping[str, Any]) -> tuple[Scaling | None, str]:
    """Return what becomes of pixels, None where it cannot be told, and a remark, if there is one.

    Args:
        model_type: Of the model; it decides where the record names no processor.
        record: That of ``preprocessor_config.json``, somebody else's.
    """
    # Null is said, too: the library takes it for none, and not for the default.
    flags = {key: record[key] for key in _FLAGS if key in record}
    numbers = {key: record[key] for key in _NUMBERS if key in record}
    classes = {key: record[key] for key in _CLASSES if isinstance(record.get(key), str)}
    sound = all(flag is None or type(flag) is bool for flag in flags.values())
    if not sound or any(each is not None and _values(each) is None for each in numbers.values()):
        return None, ""
    if not (is_installed() and _TYPE.fullmatch(model_type)):
        return _amounts_to(_USUAL | flags | numbers), ""
    return _asked(model_type, json.dumps(classes | flags | numbers, sort_keys=True))


def is_installed() -> bool:
    """Tell whether transformers can be asked; its models cannot be built without it, either."""
    return importlib.util.find_spec("transformers") is not None


@lru_cache(maxsize=64)
def _asked(model_type: str, record: str) -> tuple[Scaling | None, str]:
    settings = json.loads(record)
    shown = _show(model_type, settings)
    if shown is None:
        said = _amounts_to(_USUAL | settings)
        note = (
            "mean and std are as preprocessor_config.json names them: transformers has no image "
            "processor that takes it"
        )
        return said, note if said else ""
    processor, answers = shown
    known = {key: getattr(processor, key, None) for key in (*_FLAGS, *_NUMBERS)}
    for ignored, is_swapped in itertools.product(_IGNORED, (False, True)):
        scaling = _amounts_to(known | dict.fromkeys(ignored, False))
        if scaling and _explains(scaling, answers[:, ::-1] if is_swapped else answers):
            return replace(scaling, is_swapped=is_swapped), ""
    return None, f"what {type(processor).__name__} makes of pixels is no mean and std"


def _show(model_type: str, settings: Mapping[str, Any]) -> tuple[Any, np.ndarray] | None:
    """Return the library's processor and what it makes of the colours, None if it has none."""
    library = importlib.import_module("transformers")
    images = [Image.new("RGB", (_SIDE, _SIDE), color) for color in _COLORS]
    with tempfile.TemporaryDirectory() as folder:
        for name, values in (
            ("config.json", {"model_type": model_type}),
            ("preprocessor_config.json", {**settings, **_UNCHANGED}),
        ):
            (Path(folder) / name).write_text(json.dumps(values))
        try:
            with silence(library):
                find = library.AutoImageProcessor.from_pretrained
                processor = find(folder, local_files_only=True, trust_remote_code=False)
                answers = np.asarray(processor(images=images)["pixel_values"])
        except Exception:  # noqa: BLE001  whatever a library makes of somebody's settings
            return None
    if answers.shape != (len(_COLORS), 3, _SIDE, _SIDE):
        return processor, np.full((len(_COLORS), 3), np.nan)
    return processor, answers[:, :, _SIDE // 2, _SIDE // 2]


def _amounts_to(settings: Mapping[str, Any]) -> Scaling | None:
    """Return what ``inputs = (255 pixels * factor - offset - mean) / std`` is of pixels.

    EfficientNets with ``include_top`` divide by std once more.
    """
    mean, std = _values(settings.get("image_mean")), _values(settings.get("image_std"))
    if not settings.get("do_normalize"):
        mean = (0.0,) * len(mean or (0.0,))
        twice = std if settings.get("include_top") else None
        std = twice or (1.0,) * len(mean)
    elif std is not None and settings.get("include_top"):
        std = tuple(value * value for value in std)
    if mean is None or std is None or len(mean) != len(std):
        return None
    scale, offset = 255.0, 0.0
    if settings.get("do_rescale"):
        factor = _values(settings.get("rescale_factor"))
        scale = 255.0 * factor[0] if factor else math.nan
        offset = 1.0 if settings.get("rescale_offset") else 0.0
    if not (scale > 0 and math.isfinite(scale)):
        return None
    return Scaling(
        mean=tuple((value + offset) / scale for value in mean),
        std=tuple(value / scale for value in std),
        is_swapped=settings.get("do_flip_channel_order") is True,
    )


def _explains(scaling: Scaling, answers: np.ndarray) -> bool:
    if 0 in scaling.std:
        return False
    expected = (np.array(_COLORS) / 255 - np.array(scaling.mean)) / np.array(scaling.std)
    return bool(np.allclose(answers, expected, rtol=_CLOSE, atol=_CLOSE))


def _values(value: Any) -> tuple[float, ...] | None:
    """Return one number or several as a tuple of finite ones, None if it is anything else."""
    values = value if isinstance(value, (list, tuple)) else [value]
    numbers = [each for each in values if isinstance(each, (int, float)) and type(each) is not bool]
    if not values or len(numbers) != len(values):
        return None
    return tuple(map(float, numbers)) if all(abs(each) < _MOST for each in numbers) else None
