"""Which engine makes a set: chosen by the method, used in one way."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import torch

from dreamforge.common_start import StartFile, learn_start
from dreamforge.config import SynthesisConfig, parse_sparsities
from dreamforge.engine import Engine, StepCallback, SynthesizedBatch
from dreamforge.fast_engine import FastEngine
from dreamforge.journal import Journal
from dreamforge.opponents import make_opponents
from dreamforge.shard_stream import ShardStream
from dreamforge.units import usual_units
from shared.progress import Progress, ProgressCallback
from shared.teacher import Teacher


class BatchEngine(Protocol):
    """Makes the batches of one shard, in order."""

    def synthesize(
        self, batch: int, start: int, stop: int, on_step: StepCallback | None = None
    ) -> SynthesizedBatch:
        """Return dreams ``start`` to ``stop`` of the set, which are its batch number ``batch``."""


class RehearsingEngine(Protocol):
    """Does what a batch costs, without its result."""

    def rehearse(self, num_images: int, on_step: StepCallback | None = None) -> None:
        """Do a batch's steps and keep nothing."""


def shard_engines(
    teacher: Teacher,
    config: SynthesisConfig,
    device: torch.device,
    file: StartFile,
    journal: Journal,
    progress: ProgressCallback,
) -> tuple[Callable[[], BatchEngine], str]:
    """Return what gives each shard, whichever it is, an engine that knows nothing of the others.

    Also why the network could not be compiled, if that was wanted and failed; else empty. With
    ``--method generator`` the shards' common start is learned first, or read from ``file``; with
    ``--method adaptive`` the opponents are made first.
    """
    units = usual_units(teacher, config.method)
    teacher = units.teacher
    if config.method == "generator":
        fast = FastEngine(teacher, config, device)
        with journal.timing(None):
            start = learn_start(fast, file, progress)
        return lambda: ShardStream(fast, start), ""
    opponents = None
    if config.method == "adaptive":
        with journal.timing(None):
            opponents = make_opponents(teacher, config, device, progress).logits
    engine = Engine(teacher, config, device, opponents, gray=units.is_gray)
    if config.compile == "on":
        progress(Progress(stage="compile", done=0, total=1, unit="networks"))
    return lambda: engine, engine.prepare()


def rehearsing_engine(
    teacher: Teacher, config: SynthesisConfig, device: torch.device
) -> RehearsingEngine:
    """Return an engine whose steps can be timed, compiled if the config says so."""
    units = usual_units(teacher, config.method)
    teacher = units.teacher
    if config.method == "generator":
        return FastEngine(teacher, config, device)
    opponents = None
    if config.method == "adaptive":  # how well they are repaired makes them no slower
        hasty = dataclasses.replace(config, steps=1)
        opponents = make_opponents(teacher, hasty, device).logits
    engine = Engine(teacher, config, device, opponents, gray=units.is_gray)
    engine.prepare()
    return engine


def num_rehearsed_batches(config: SynthesisConfig) -> float:
    """Return how many batches each worker makes before its first shard, and does not keep."""
    if config.method == "adaptive":  # one, and without opponents it goes through one network
        return 1 / (1 + len(parse_sparsities(config.opponent_sparsity)))
    return config.meta_batches if config.method == "generator" else 0
