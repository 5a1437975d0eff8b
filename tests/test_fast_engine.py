import dataclasses

import pytest
import torch

from dreamforge import fast_engine as fast_engine_module
from dreamforge.config import SynthesisConfig
from dreamforge.fast_engine import FastEngine, toward
from dreamforge.noise import balanced_targets
from dreamforge.shard_stream import ShardStream
from shared.errors import DreamforgeError
from shared.seeding import generator

CPU = torch.device("cpu")
CONFIG = SynthesisConfig(
    method="generator",
    num_images=48,
    batch_size=16,
    steps=5,
    jitter=1,
    flip=False,  # it turns one of the tiny teacher's classes into another
    generator_width=8,
    latent_size=8,
    meta_batches=2,
    precision="float32",
).resolve((3, 8, 8))


def adapt(engine, start, number=0):
    targets = balanced_targets(4, 0, 0, 16)
    return engine.adapt("a batch", targets, generator(0, "batch", number), start)


def test_the_start_moves_its_share_of_the_way():
    """Reptile on a parabola, in closed form.

    Gradient descent at rate a towards c leaves (1 - a)^k of the way after k steps, so that one
    outer update of rate e leaves 1 - e (1 - (1 - a)^k).
    """
    weight, center, rate, steps, outer = 7.0, 3.0, 0.2, 4, 0.25
    adapted = torch.tensor(weight, dtype=torch.float64)
    for _ in range(steps):
        adapted = adapted - rate * (adapted - center)
    (moved,) = toward([torch.tensor(weight, dtype=torch.float64)], [adapted], outer)

    left = 1 - outer * (1 - (1 - rate) ** steps)
    assert moved.item() == pytest.approx(center + left * (weight - center), rel=1e-12)


def test_the_outer_update_is_that_of_the_engine(tiny_teacher):
    """Rate 1 continues from the adapted weights, 0 forgets them, one half is between."""
    starts = []
    for rate in (0.0, 0.5, 1.0):
        engine = FastEngine(tiny_teacher, dataclasses.replace(CONFIG, outer_rate=rate), CPU)
        starts.append(adapt(engine, engine.initial).next_start.weights)
    initial = engine.initial.weights

    assert all(torch.equal(a, b) for a, b in zip(starts[0], initial, strict=True))
    assert not torch.equal(starts[2][0], initial[0])
    for none, half, whole in zip(*starts, strict=True):
        assert torch.allclose(half, (none + whole) / 2, atol=1e-6)


def test_the_loss_falls_from_batch_to_batch(tiny_teacher):
    config = dataclasses.replace(CONFIG, steps=4)
    engine = FastEngine(tiny_teacher, config, CPU)
    start, losses = engine.initial, []
    for number in range(12):
        adapted = adapt(engine, start, number)
        start = adapted.next_start
        losses.append(adapted.terms["total"])

    assert max(losses[-3:]) < losses[0] / 2


def test_dreams_are_recognised_after_a_few_steps_from_a_learned_start(tiny_teacher):
    config = dataclasses.replace(CONFIG, steps=20, bn_weight=3.0)
    engine = FastEngine(tiny_teacher, config, CPU)
    start = engine.initial
    for number in range(8):
        start = adapt(engine, start, 100 + number).next_start
    dreams = ShardStream(engine, start).synthesize(0, 0, 16).dreams

    assert (tiny_teacher.logits(dreams.images).argmax(1) == dreams.labels).float().mean() >= 0.9


def test_stored_logits_are_the_teachers_answer_to_the_stored_images(tiny_teacher):
    engine = FastEngine(tiny_teacher, CONFIG, CPU)
    dreams = ShardStream(engine, engine.initial).synthesize(1, 16, 32).dreams

    assert torch.equal(dreams.logits, tiny_teacher.logits(dreams.images).to(torch.float16))
    assert torch.equal(dreams.labels, balanced_targets(4, 0, 16, 32))
    assert dreams.batch.tolist() == [1] * 16
    assert dreams.images.dtype == torch.uint8


