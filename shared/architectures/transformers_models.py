"""Image classifiers of the transformers library, from the settings in their names.

``transformers:resnet{"depths":[2,2,2,2],"layer_type":"basic"}`` is the model type and what differs
from its defaults: all that builds it again, on a machine that never saw its ``config.json``. The
settings are data. Those that are no fields of the model's own configuration are left out, so that
a name from a file can ask for another shape, and for nothing else.
"""

import importlib
import importlib.util
import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from shared.architectures.candidate import Candidate, Preprocessing
from shared.architectures.quiet_library import silence
from shared.architectures.transformers_images import scaling_of
from shared.errors import ConfigError

PREFIX = "transformers:"
_NAME = re.compile(PREFIX + r"([a-z0-9_-]{1,64})(\{.*\})?")
# Of every model of the library; none says how it is built.
_COMMON = frozenset(
    {
        *("architectures", "auto_map", "dtype", "finetuning_task", "id2label", "label2id"),
        *("model_type", "num_labels", "out_features", "out_indices", "problem_type"),
        *("stage_names", "torch_dtype", "transformers_version"),
    }
)
_MOST_ITEMS = 512
_DEEPEST = 4  # settings within settings, as of the two halves of CLIP
_SWAPPED = "do_flip_channel_order"  # of its images, which no model's own settings say
_PROBE_LABELS = 977  # no layer's width
_COUNTS = re.compile(r"layer|depths?$|depth_coefficient|block|stage|repeat")
_MOST_LAYERS = 512  # of a hostile file: each takes time and memory before any tensor is compared
# Its settings name a model of timm, which may be one to download: timm:NAME may not.
_WRAPPERS = frozenset({"timm_wrapper"})


def name_of(config: Mapping[str, Any], *, is_swapped: bool = False) -> str:
    """Return the architecture that a model's ``config.json`` describes.

    Args:
        config: What stands there.
        is_swapped: The model takes images whose channels are blue, green, red. There is no such
            architecture here, as :func:`find_model` then says.
    """
    settings = _own_settings(config) | ({_SWAPPED: True} if is_swapped else {})
    return _name(str(config.get("model_type")), settings)


