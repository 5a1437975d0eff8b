"""What is in a dream set, from its index alone."""

from pathlib import Path
from typing import Any

from dreamforge.signing import signature_path
from shared.dreamset import DreamSet
from shared.manifest import FORMAT_VERSION


def describe(path: Path) -> dict[str, Any]:
    """Return everything that the index says of a set, as JSON types.

    ``classes`` lists label, name (or None) and number of images of every class that occurs;
    ``synthetic`` is None where the set does not say; ``digest`` is equal for sets that hold the
    same bytes; ``signature`` is the name of the file beside it, unchecked, or None
    (:mod:`dreamforge.signing`). Strings come from the file: whoever shows them escapes them. No
    shard is opened.

    Raises:
        DreamSetError: If the index is unusable, or a shard is missing or has another size.
    """
    dreams = DreamSet.open(path)
    manifest, signature = dreams.manifest, signature_path(path)
    teacher, origin = manifest.teacher, manifest.provenance
    names = teacher.class_names
    counts = dreams.labels.bincount(minlength=teacher.num_classes).tolist()
    present = [(label, count) for label, count in enumerate(counts) if count]
    seconds, versions = origin.get("seconds"), origin.get("versions")
    return {
        "path": str(path),
        "format_version": FORMAT_VERSION,
        "num_images": manifest.num_images,
        "image_shape": list(teacher.image_shape),
        "num_shards": len(manifest.shards),
        "packed": manifest.packed,
        "num_bytes": path.stat().st_size + sum(shard.num_bytes for shard in manifest.shards),
        "digest": manifest.digest(),
        "signature": signature.name if signature.is_file() else None,
        "teacher": teacher.to_json() | {"embedded": dreams.teacher_blob() is not None},
        "num_classes": teacher.num_classes,
        "num_classes_present": len(present),
        "images_per_class": [min(counts), max(counts)],
        "classes": [
            {"label": label, "name": names[label] if names else None, "num_images": count}
            for label, count in present
        ],
        "synthetic": manifest.synthetic,
        "method": manifest.synthesis.get("method"),
        "steps": manifest.synthesis.get("steps"),
        "synthesis": manifest.synthesis,
        "quality": manifest.quality,
        "license": str(origin.get("license", "unspecified")),
        "versions": versions if isinstance(versions, dict) else {},
        "device": origin.get("device"),
        "command": origin.get("command"),
        "created": origin.get("created"),
        "hours": seconds / 3600 if isinstance(seconds, int | float) else None,
        "provenance": origin,
    }
