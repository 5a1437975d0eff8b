"""BatchNorm statistics of a stream of batches: what earlier ones looked like counts, too.

Fang et al. 2022 (arXiv:2112.06253) let the running average of the batches' statistics match what
the teacher remembers, instead of each batch's own: a batch may then differ from the whole, as
batches of real images do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dreamforge.bn_stats import BatchStats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamStats:
    """The moments of the batches so far, one pair per BatchNorm call.

    Unlike the paper, which averages variances, second moments are averaged: the variance of a
    mixture is not the mean of its parts' variances.

    Attributes:
        moments: Mean and mean square, each float32 ``(C,)``; empty before the first batch.
        num_batches: How many batches went in.
    """

    moments: tuple[tuple[Tensor, Tensor], ...] = ()
    num_batches: int = 0

    def including(self, batch: Sequence[BatchStats], momentum: float) -> list[BatchStats]:
        """Return the statistics of the stream together with one more batch.

        Earlier batches weigh ``momentum``, but never more than in a plain average over all, so
        that the first ones do not stand for a whole stream. Gradients flow into the batch's.

        Args:
            batch: As a :class:`~dreamforge.bn_stats.BatchNormMonitor` took it.
            momentum: In [0, 1).
        """
        if not self.moments:
            return list(batch)
        weight = min(momentum, self.num_batches / (self.num_batches + 1))
        merged = []
        for (mean, square), now in zip(self.moments, batch, strict=True):
            both = weight * mean + (1 - weight) * now.mean
            squares = weight * square + (1 - weight) * (now.var + now.mean.square())
            # The difference of rounded numbers can be below zero, a variance cannot.
            var = (squares - both.square()).clamp_min(0)
            merged.append(now._replace(mean=both, var=var))
        return merged

    def after(self, batch: Sequence[BatchStats], momentum: float) -> "StreamStats":
        """Return the stream with one batch more, without gradients."""
        merged = self.including(batch, momentum)
        moments = tuple(
            (each.mean.detach(), (each.var + each.mean.square()).detach()) for each in merged
        )
        return StreamStats(moments=moments, num_batches=self.num_batches + 1)
