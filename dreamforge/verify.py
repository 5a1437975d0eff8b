"""Is a dream set complete and undamaged, and are the logits in it the teacher's?

Unlike reading, which stops at the first problem, this looks at everything and lists all problems.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dreamforge.signing import Signer, check_fits, check_signature
from shared.checkpoint import checkpoint_from_bytes
from shared.dreams import DreamBatch
from shared.dreamset import DreamSet
from shared.errors import DreamforgeError, DreamSetError
from shared.metrics import agreement, require_finite
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.shards import read_index, read_shard
from shared.teacher import Teacher, fingerprint

# Logits are stored as float16, exact to 2^-11 of their size; another device adds some rounding in
# float32, far below the rest.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 2**-9, 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was looked at, and what was found.

    Attributes:
        path: The index.
        problems: One line each, beginning with the file's path; none means the set is fine.
        num_images: Rows that the index promises.
        num_shards: Files that it promises.
        num_bytes: Read.
        seconds: How long it took.
        deep: Whether every pixel was read.
        agreement: Fraction of rows whose recomputed logits have the same largest; None without a
            teacher.
        largest_difference: Between a stored and a recomputed logit; None without a teacher.
        signed_with: The key of the signer that was asked for; None if none was, or it is not so.
    """

    path: Path
    problems: tuple[str, ...]
    num_images: int
    num_shards: int
    num_bytes: int
    seconds: float
    deep: bool
    agreement: float | None = None
    largest_difference: float | None = None
    signed_with: str | None = None

    @property
    def fine(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "path": str(self.path),
            "fine": self.fine,
            "problems": list(self.problems),
            "num_images": self.num_images,
            "num_shards": self.num_shards,
            "num_bytes": self.num_bytes,
            "seconds": round(self.seconds, 3),
            "bytes_per_second": round(self.num_bytes / max(self.seconds, 1e-9)),
            "deep": self.deep,
            "agreement": self.agreement,
            "largest_difference": self.largest_difference,
            "signed_with": self.signed_with,
        }


def verify(
    path: Path,
    *,
    deep: bool = False,
    teacher: Teacher | None = None,
    digest: str | None = None,
    signer: Signer | None = None,
    signed: bool = True,
    progress: ProgressCallback = ignore_progress,
) -> VerifyReport:
    """Check the index, and every shard's size, sha256, structure, labels and attributes.

    Args:
        path: The index.
        deep: Also read every row, comparing checksums and values, and the embedded teacher's
            fingerprint.
        teacher: Also recompute all logits with it, where it is; this reads every row, too.
        digest: What the set's digest must be.
        signer: Who must have signed it.
        signed: Whether a signature that is there must be one over this index, whoever made it.
        progress: Told after every shard.

    Returns:
        The report. A set that cannot be read at all is a report with one problem.

    Raises:
        InputFileError: If the list of signers is not there.
        DreamforgeError: If there is no ``ssh-keygen`` to ask.
    """
    started = time.monotonic()
    try:
        index = read_index(path)
    except DreamSetError as error:
        return _hopeless(path, str(error), time.monotonic() - started, deep=deep)
    dreams = DreamSet(path, index.manifest, index.labels, check=False)
    inspection = _Inspection(dreams, teacher)
    if digest is not None:
        inspection.attempt(lambda: inspection.check_digest(digest))
    if signer is not None:
        inspection.check_signature(signer)
    elif signed:
        inspection.attempt(lambda: check_fits(path))
    if teacher is not None and not inspection.attempt(inspection.compare_teacher):
        inspection.forget_teacher()
    if deep:
        inspection.attempt(inspection.check_embedded_teacher)
    for number in range(dreams.num_shards):
        inspection.inspect(number, deep=deep)
        _report(progress, dreams, number + 1, inspection.num_bytes, time.monotonic() - started)
    return VerifyReport(
        path=path,
        problems=tuple(inspection.problems),
        num_images=dreams.num_images,
        num_shards=dreams.num_shards,
        num_bytes=inspection.num_bytes,
        seconds=time.monotonic() - started,
        deep=deep,
        agreement=inspection.agreement(),
        largest_difference=inspection.largest_difference,
        signed_with=inspection.signed_with,
    )


