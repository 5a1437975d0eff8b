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
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from shared.architectures.candidate import Candidate, Preprocessing
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
_PROBE_LABELS = 977  # no layer's width
_COUNTS = re.compile(r"layers|depths?$|blocks|stages")
_MOST_LAYERS = 512  # of a hostile file: each takes time and memory before any tensor is compared
# Its settings name a model of timm, which may be one to download: timm:NAME may not.
_WRAPPERS = frozenset({"timm_wrapper"})


def name_of(config: Mapping[str, Any]) -> str:
    """Return the architecture that a model's ``config.json`` describes."""
    settings = {
        key: value
        for key, value in config.items()
        if key not in _COMMON and not key.startswith("_") and _is_plain(value)
    }
    return _name(str(config.get("model_type")), settings)


def find_model(architecture: str) -> Candidate:
    """Return the candidate of a name as above; its own name has what differs from the defaults.

    Nothing is downloaded.

    Raises:
        ConfigError: If there is no such model, or no transformers.
    """
    library, model_type, defaults, settings = _read(architecture)
    build = partial(_build, library, model_type, settings)
    return Candidate(
        name=_name(model_type, settings), build=build, usual=partial(_usual, defaults, settings)
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
            with _silence(library):
                network, found = _class_of(library, config).from_pretrained(
                    None,
                    config=config,
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


@contextmanager
def _silence(library: Any) -> Iterator[None]:
    """Let the library neither show progress nor warn of a head of another size."""
    logging = library.utils.logging
    level, shows = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shows:
            logging.enable_progress_bar()


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
    for key, value in settings.items():
        counts = value if isinstance(value, list) else [value]
        if _COUNTS.search(key) and any(type(n) is int and n > _MOST_LAYERS for n in counts):
            raise ConfigError(
                f"architecture {architecture[:80]!r}: {key[:40]} is {str(value)[:40]}, expected at "
                f"most {_MOST_LAYERS}"
            )
    library = importlib.import_module("transformers")
    defaults, own = _defaults(library, match[1])
    settings = {
        key: value
        for key, value in settings.items()
        if key in own and _is_plain(value) and _comparable(value) != _comparable(own[key])
    }
    return library, match[1], defaults, settings


def _defaults(library: Any, model_type: str) -> tuple[Any, dict[str, Any]]:
    """Return the default configuration of a model, and of it what no other model has to have."""
    try:
        defaults = library.AutoConfig.for_model(model_type)
        library.AutoModelForImageClassification._model_mapping[type(defaults)]
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"transformers has no image classifier of the type {model_type!r}"
        ) from error
    fields = inspect.signature(type(defaults)).parameters
    common = inspect.signature(library.PretrainedConfig).parameters
    names = [name for name in fields if name not in common and name not in _COMMON]
    return defaults, {name: getattr(defaults, name) for name in names if hasattr(defaults, name)}


def _build(
    library: Any, model_type: str, settings: Mapping[str, Any], num_classes: int
) -> nn.Module:
    try:
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


def _usual(defaults: Any, settings: Mapping[str, Any]) -> Preprocessing:
    size = settings.get("image_size", getattr(defaults, "image_size", 224))
    return Preprocessing(size=(size, size) if isinstance(size, int) else (224, 224))


def _name(model_type: str, settings: Mapping[str, Any]) -> str:
    text = json.dumps(dict(settings), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{PREFIX}{model_type}{text if settings else ''}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) <= _MOST_ITEMS and all(map(_is_plain, value))
    return isinstance(value, (int, str)) or (isinstance(value, float) and math.isfinite(value))


def _comparable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
