"""Where the runs of a report come from, in words: teacher, student, dreams, device, versions.

Strings are as the files have them: whoever shows them escapes them.
"""

from collections.abc import Iterator, Mapping

from recover.results import Result
from recover.tables import percent


def facts_of_origin(result: Result) -> Mapping[str, object]:
    """Return what the last section of a page lists of a run, by name; None where not known."""
    versions = result.fact("versions")
    known = versions.items() if isinstance(versions, dict) else ()
    return {
        "teacher": result.fact("teacher", "architecture"),
        "weights of the teacher": result.fact("teacher", "fingerprint"),
        "the student is": result.report.student,
        "it started from": _start(result),
        "dream set": result.fact("dreams", "path"),
        "its digest": result.fact("dreams", "digest"),
        "dreams trained on": result.fact("dreams", "num_train"),
        "dreams held out": result.fact("dreams", "num_held_out"),
        "real images trained on": result.fact("unlabeled", "num_images"),
        "real images to judge by": result.fact("num_eval_images") or "none",
        "made": result.fact("created"),
        "device": result.fact("device"),
        "versions": ", ".join(f"{name} {version}" for name, version in known),
        "student": f"{result.report.out}/student.safetensors",
    }


def _start(result: Result) -> str | None:
    if "taught" not in result.report.shown_stages:
        return None
    seed = result.report.config.get("seed")
    return str(result.fact("student", "path") or f"random weights of seed {seed}")


def subtitle(result: Result) -> str:
    """Return the line below a page's title: the teacher that all of its runs share."""
    shape = result.fact("teacher", "image_shape")
    size = "x".join(map(str, shape)) if isinstance(shape, list) else "unknown size"
    return " · ".join(_subtitle_parts(result, size))


def _subtitle_parts(result: Result, size: str) -> Iterator[str]:
    yield str(result.fact("teacher", "architecture") or "unknown network")
    yield f"{result.fact('teacher', 'num_classes') or '?'} classes"
    yield f"images of {size}"
    report = result.report
    if report.student is None:
        yield f"{report.num_weights:,} prunable weights"
    elif report.costs is not None and report.costs.num_weights_teacher is not None:
        yield f"{report.costs.num_weights_teacher:,} prunable weights"
    if result.report.teacher.accuracy is not None:
        yield f"teacher {percent(result.report.teacher.accuracy)}"
