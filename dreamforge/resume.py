"""What an earlier call left at ``--out``: shards to keep, shards to make, sets to refuse.

Nothing here goes by file times or locks; only contents count.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamforge.config import SynthesisConfig
from dreamforge.overwrite import refuse_to_lose, shards_at
from dreamforge.plan import ShardPlan
from shared.errors import DreamSetError, FormatVersionError, IncompatibleError
from shared.files import remove_stale_temporaries, sha256_of
from shared.manifest import Manifest, parse_json, printable
from shared.opener import was_dream_set
from shared.shards import read_index, read_shard, read_shard_attributes
from shared.teacher import Teacher
from shared.workers import Worker

# Raised whenever the same arguments give other pixels than before (on the same device, with the
# same PyTorch), so that no set is begun with one method and finished with another. Version 1 of
# the package wrote no number.
ENGINE_VERSION = 1


def shard_attributes(teacher: Teacher, config: SynthesisConfig, num_shards: int) -> dict[str, Any]:
    """Return what every shard of a run says of itself; equal attributes mean the same run."""
    return {
        "num_shards": num_shards,
        "teacher": teacher.spec.fingerprint,
        "synthesis": synthesis_facts(teacher, config),
    }


def synthesis_facts(teacher: Teacher, config: SynthesisConfig) -> dict[str, Any]:
    """Return everything that decides the pixels, apart from the weights and the device."""
    spec = teacher.spec
    return {
        "method": "deepinversion",
        "engine": ENGINE_VERSION,
        **config.to_json(),
        "architecture": spec.architecture,
        "image_shape": list(spec.image_shape),
        "mean": list(spec.mean),
        "std": list(spec.std),
    }


def refuse_other_runs(
    out: Path, shards: Sequence[ShardPlan], attributes: Mapping[str, Any]
) -> None:
    """Check that whatever shards lie at ``out`` were begun with the same arguments.

    Raises:
        IncompatibleError: Naming the first differences.
        FormatVersionError: If a newer dreamforge made them.
    """
    planned = {shard.path for shard in shards}
    for path in shards_at(out):
        if refuse_foreign(out, path, attributes) and path not in planned:
            _refuse(out, [f"found {path.name}"])


def refuse_foreign(out: Path, path: Path, attributes: Mapping[str, Any]) -> bool:
    """Check one shard, and return whether it is of this run; damaged or not there, it is nobody's.

    Raises:
        IncompatibleError: If it was made with other arguments.
        FormatVersionError: If a newer dreamforge made it.
    """
    try:
        found = read_shard_attributes(path)
        differences = _differences(found, attributes)
    except FormatVersionError:
        raise
    except DreamSetError:
        return False
    _refuse(out, differences)
    return True


def read_finished(
    out: Path, shards: Sequence[ShardPlan], attributes: Mapping[str, Any]
) -> tuple[Manifest | None, list[str]]:
    """Return the manifest of a finished set of the same arguments, and notes.

    None if there is no index, or a damaged one beside shards of this run, which will be replaced.

    Raises:
        IncompatibleError: If the index is that of another run, or of a set that was packed,
            filtered or merged from one.
        DreamSetError: If something else is there.
    """
    if not out.exists():
        return None, []
    try:
        manifest = read_index(out).manifest
    except FormatVersionError:
        raise
    except DreamSetError as error:
        if not any(_is_of_this_run(shard, attributes) for shard in shards):
            advice = ", or --overwrite" if was_dream_set(out) else ""
            raise DreamSetError(f"{error}; choose another --out{advice}") from error
        return None, [f"index written again: {error}"]
    found = {"teacher": manifest.teacher.fingerprint, "synthesis": manifest.synthesis}
    differences = _differences(found, attributes)
    held = [(shard.name, shard.num_images) for shard in manifest.shards]
    if not differences and held != [(shard.path.name, shard.num_images) for shard in shards]:
        differences = ["it was packed, filtered or merged since"]
    _refuse(out, differences)
    return manifest, []


def missing_shards(
    shards: Sequence[ShardPlan], attributes: Mapping[str, Any], finished: Manifest | None = None
) -> tuple[list[ShardPlan], list[str]]:
    """Return the shards to make, and a note for each damaged one among them.

    Args:
        shards: All of the set.
        attributes: From :func:`shard_attributes`.
        finished: The index of the set, if there is one: its checksums must hold.
    """
    promised = {shard.name: shard.sha256 for shard in finished.shards} if finished else {}
    missing, notes = [], []
    remove_stale_temporaries(*(shard.path for shard in shards))
    for shard in shards:
        problem = problem_of(shard, attributes, promised.get(shard.path.name))
        if problem is not None:
            missing.append(shard)
        if problem:
            notes.append(f"made again: {problem}")
    return missing, notes


def problem_of(
    shard: ShardPlan, attributes: Mapping[str, Any], sha256: str | None = None
) -> str | None:
    """Return why a shard has to be made, "" if it simply is not there; None if it is good.

    Args:
        shard: What it should hold.
        attributes: From :func:`shard_attributes`.
        sha256: What the index promises, if there is one.
    """
    path = shard.path
    if not path.exists():
        return ""
    if sha256 is not None:
        return None if sha256_of(path) == sha256 else f"{path}: damaged since the set was finished"
    try:
        dreams = read_shard(path)
        found = read_shard_attributes(path)
    except DreamSetError as error:
        return str(error)
    if len(dreams) != shard.num_images or found.get("shard") != shard.number:
        return f"{path}: held other dreams"
    return f"{path}: of another run" if _differences(found, attributes) else None


def reopen(
    out: Path, missing: Sequence[ShardPlan], attributes: Mapping[str, Any], finished: Manifest
) -> None:
    """Make a finished set with bad shards of several workers an unfinished one again.

    The bad shards go first: without the index nobody would know any more that they are bad.
    """
    promised = {shard.name: shard.sha256 for shard in finished.shards}
    for shard in missing:
        if problem_of(shard, attributes, promised[shard.path.name]):
            shard.path.unlink(missing_ok=True)
    out.unlink(missing_ok=True)


def remove_set(out: Path, shards: Sequence[ShardPlan], worker: Worker) -> None:
    """Remove what one worker may: the index, its own shards, and the first one what is nobody's.

    Workers start at different times: one that removed all shards would remove new ones.

    Raises:
        ConfigError: If something else than this set is there; nothing is removed then.
    """
    planned = {shard.path for shard in shards}
    own = {shard.path for shard in shards if worker.makes(shard.number)}
    removed = [
        path
        for path in shards_at(out)
        if path in own or (path not in planned and worker.index == 0)
    ]
    refuse_to_lose(out, removed)
    out.unlink(missing_ok=True)  # first: without an index the rest is an unfinished run
    for path in removed:
        path.unlink(missing_ok=True)


def _is_of_this_run(shard: ShardPlan, attributes: Mapping[str, Any]) -> bool:
    try:
        return not _differences(read_shard_attributes(shard.path), attributes)
    except DreamSetError:
        return False


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    if found.get("teacher") != expected["teacher"]:
        return ["the teacher is another one"]
    before, now = found.get("synthesis"), expected["synthesis"]
    if isinstance(before, str):
        before = parse_json(before.encode())
    if not isinstance(before, dict):
        return ["it does not say how it was made"]
    before = {"engine": 1, **before}
    return [
        f"{printable(name, 40)} was {printable(before.get(name), 40)}, "
        f"now {printable(now.get(name), 40)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _refuse(out: Path, differences: Sequence[str]) -> None:
    if differences:
        raise IncompatibleError(
            f"{out}: begun with other arguments ({'; '.join(differences[:4])}): "
            "use the same ones, another --out, or --overwrite"
        )
