"""One process per device of this machine, started and watched by this one: ``--gpus``.

Every child makes its share of the shards, as workers do that a launcher started
(:mod:`shared.workers`); so the set has the same bytes for any number of them. It reports through
a pipe: progress, then its result or what went wrong. When this process is gone, the pipe breaks,
and the child ends: nobody is left computing unseen.
"""

import multiprocessing
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from dreamforge.config import SynthesisConfig
from dreamforge.forge import SynthesisResult, synthesize
from dreamforge.plan import plan_shards
from shared.device import describe_device, resolve_device
from shared.errors import DreamforgeError, OutOfMemoryError, is_out_of_memory
from shared.progress import Progress, ProgressCallback, ignore_progress
from shared.signals import handling, interrupt
from shared.teacher import load_teacher
from shared.workers import Worker

STAGE = "synthesize"
SECONDS_TO_END = 30.0  # for a child that was asked to; then it is killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What all children do together. Everything in it can be pickled.

    Attributes:
        teacher: The checkpoint; every child loads it.
        teacher_options: Those of :func:`shared.teacher.load_teacher`.
        config: Resolved, so that all children make parts of the same set.
        out: Path of the index.
        provenance: Facts for the index; ``device`` is what the child that writes it computes on.
        embed_teacher: Put the teacher's weights into the index.
        overwrite: Each child first removes its own shards.
    """

    teacher: Path
    teacher_options: Mapping[str, Any]
    config: SynthesisConfig
    out: Path
    provenance: Mapping[str, Any]
    embed_teacher: bool = False
    overwrite: bool = False


@dataclass(slots=True)
class _Child:
    """A process, and what it has said so far."""

    name: str
    process: BaseProcess
    connection: Connection
    report: Progress
    result: SynthesisResult | None = None
    error: DreamforgeError | None = None

    def hear(self, message: Progress | SynthesisResult | DreamforgeError) -> None:
        if isinstance(message, Progress):
            self.report = message
        elif isinstance(message, SynthesisResult):
            self.result = message
            self.report = replace(self.report, total=self.report.done)  # it may have had no work
        else:
            self.error = message

    def end(self) -> None:
        """Say why it ended, where it could not say so itself."""
        self.process.join()
        code = self.process.exitcode or 0
        if self.result is None and self.error is None:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            self.error = DreamforgeError(f"ended early ({how})")


def synthesize_on(
    devices: Sequence[str],
    job: Job,
    *,
    worker: Worker | None = None,
    progress: ProgressCallback = ignore_progress,
) -> SynthesisResult:
    """Make the dream set of ``job``, or what is missing of it, with one process per device.

    Args:
        devices: By name, such as ``cuda:1``; ``cpu`` any number of times. The processes share the
            threads of this one.
        job: What to make.
        worker: The share of this machine, where there are others.
        progress: Called with the sum of all processes' progress.

    Returns:
        The sum of all processes' results; ``seconds`` is how long the slowest took.

    Raises:
        DreamforgeError: If a process failed or was killed. The others have made their shards, and
            the same call again makes what is owed.
    """
    started = time.monotonic()
    children: dict[int, _Child] = {}
    try:
        # Children start deaf to Ctrl-C, which a terminal sends to all: this process tells them.
        with handling(signal.SIGINT, signal.SIG_IGN):
            for number in range(len(devices)):
                children[number] = _start(number, devices, job, worker or Worker())
        _follow(list(children.values()), progress)
    finally:
        _stop(list(children.values()))
    results = [child.result for child in children.values() if child.result]
    whole = next((result for result in results if result.finished), None)
    if whole is None and len(results) < len(children):
        raise _failure(list(children.values()))
    return replace(
        whole or results[0],
        num_made=sum(result.num_made for result in results),
        seconds=time.monotonic() - started,
        # What all of them found, all of them say.
        notes=tuple(dict.fromkeys(note for result in results for note in result.notes)),
    )


def _start(number: int, devices: Sequence[str], job: Job, worker: Worker) -> _Child:
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    num_threads = max(1, torch.get_num_threads() // len(devices))
    share = worker.part(number, len(devices))
    shards = plan_shards(job.config, job.out)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, share, devices[number], num_threads, theirs))
    process.start()
    theirs.close()  # else its end would not be noticed
    return _Child(
        name=f"process {number} of {len(devices)} ({devices[number]})",
        process=process,
        connection=ours,
        report=Progress(
            stage=STAGE,
            done=0,
            total=sum(shard.num_images for shard in shards if share.makes(shard.number)),
            unit="images",
        ),
    )


def _follow(children: Sequence[_Child], progress: ProgressCallback) -> None:
    """Hear all children out, until the last has ended."""
    running = {child.connection: child for child in children}
    started, told = time.monotonic(), 0.0
    while running:
        for connection in wait(list(running)):
            assert isinstance(connection, Connection)
            try:
                message = connection.recv()
            except (EOFError, OSError):  # ended, perhaps in the middle of a word
                running.pop(connection).end()
                continue
            if isinstance(message, Progress) and message.stage != STAGE:
                progress(message)  # what each does for itself before its first shard
            else:
                running[connection].hear(message)
        report = _sum_of([child.report for child in children], time.monotonic() - started)
        if report.done > told:
            progress(report)
            told = report.done


def _sum_of(reports: Sequence[Progress], seconds: float) -> Progress:
    done = round(sum(report.done for report in reports), 1)
    return Progress(
        stage=STAGE,
        done=done,
        total=sum(report.total for report in reports),
        unit="images",
        facts={"images/s": done / max(seconds, 1e-9), "processes": len(reports)},
    )


def _stop(children: Sequence[_Child]) -> None:
    """End whoever still runs: asked first, so that nothing half-written is left."""
    for child in children:
        child.process.terminate()
    deadline = time.monotonic() + SECONDS_TO_END
    for child in children:
        child.process.join(max(0.0, deadline - time.monotonic()))
        if child.process.is_alive():
            child.process.kill()
            child.process.join()
        child.connection.close()


def _failure(children: Sequence[_Child]) -> DreamforgeError:
    """Return one error for all: of the first one's kind, naming the processes if not all failed."""
    errors = [(child.name, child.error) for child in children if child.error]
    first = errors[0][1]
    if len(errors) == len(children) and len({str(error) for _, error in errors}) == 1:
        return first
    said = "; ".join(f"{name}: {error}" for name, error in errors[:3])
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    return type(first)(
        f"{said}{more}; only their shards are owed, the same command makes them (without "
        "--overwrite, which begins anew)"
    )


def _work(job: Job, worker: Worker, device: str, num_threads: int, connection: Connection) -> None:
    """Be one child: make a share, tell the parent how it goes and how it ended."""
    signal.signal(signal.SIGTERM, interrupt)
    torch.set_num_threads(num_threads)
    try:
        connection.send(_make_share(job, worker, device, connection))
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
    except (DreamforgeError, MemoryError, OSError, RuntimeError) as error:
        connection.send(_as_message(error))


def _make_share(
    job: Job, worker: Worker, device_name: str, connection: Connection
) -> SynthesisResult:
    device = resolve_device(device_name)
    facts = {**job.provenance, "device": describe_device(device)} if job.provenance else {}
    return synthesize(
        load_teacher(job.teacher, **job.teacher_options),
        job.config,
        job.out,
        device,
        worker=worker,
        provenance=facts,
        embed_teacher=job.embed_teacher,
        overwrite=job.overwrite,
        progress=connection.send,
    )


def _as_message(error: Exception) -> DreamforgeError:
    """Return what the parent is told; a bug is none of it and leaves a traceback."""
    if isinstance(error, DreamforgeError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(f"out of memory: {error}")
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return DreamforgeError(f"{error.filename}: {reason}" if error.filename else reason)
    raise error