def test_entropy_labels_are_the_teachers_answers(tiny_teacher):
    config = dataclasses.replace(CONFIG, class_loss="entropy")
    engine = FastEngine(tiny_teacher, config, CPU)
    dreams = ShardStream(engine, engine.initial).synthesize(0, 0, 16).dreams

    assert torch.equal(dreams.labels, tiny_teacher.logits(dreams.images).argmax(1))


def test_a_batch_depends_on_its_start_and_on_nothing_that_was_made_between(tiny_teacher):
    engine = FastEngine(tiny_teacher, CONFIG, CPU)
    weights = [weight.clone() for weight in engine.initial.weights]
    first = adapt(engine, engine.initial)
    adapt(engine, first.next_start, 7)
    again = adapt(engine, engine.initial)
    elsewhere = FastEngine(tiny_teacher, CONFIG, CPU)

    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.inputs, adapt(elsewhere, elsewhere.initial).inputs)
    assert not torch.equal(first.inputs, adapt(engine, first.next_start).inputs)
    assert all(torch.equal(a, b) for a, b in zip(weights, engine.initial.weights, strict=True))


def test_a_shards_batches_learn_from_each_other_and_shards_do_not(tiny_teacher):
    engine = FastEngine(tiny_teacher, CONFIG, CPU)
    stream = ShardStream(engine, engine.initial)
    stream.synthesize(0, 0, 16)
    second = stream.synthesize(1, 16, 32).dreams.images
    alone = ShardStream(engine, engine.initial).synthesize(1, 16, 32).dreams.images

    assert not torch.equal(second, alone)


def test_the_terms_are_those_of_the_stored_inputs(tiny_teacher):
    """Also the class term of the last step, after which the weights still moved."""
    engine = FastEngine(tiny_teacher, CONFIG, CPU)
    adapted = adapt(engine, engine.initial)
    logits = tiny_teacher.network(adapted.inputs)
    expected = torch.nn.functional.cross_entropy(logits, balanced_targets(4, 0, 0, 16))

    assert adapted.terms["class"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_teacher_is_left_alone(tiny_teacher):
    before = {name: value.clone() for name, value in tiny_teacher.network.state_dict().items()}
    FastEngine(tiny_teacher, CONFIG, CPU).rehearse(8)
    after = tiny_teacher.network.state_dict()

    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in tiny_teacher.network.parameters())


def test_a_batch_that_diverges_is_made_again_with_half_the_rates(tiny_teacher, monkeypatch):
    factors = []
    original = FastEngine._optimize

    def unstable(self, latents, targets, moves, start, factor, on_step):
        factors.append(factor)
        inputs, terms, stats = original(self, latents, targets, moves, start, factor, on_step)
        return inputs, {**terms, "total": float("nan")} if factor > 0.3 else terms, stats

    monkeypatch.setattr(FastEngine, "_optimize", unstable)
    engine = FastEngine(tiny_teacher, CONFIG, CPU)

    assert adapt(engine, engine.initial).attempts == 3
    assert factors == [1, 1 / 2, 1 / 4]


def test_a_batch_that_always_diverges_is_one_clear_error(tiny_teacher, monkeypatch):
    monkeypatch.setattr(
        fast_engine_module,
        "objective",
        lambda *a, **_: (a[1].sum() * float("nan"), {"bn": a[1].sum().detach()}),
    )
    engine = FastEngine(tiny_teacher, CONFIG, CPU)
    with pytest.raises(DreamforgeError, match="a batch diverged 4 times: lower --generator-lr"):
        adapt(engine, engine.initial)


def test_steps_report_their_terms(tiny_teacher, monkeypatch):
    monkeypatch.setattr(fast_engine_module, "SECONDS_BETWEEN_READS", 0.0)
    reports = []
    engine = FastEngine(tiny_teacher, CONFIG, CPU)
    ShardStream(engine, engine.initial).synthesize(
        0, 0, 16, lambda step, terms: reports.append((step, terms))
    )

    assert [step for step, _ in reports] == [1, 2, 3, 4, 5]
    assert set(reports[0][1]) == {"loss", "class", "bn", "likeness"}
