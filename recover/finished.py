"""A run that is finished already: was it made with what is asked for now?"""

from pathlib import Path
from typing import Any

from recover.config import RecoverConfig
from recover.folder import RunFolder, changed_arguments
from recover.preparation import named_arguments, resolved, start_of
from recover.report import RecoveryReport
from recover.results import read_report
from recover.student import origin_of_student
from recover.unlabeled import unlabeled_of
from shared.dreamset import DreamSet
from shared.errors import IncompatibleError
from shared.evaldata import EvalData
from shared.teacher import Teacher


def finished_report(
    config: RecoverConfig,
    teacher: Teacher,
    dreams: DreamSet | None,
    eval_data: EvalData | None,
    out: Path,
) -> RecoveryReport:
    """Return the report of the finished run in ``out`` if the same run is asked for again.

    Args:
        config: As asked for now.
        teacher: Likewise.
        dreams: Likewise; None of a pruning without.
        eval_data: Likewise; None without real images.
        out: Folder of a finished run.

    Raises:
        IncompatibleError: If it was made with other arguments.
        InputFileError: If its report cannot be read.
    """
    report = read_report(out)
    asked = asked_arguments(config, teacher, dreams, eval_data)
    changes = changed_arguments(arguments_of(report), asked)
    if changes:
        raise IncompatibleError(
            f"--out {out}: holds a finished run with {', '.join(changes[:3])}; choose another "
            "folder or --overwrite it"
        )
    RunFolder(out, {}).tidy()
    return report


def asked_arguments(
    config: RecoverConfig, teacher: Teacher, dreams: DreamSet | None, eval_data: EvalData | None
) -> dict[str, Any]:
    """Return what decides the result of a run, before anything is prepared for it."""
    start = None
    # A finished run is what it is after the file is gone, too.
    if config.student_weights is not None and Path(config.student_weights).exists():
        start = start_of(config, origin_of_student(config, teacher)[0])
    unlabeled = None
    if config.unlabeled is not None and Path(config.unlabeled).exists():
        unlabeled = unlabeled_of(config, teacher.spec)
    return named_arguments(
        resolved(config, teacher).identity(),
        teacher.spec.fingerprint,
        None if dreams is None else dreams.manifest.digest(),
        eval_data and len(eval_data.images),
        (eval_data and eval_data.digest, start, unlabeled and unlabeled.digest),
    )


def arguments_of(report: RecoveryReport) -> dict[str, Any]:
    """Return what a finished run was made with, as :func:`named_arguments` names it."""
    fact = report.fact
    unimportant = RecoverConfig().to_json().keys() - RecoverConfig().identity().keys()
    identity = {name: value for name, value in report.config.items() if name not in unimportant}
    return named_arguments(
        identity,
        fact("teacher", "fingerprint"),
        fact("dreams", "digest"),
        fact("num_eval_images"),
        (
            fact("eval_data_digest"),
            fact("student", "fingerprint") if identity.get("student_weights") else None,
            fact("unlabeled", "digest"),
        ),
    )
