"""How fast a run goes on this machine, from a few real steps on copies that are thrown away."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from recover.allocation import choose_masks
from recover.beginning import pruned_copy
from recover.config import RecoverConfig
from recover.costs import num_bytes_dense
from recover.distill import Distillation
from recover.evaluate import answers
from recover.mending import mend, num_batches_of
from recover.plan import rehearsal
from recover.preparation import Setup
from recover.schedule import last_pruning_step
from recover.selection import MOST_VARIANTS, NUM_VARIED
from shared.device import synchronize

NUM_TIMED_STEPS = 5
NUM_TIMED_IMAGES = 64
# The teacher twice (its answers are the measure), the pruned, the repaired, the recovered student.
NUM_JUDGMENTS = 5
# One forward pass with statistics and one without; matched repair looks twice.
PASSES_OF_REPAIR = {"none": 0, "batch-norm": 1.5, "matched": 3.5}
SECONDS_OF_LATENCY = 2.0  # that recover.costs measures for, and what comes with it
GZIP_BYTES_PER_SECOND = 15e6  # of float32 weights on an ordinary core


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What the parts of a run take, in seconds.

    Attributes:
        step: One distillation step: the median of the timed ones.
        pruning: One update of the masks on the way.
        aside: All that does not depend on the steps: repair, judging, measuring the costs.
    """

    step: float
    pruning: float
    aside: float

    def seconds(self, config: RecoverConfig, steps: int) -> float:
        """Return what a run of ``steps`` steps takes, pruned as the config says."""
        # No step at all is refused where gradients decide what to keep.
        last = last_pruning_step(dataclasses.replace(config, steps=steps, importance="magnitude"))
        num_prunings = last // config.prune_every + 1
        return self.aside + steps * self.step + num_prunings * self.pruning


def measure_pace(setup: Setup, num_real_images: int, patience: float) -> Pace:
    """Return how fast the run that ``setup`` describes would go; nothing is written.

    All processes of a group call this together. The setup is as it was.

    Args:
        setup: Of a config with at least one step.
        num_real_images: To judge by, 0 without.
        patience: Seconds after which one timed step has to do.

    Raises:
        IncompatibleError: If the network has nothing to prune.
    """
    run, _ = rehearsal(setup)
    step = _seconds_of_a_step(run, setup, patience)
    pruning = _timed(setup, lambda: _prune(run, setup))
    per_image = _seconds_of_an_image(setup)
    num_dreams = len(setup.split.held_out)
    num_judged = num_dreams + min(NUM_VARIED, MOST_VARIANTS * num_dreams) + num_real_images
    aside = NUM_JUDGMENTS * num_judged * per_image
    aside += _seconds_of_mending(setup, per_image)
    aside += SECONDS_OF_LATENCY + num_bytes_dense(setup.origin.network) / GZIP_BYTES_PER_SECOND
    return Pace(step=step, pruning=pruning, aside=aside)


def _seconds_of_a_step(run: Distillation, setup: Setup, patience: float) -> float:
    """Return the median; the first step, which sets things up, counts only where one must do."""
    first = _timed(setup, run.advance)
    if setup.group.any(first > patience):
        return first
    return statistics.median(_timed(setup, run.advance) for _ in range(NUM_TIMED_STEPS))


def _prune(run: Distillation, setup: Setup) -> None:
    choose_masks(run.student, setup.config, setup.config.sparsity, run.masks.kept)


def _seconds_of_an_image(setup: Setup) -> float:
    """Return what judging takes for one image; of two looks at a few the second counts."""
    images = setup.feed.batch(0)[0][:NUM_TIMED_IMAGES]

    def look() -> None:
        answers(setup.origin.network, images, setup.teacher.spec, name="pace")

    return min(_timed(setup, look), _timed(setup, look)) / len(images)


def _seconds_of_mending(setup: Setup, per_image: float) -> float:
    """Return what repair takes: counted in forward passes, or done once where it solves systems."""
    if setup.config.reconstruct != "none":
        network, masks = pruned_copy(setup.origin, setup.config)
        return _timed(setup, lambda: mend(setup, network, masks))
    num_images = num_batches_of(setup) * setup.num_rows_per_batch
    return PASSES_OF_REPAIR[setup.config.repair] * num_images * per_image


def _timed(setup: Setup, work: Callable[[], object]) -> float:
    synchronize(setup.device)
    started = time.perf_counter()
    work()
    synchronize(setup.device)
    return time.perf_counter() - started
