"""A model folder of the Hugging Face hub: weights, and two files that say what they are.

``config.json`` is of a model of transformers, or of timm; ``preprocessor_config.json`` says how
the former wants its images. Both are somebody else's: what makes no sense in them is passed over.
Neither library is needed to read them; where transformers is there, its word counts.
"""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.architectures import transformers_images, transformers_models
from shared.errors import CheckpointError
from shared.spec import SIGMOID, SOFTMAX

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the safer one first
_MAX_BYTES = 16 * 2**20
_ANSWERS = {"multi_label_classification": SIGMOID, "single_label_classification": SOFTMAX}
_TIMM_ARGUMENTS = {"num_classes", "in_chans", "global_pool"}  # which the weights say themselves


def weights_in(folder: Path) -> Path:
    """Return the file of weights in a model folder.

    Raises:
        CheckpointError: If there is none, or several that belong together.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    shards = sorted(path.name for path in folder.glob("*.index.json"))
    found = f"the index of a file in parts, {shards[0]}" if shards else "none of them"
    raise CheckpointError(
        f"{folder}: a folder, expected a file of weights, or a folder with "
        f"{' or '.join(WEIGHTS)}; found {found}"
    )


def facts_beside(weights: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what stands beside a file of weights that is named as in a model folder.

    Returns:
        Facts under the keys that our own records have (see :mod:`shared.records`), those that
        were found; and what was passed over, one sentence each.
    """
    if weights.name not in WEIGHTS:
        return {}, ()
    config, images = (
        _read(weights.with_name(name)) for name in ("config.json", "preprocessor_config.json")
    )
    return facts_in(config, images)


def facts_in(
    config: Mapping[str, Any], images: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what the two records of a model say, like :func:`facts_beside`.

    Args:
        config: That of ``config.json``.
        images: That of ``preprocessor_config.json``.
    """
    timm = config.get("architecture")
    if isinstance(timm, str):
        return _of_timm(timm, config)
    if not isinstance(config.get("model_type"), str):
        return {}, ()
    kind = config["model_type"]
    scaling, remark = transformers_images.scaling_of(kind, images) if images else (None, "")
    is_swapped = scaling is not None and scaling.is_swapped
    facts: dict[str, Any] = {
        "architecture": transformers_models.name_of(config, is_swapped=is_swapped)
    }
    names = _names(config.get("id2label"))
    if names is not None:
        facts["class_names"] = names
    problem = config.get("problem_type")
    if isinstance(problem, str) and problem in _ANSWERS:
        facts["answers"] = _ANSWERS[problem]
    size = _size(images)
    if size is not None:
        facts["image_shape"] = [3, *size]
    if scaling is not None:
        facts |= {"mean": list(scaling.mean), "std": list(scaling.std)}
    return facts, (remark,) if remark else ()


def _of_timm(name: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the facts in timm's own ``config.json``, also where transformers wrapped it."""
    usual = config.get("pretrained_cfg")
    usual = usual if isinstance(usual, dict) else config  # before timm 0.9
    facts: dict[str, Any] = {"architecture": f"timm:{name}"}
    notes = []
    if importlib.util.find_spec("timm") is None:  # the tensors may tell: many have torchvision's
        facts = {"model_name": name}
        notes.append(f"config.json says timm:{name}, and timm is not installed (pip install timm)")
    for theirs, ours in (("mean", "mean"), ("std", "std"), ("input_size", "image_shape")):
        if usual.get(theirs) is not None:
            facts[ours] = usual[theirs]
    names = config.get("label_names")
    names = names if isinstance(names, list) else _names(config.get("id2label"))
    if names is not None:
        facts["class_names"] = names
    arguments = config.get("model_args")
    others = sorted(set(arguments if isinstance(arguments, dict) else ()) - _TIMM_ARGUMENTS)
    if others:
        notes.append(f"config.json builds it with {', '.join(others)}, which was passed over")
    return facts, tuple(notes)


def _size(images: Mapping[str, Any]) -> list[int] | None:
    """Return ``[H, W]``: of the crop, where one is cut out, else what images are resized to."""
    crop = images.get("do_center_crop") is not False and images.get("crop_size")
    for size in (crop, images.get("size")):
        if isinstance(size, dict):
            sides = [size.get("height"), size.get("width")]
            sides = sides if None not in sides else [size.get("shortest_edge")] * 2
        else:
            sides = [size, size]
        if all(type(side) is int for side in sides):
            return [int(side) for side in sides if side is not None]
    return None


def _names(record: Any) -> list[str] | None:
    """Return the names in ``id2label``, or None if nobody gave them any."""
    if not isinstance(record, dict) or not record:
        return None
    names = [record.get(str(number)) for number in range(len(record))]
    given = [name for name in names if isinstance(name, str)]
    invented = [f"LABEL_{number}" for number in range(len(record))]
    return None if len(given) != len(record) or given == invented else given


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            return {}
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):  # not there, or no JSON: the weights may do
        return {}
    return record if isinstance(record, dict) else {}