class _Inspection:
    """Problems so far, and what the recomputed logits were like."""

    def __init__(self, dreams: DreamSet, teacher: Teacher | None) -> None:
        self.problems: list[str] = []
        self.num_bytes = dreams.path.stat().st_size
        self.largest_difference: float | None = None
        self.signed_with: str | None = None
        self._dreams = dreams
        self._teacher = teacher
        self._agreeing = 0.0
        self._compared = 0

    def attempt(self, check: Callable[[], object]) -> bool:
        """Run a check; keep its error as a problem and return False if it fails."""
        try:
            check()
        except DreamforgeError as error:
            self.problems.append(str(error))
            return False
        return True

    def inspect(self, number: int, *, deep: bool) -> None:
        dreams = self._dreams
        if not self.attempt(lambda: dreams.check_size(number)):
            return
        if not dreams.manifest.packed:
            self.num_bytes += dreams.shard_path(number).stat().st_size
        # Of a damaged shard one line is enough.
        if (
            self.attempt(lambda: dreams.check_sha256(number))
            and self.attempt(lambda: dreams.check_contents(number))
            and (deep or self._teacher is not None)
        ):
            self.attempt(lambda: self._check_rows(number))

    def check_digest(self, expected: str) -> None:
        found = self._dreams.manifest.digest()
        if found != expected.lower():
            raise DreamSetError(
                f"{self._dreams.path}: digest {found}, expected {expected.lower()}; this is "
                "another set, or a changed one: refuse it"
            )

    def check_signature(self, signer: Signer) -> None:
        """Keep what is wrong with the signature; what is wrong with the question is raised."""
        try:
            self.signed_with = check_signature(self._dreams.path, signer)
        except DreamSetError as error:
            self.problems.append(str(error))

    def compare_teacher(self) -> None:
        assert self._teacher is not None
        found = self._teacher.spec.fingerprint
        expected = self._dreams.manifest.teacher.fingerprint
        if found != expected:
            raise DreamSetError(
                f"{self._dreams.path}: made with teacher {expected[:12]}…, compared with "
                f"{found[:12]}…; use the teacher that the dreams were made from"
            )

    def forget_teacher(self) -> None:
        """Compare no answers: of another teacher they differ, which says nothing of the images."""
        self._teacher = None

    def check_embedded_teacher(self) -> None:
        path, blob = self._dreams.path, self._dreams.teacher_blob()
        if blob is None:
            return
        found = fingerprint(checkpoint_from_bytes(blob, f"{path} (embedded teacher)").tensors)
        if found != self._dreams.manifest.teacher.fingerprint:
            raise DreamSetError(f"{path}: the embedded teacher is not the one it names; refuse it")

    def agreement(self) -> float | None:
        """Return the agreement over all rows that were compared."""
        return self._agreeing / self._compared if self._compared else None

    def _check_rows(self, number: int) -> None:
        path = self._dreams.shard_path(number)
        rows = read_shard(path)
        if self._teacher is not None:
            found = require_finite(self._teacher.logits(rows.images), f"{path}: the teacher")
            self._compare_logits(path, rows, found)

    def _compare_logits(self, path: Path, rows: DreamBatch, found: Tensor) -> None:
        stored = rows.logits.float()
        if found.shape != stored.shape:
            raise DreamSetError(
                f"{path}: {stored.shape[1]} classes, the teacher has {found.shape[1]}"
            )
        differences = (found - stored).abs()
        largest = float(differences.max())
        self.largest_difference = max(largest, self.largest_difference or 0.0)
        self._agreeing += agreement(found, stored) * len(rows)
        self._compared += len(rows)
        num_off = int((differences > ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * stored.abs()).sum())
        if num_off:
            raise DreamSetError(
                f"{path}: {num_off} logits differ from the teacher's, by up to {largest:.3g}; "
                "the images or the logits were changed"
            )


def _hopeless(path: Path, problem: str, seconds: float, *, deep: bool) -> VerifyReport:
    return VerifyReport(
        path=path,
        problems=(problem,),
        num_images=0,
        num_shards=0,
        num_bytes=0,
        seconds=seconds,
        deep=deep,
    )


def _report(
    progress: ProgressCallback, dreams: DreamSet, done: int, num_bytes: int, seconds: float
) -> None:
    facts = {"MB/s": num_bytes / 1e6 / max(seconds, 1e-9)}
    progress(
        Progress(stage="verify", done=done, total=dreams.num_shards, unit="shards", facts=facts)
    )
