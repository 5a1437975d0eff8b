"""What travels with a dream set: a README for the Hugging Face hub, and Croissant metadata.

Croissant is MLCommons' JSON-LD vocabulary for data sets, http://mlcommons.org/croissant/1.1. Both
say how the set was made, what it is for, and that synthetic does not mean private.
"""

import json
import re
from pathlib import Path
from typing import Any

from dreamforge.card_texts import (
    KIND,
    LIMITS,
    ONE_SIGMOID,
    PURPOSE,
    SIGMOIDS,
    privacy,
    what,
)
from dreamforge.info import describe
from dreamforge.texts import method_text
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.files import sha256_of, write_json, write_text
from shared.manifest import printable
from shared.spec import SIGMOID

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_HUB_LICENSES = {  # SPDX, lower case, where the hub knows it
    "apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
}  # fmt: skip
_MAX_CLASSES_LISTED = 50


def write_card(
    path: Path,
    *,
    name: str | None = None,
    url: str | None = None,
    creator: str | None = None,
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Write ``README.md`` and ``croissant.json`` beside an index.

    Args:
        path: The index.
        name: Of the set; by default the index's stem.
        url: Where it is published; by default a URN with its digest.
        creator: Who made it.
        overwrite: Replace what is there.

    Returns:
        The two paths.

    Raises:
        ConfigError: If one of them is there already.
        DreamSetError: If the set is damaged.
    """
    facts = describe(path)
    readme, croissant = path.with_name("README.md"), path.with_name("croissant.json")
    for target in (readme, croissant):
        if target.exists() and not overwrite:
            raise ConfigError(f"{target}: is there already; move it away, or --overwrite")
    chosen = {"name": printable(name or path.stem), "url": url, "creator": creator}
    write_json(croissant, croissant_of(path, facts, **chosen))
    write_text(readme, readme_of(path, facts, name=chosen["name"]))
    return readme, croissant


def readme_of(path: Path, facts: dict[str, Any], *, name: str | None = None) -> str:
    """Return the README of a set, Markdown with a YAML head as the Hugging Face hub reads it.

    Args:
        path: The index.
        facts: From :func:`dreamforge.info.describe`. Every string of it is escaped.
        name: Title.
    """
    teacher, synthetic = facts["teacher"], facts["synthetic"]
    title = name or path.stem
    channels, height, width = facts["image_shape"]
    rows = [
        (
            "images",
            f"{facts['num_images']:,} of {width}x{height} pixels, {channels} channels, uint8",
        ),
        ("classes", f"{facts['num_classes_present']:,} of {facts['num_classes']:,}"),
        *([("answers", meaning)] if (meaning := _meaning(facts)) else []),
        ("teacher", f"{_code(teacher['architecture'])}, {_code(teacher['fingerprint'])}"),
        ("method", _code(method_text(facts["method"], facts["steps"]))),
        ("teacher's accuracy on it", _percent(facts["quality"].get("teacher_accuracy"))),
        *_diverged(facts["provenance"].get("attempts")),
        ("made", f"{_code(facts['created'])} on {_code(facts['device'])}"),
        ("hours", "unknown" if facts["hours"] is None else f"{facts['hours']:.2f}"),
        ("command", _code(facts["command"], 400)),
        ("versions", _code(json.dumps(facts["versions"]), 400)),
        ("license", _code(facts["license"])),
        ("size", f"{facts['num_bytes']:,} bytes"),
        ("digest", _code(facts["digest"])),
    ]
    table = "\n".join(f"| {key} | {value} |" for key, value in rows)
    classes = "\n".join(
        f"| {entry['label']} | {_code(entry['name'] or '')} | {entry['num_images']:,} |"
        for entry in facts["classes"][:_MAX_CLASSES_LISTED]
    )
    more = facts["num_classes_present"] - _MAX_CLASSES_LISTED
    return (
        f"---\n{_front_matter(path, facts, title)}\n---\n\n"
        f"# {_plain(title)}\n\n"
        f"{what(facts)} a trained classifier: a transfer set to prune and distill it with.\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        f"## What it is for\n\n{PURPOSE}\n\n{LIMITS if synthetic else ''}\n\n"
        f"## Privacy\n\n{privacy(facts)}\n\n"
        f"## How to use it\n\n```sh\ndreamforge verify {_shell(path.name)}\n"
        f"recover run --dreams {_shell(path.name)} --sparsity 0.8\n```\n\n"
        f"{_loading(facts, path)}"
        f"## Classes\n\n| label | name | images |\n|---|---|---|\n{classes}\n"
        + (f"\nand {more:,} more.\n" if more > 0 else "")
    )


def croissant_of(
    path: Path,
    facts: dict[str, Any],
    *,
    name: str | None = None,
    url: str | None = None,
    creator: str | None = None,
) -> dict[str, Any]:
    """Return the Croissant 1.1 metadata of a set: every file with its sha256, and its origin.

    There are no record sets: Croissant knows no way into HDF5.

    Args:
        path: The index.
        facts: From :func:`dreamforge.info.describe`.
        name: Title.
        url: Where it is published.
        creator: Who made it.
    """
    teacher = facts["teacher"]
    created = printable(facts["created"] or "1970-01-01", 40)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": name or path.stem,
        "description": (
            f"{facts['num_images']} {KIND[facts['synthetic']]} with "
            f"labels and logits of a {printable(teacher['architecture'])} classifier."
            f" {_meaning(facts)}".rstrip()
        ),
        "license": _license_url(facts["license"]),
        "url": url or f"urn:sha256:{facts['digest']}",
        "version": "1.0.0",
        "creator": {"@type": "sc:Organization", "name": creator or "unspecified"},
        "datePublished": created,
        "keywords": ["knowledge distillation", "pruning", "data-free", "synthetic images"],
        "isLiveDataset": False,
        "distribution": _files(path),
        "prov:wasDerivedFrom": {
            "@id": f"urn:sha256:{teacher['fingerprint']}",
            "prov:label": f"weights of the teacher, {printable(teacher['architecture'])}",
        },
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": printable(facts["command"] or "unknown command", 1000),
            "prov:endedAtTime": created,
        },
        "rai:dataUseCases": PURPOSE,
        "rai:dataLimitations": LIMITS,
        "rai:personalSensitiveInformation": privacy(facts),
    }


def _files(path: Path) -> list[dict[str, Any]]:
    dreams = DreamSet.open(path)
    shards = dreams.manifest.shards
    listed = [(path.name, path.stat().st_size, sha256_of(path))]
    listed += [(shard.name, shard.num_bytes, shard.sha256) for shard in shards]
    return [
        {
            "@type": "cr:FileObject",
            "@id": name,
            "name": name,
            "contentUrl": name,
            "contentSize": f"{num_bytes} B",
            "encodingFormat": "application/x-hdf5",
            "sha256": sha256,
        }
        for name, num_bytes, sha256 in listed
    ]


def _front_matter(path: Path, facts: dict[str, Any], title: str) -> str:
    """Return YAML. Strings are written as JSON, which YAML reads, whatever is in them."""
    license_name = str(facts["license"])
    known = license_name.lower() in _HUB_LICENSES
    head: dict[str, Any] = {
        "pretty_name": printable(title),
        "license": license_name.lower() if known else "other",
        "task_categories": ["image-classification"],
        "size_categories": [_size(facts["num_images"])],
        "annotations_creators": ["machine-generated"],
        "tags": ["dreamforge", "hdf5", "knowledge-distillation", "pruning"],
    }
    if not known:
        head["license_name"] = re.sub(r"[^a-z0-9.-]+", "-", license_name.lower())[:80]
    if facts["synthetic"]:
        head["tags"] += ["synthetic", "data-free"]
    if not facts["packed"]:
        files = [{"split": "train", "path": f"{path.stem}-*-of-*.h5"}]
        head["configs"] = [{"config_name": "default", "data_files": files}]
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())


def _meaning(facts: dict[str, Any]) -> str:
    """Return what the answers of sigmoids mean; a softmax goes without saying."""
    if facts["teacher"].get("answers") != SIGMOID:
        return ""
    return SIGMOIDS if facts["num_classes"] > 2 else ONE_SIGMOID


def _size(num_images: int) -> str:
    return next((name for limit, name in _SIZES if num_images < limit), "n>1M")


def _loading(facts: dict[str, Any], path: Path) -> str:
    if facts["packed"]:
        return ""
    pattern = json.dumps(f"{path.stem}-*-of-*.h5")
    return (
        "The shards load into Hugging Face `datasets` as they are:\n\n```python\n"
        f'datasets.load_dataset("hdf5", data_files={pattern})\n```\n\n'
    )


def _license_url(name: object) -> str:
    text = printable(name)
    if re.fullmatch(r"[A-Za-z0-9.+-]+", text) and text != "unspecified":
        return f"https://spdx.org/licenses/{text}.html"
    return text


def _diverged(attempts: object) -> list[tuple[str, str]]:
    """Return the row about batches that were begun more than once; none if there were none."""
    if not isinstance(attempts, dict) or not attempts:
        return []
    return [("diverged", f"{len(attempts):,} batches, made again at half the rate or less")]


def _percent(value: object) -> str:
    return f"{value:.1%}" if isinstance(value, int | float) else "unknown"


def _code(value: object, limit: int = 100) -> str:
    """Return text from a file as a Markdown code span, in which nothing is markup."""
    if value is None or value == "":
        return "unknown"
    return "`" + printable(value, limit).replace("`", "'").replace("|", "/") + "`"


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>()#+!|&~])", r"\\\1", printable(text))


def _shell(name: str) -> str:
    return name if re.fullmatch(r"[\w.+-]+", name) else json.dumps(printable(name))


# The context that the Croissant 1.1 specification recommends (appendix 1), and PROV-O.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "description": {"@container": "@language"},
} | {
    term: f"cr:{term}"
    for term in (
        "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field",
        "fileProperty", "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset",
        "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex",
        "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
    )
}  # fmt: skip