def _own_settings(config: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    own: dict[str, Any] = {}
    for key, value in config.items():
        if key in _COMMON or key.startswith("_"):
            continue
        if isinstance(value, Mapping):
            inner = _own_settings(value, depth + 1) if depth < _DEEPEST else {}
            own |= {key: inner} if inner else {}
        elif _is_plain(value):
            own[key] = value
    return own


def find_model(architecture: str) -> Candidate:
    """Return the candidate of a name as above; its own name has what differs from the defaults.

    Nothing is downloaded.

    Raises:
        ConfigError: If there is no such model, or no transformers.
    """
    library, model_type, defaults, settings = _read(architecture)
    build = partial(_build, library, model_type, settings)
    return Candidate(
        name=_name(model_type, settings),
        build=build,
        usual=partial(_usual, model_type, defaults, settings),
    )


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the library makes of a file's tensors.

    Attributes:
        tensors: Under the names of the library's class; None if they do not fit it.
        wrong: What does not fit, one phrase each.
    """

    tensors: dict[str, Tensor] | None = None
    wrong: tuple[str, ...] = ()


def as_loaded(architecture: str, tensors: Mapping[str, Tensor]) -> Loaded:
    """Return the tensors under the names that the library gives them when it loads them, if it can.

    Since its version 5 files keep the names of earlier versions, and the classes have others.

    Args:
        architecture: A name as above.
        tensors: As in the file.
    """
    library, model_type, _, settings = _read(architecture)
    wanted = _PROBE_LABELS
    for _ in range(2):  # the first time to learn from the head how many classes there are
        config = library.AutoConfig.for_model(model_type, **settings, num_labels=wanted)
        try:
            with silence(library):
                network, found = _class_of(library, config).from_pretrained(
                    None,
                    config=config,
                    dtype=torch.float32,  # else that of the first tensor, for all of them
                    state_dict=dict(tensors),
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
        except Exception:  # noqa: BLE001  whatever a library makes of somebody's tensors
            return Loaded()
        heads: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        others: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = []
        for name, theirs, ours in sorted(found["mismatched_keys"]):
            is_head = tuple(ours[:1]) == (wanted,) and wanted == _PROBE_LABELS
            (heads if is_head else others).append((name, tuple(theirs), tuple(ours)))
        wrong = (
            *(f"{name} is missing" for name in sorted(found["missing_keys"])),
            *(f"{name[:80]!r} is too many" for name in sorted(found["unexpected_keys"])),
            *(f"{name} is {theirs}, expected {ours}" for name, theirs, ours in others),
        )
        if wrong or not heads:
            return Loaded(None if wrong else dict(network.state_dict()), wrong)
        wanted = heads[0][1][0]
    return Loaded()


def _class_of(library: Any, config: Any) -> Any:
    """Return the class of a configuration; of several (DeiT has two) the first, the plain one."""
    found = library.AutoModelForImageClassification._model_mapping[type(config)]
    return found[0] if isinstance(found, (tuple, list)) else found


def _read(architecture: str) -> tuple[Any, str, Any, dict[str, Any]]:
    """Return the library, the model's type, its defaults, and what differs from them."""
    match = _NAME.fullmatch(architecture)
    try:
        settings = json.loads(match[2] or "{}") if match else None
    except (ValueError, RecursionError):
        settings = None
    if match is None or settings is None:
        raise ConfigError(
            f"architecture {architecture[:80]!r}: expected transformers:MODEL_TYPE and settings, "
            "as in its config.json"
        )
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(
            f"architecture {architecture[:80]!r} needs transformers: pip install transformers"
        )
    if match[1] in _WRAPPERS:
        raise ConfigError(f"architecture {architecture[:80]!r}: expected timm:NAME instead")
    if settings.get(_SWAPPED) is True:
        raise ConfigError(
            f"{PREFIX}{match[1]}: its image processor hands it blue, green and red, expected a "
            "network that takes red, green and blue: write a factory of a network that swaps them "
            "first, --arch package.module:factory"
        )
    for key, value in _items(settings):
        values = value if isinstance(value, list) else [value]
        counts = [each for each in values if isinstance(each, (int, float))]
        if _COUNTS.search(key) and max(counts, default=0) > _MOST_LAYERS:
            raise ConfigError(
                f"architecture {architecture[:80]!r}: {key[:40]} is {str(value)[:40]}, expected at "
                f"most {_MOST_LAYERS}"
            )
    library = importlib.import_module("transformers")
    defaults, own = _defaults(library, match[1])
    return library, match[1], defaults, _differences(library, settings, own)


def _items(settings: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield every setting, those within others, too."""
    for key, value in settings.items():
        is_inner = isinstance(value, Mapping) and depth < _DEEPEST
        yield from _items(value, depth + 1) if is_inner else [(key, value)]


def _differences(
    library: Any, settings: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings that are fields of a configuration, ``own``, and differ from it.

    Settings within settings are those of a configuration within the configuration.
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if key not in own:
            continue
        if isinstance(own[key], library.PretrainedConfig) and isinstance(value, Mapping):
            inner = _differences(library, value, _own(library, own[key]))
            found |= {key: inner} if inner else {}
        elif _is_plain(value) and _comparable(value) != _comparable(own[key]):
            found[key] = value
    return found


def _defaults(library: Any, model_type: str) -> tuple[Any, dict[str, Any]]:
    """Return the default configuration of a model, and of it what no other model has to have."""
    try:
        with silence(library):
            defaults = library.AutoConfig.for_model(model_type)
        library.AutoModelForImageClassification._model_mapping[type(defaults)]
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"transformers has no image classifier of the type {model_type!r}"
        ) from error
    return defaults, _own(library, defaults)


def _own(library: Any, config: Any) -> dict[str, Any]:
    fields = inspect.signature(type(config)).parameters
    common = inspect.signature(library.PretrainedConfig).parameters
    names = [name for name in fields if name not in common and name not in _COMMON]
    return {name: getattr(config, name) for name in names if hasattr(config, name)}


def _build(
    library: Any, model_type: str, settings: Mapping[str, Any], num_classes: int
) -> nn.Module:
    try:
        with silence(library):
            config = library.AutoConfig.for_model(model_type, **settings, num_labels=num_classes)
            network: nn.Module = _class_of(library, config)(config)
    except Exception as error:  # whatever a library makes of somebody's settings
        said = " ".join(str(error).split())[:160]
        raise ConfigError(
            f"transformers cannot build {_name(model_type, settings)[:80]!r}: "
            f"{type(error).__name__}: {said}"
        ) from error
    network.register_forward_hook(logits_of)
    return network


def logits_of(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Return of what the library's models answer what a classifier answers.

    What has no logits stays as it is: whoever tries the network says what it answers with.
    """
    return getattr(output, "logits", output)


def _usual(model_type: str, defaults: Any, settings: Mapping[str, Any]) -> Preprocessing:
    size = settings.get("image_size", getattr(defaults, "image_size", 224))
    sides = size if isinstance(size, (list, tuple)) else [size, size]
    sound = len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)
    size = (sides[0], sides[1]) if sound else (224, 224)
    scaling, _ = scaling_of(model_type, {})
    if scaling is None:
        doubt = f"a guess, since transformers has no mean and std for {PREFIX}{model_type}"
        return Preprocessing(size=size, doubt=doubt)
    swaps = f"as its image processor in {PREFIX}{model_type} scales images, which hands it blue, "
    swaps += "green and red, though: here it is given red, green and blue"
    doubt = swaps if scaling.is_swapped else ""
    return Preprocessing(size=size, mean=scaling.mean, std=scaling.std, doubt=doubt)


def _name(model_type: str, settings: Mapping[str, Any]) -> str:
    text = json.dumps(dict(settings), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{PREFIX}{model_type}{text if settings else ''}"


def _is_plain(value: Any, depth: int = 0) -> bool:
    if isinstance(value, (list, tuple)):
        is_bounded = len(value) <= _MOST_ITEMS and depth < _DEEPEST
        return is_bounded and all(_is_plain(each, depth + 1) for each in value)
    is_finite = isinstance(value, float) and math.isfinite(value)
    return value is None or isinstance(value, (int, str)) or is_finite


def _comparable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
