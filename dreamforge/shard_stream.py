"""The batches of one shard, made one after another by a generator that goes on learning."""

import torch

from dreamforge.engine import StepCallback, SynthesizedBatch
from dreamforge.fast_engine import FastEngine, Start
from dreamforge.noise import balanced_targets
from shared.dreams import DreamBatch
from shared.images import to_images
from shared.seeding import generator
from shared.values import stored_logits


class ShardStream:
    """Makes the batches of one shard, in order; each starts from what those before have taught.

    Every shard begins at the same start, so that shards do not depend on each other.
    """

    def __init__(self, engine: FastEngine, start: Start) -> None:
        self._engine = engine
        self._start = start

    def synthesize(
        self, batch: int, start: int, stop: int, on_step: StepCallback | None = None
    ) -> SynthesizedBatch:
        """Return dreams ``start`` to ``stop`` of the set, which are its batch number ``batch``.

        Raises:
            DreamforgeError: If the batch diverges even at an eighth of the rates.
        """
        config, scorer = self._engine.config, self._engine.scorer
        targets = balanced_targets(scorer.spec.num_classes, config.seed, start, stop)
        draws = generator(config.seed, "batch", batch)
        adapted = self._engine.adapt(f"batch {batch}", targets, draws, self._start, on_step)
        self._start = adapted.next_start
        images = to_images(scorer.denormalize(adapted.inputs)).contiguous()
        logits = scorer.logits(images).cpu()
        if config.class_loss == "entropy":  # nobody asked for a class: the answer is it
            targets = logits.argmax(1)
        dreams = DreamBatch(
            images=images.cpu(),
            labels=targets,
            logits=stored_logits(logits, scorer.spec.architecture),
            batch=torch.full((stop - start,), batch, dtype=torch.int32),
            loss=torch.full((stop - start,), adapted.terms["total"]),
        )
        return SynthesizedBatch(dreams=dreams, terms=adapted.terms, attempts=adapted.attempts)
