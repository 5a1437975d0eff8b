"""A run that is finished already: was it made with what is asked for now?"""

from pathlib import Path
from typing import Any

from recover.config import RecoverConfig
from recover.folder import changed_arguments
from recover.preparation import named_arguments, resolved
from recover.report import RecoveryReport
from recover.results import read_report
from shared.dreamset import DreamSet
from shared.errors import ConfigError
from shared.teacher import Teacher


def finished_report(
    config: RecoverConfig,
    teacher: Teacher,
    dreams: DreamSet | None,
    num_eval_images: int | None,
    out: Path,
) -> RecoveryReport:
    """Return the report of the finished run in ``out`` if the same run is asked for again.

    Args:
        config: As asked for now.
        teacher: Likewise.
        dreams: Likewise; None of a pruning without.
        num_eval_images: Likewise; None without real images.
        out: Folder of a finished run.

    Raises:
        ConfigError: If it was made with other arguments.
        InputFileError: If its report cannot be read.
    """
    report = read_report(out)
    asked = asked_arguments(config, teacher, dreams, num_eval_images)
    changes = changed_arguments(arguments_of(report), asked)
    if changes:
        raise ConfigError(
            f"--out {out}: holds a finished run with {', '.join(changes[:3])}; choose another "
            "folder or --overwrite it"
        )
    return report


def asked_arguments(
    config: RecoverConfig, teacher: Teacher, dreams: DreamSet | None, num_eval_images: int | None
) -> dict[str, Any]:
    """Return what decides the result of a run, before anything is prepared for it."""
    identity = resolved(config, teacher).identity()
    digest = None if dreams is None else dreams.manifest.digest()
    return named_arguments(identity, teacher.spec.fingerprint, digest, num_eval_images)


def arguments_of(report: RecoveryReport) -> dict[str, Any]:
    """Return what a finished run was made with, as :func:`named_arguments` names it."""
    origin = report.provenance
    unimportant = RecoverConfig().to_json().keys() - RecoverConfig().identity().keys()
    identity = {name: value for name, value in report.config.items() if name not in unimportant}
    return named_arguments(
        identity,
        (origin.get("teacher") or {}).get("fingerprint"),
        (origin.get("dreams") or {}).get("digest"),
        origin.get("num_eval_images"),
    )
