import copy
import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from dreamforge import engine as engine_module
from dreamforge import inversion_loss
from dreamforge.bn_stats import BatchNormMonitor
from dreamforge.config import SynthesisConfig
from dreamforge.engine import Engine, SynthesizedBatch, _Best, rate_factor
from dreamforge.fast_engine import FastEngine
from dreamforge.moves import jitters, move
from dreamforge.noise import balanced_targets, initial_inputs
from dreamforge.objective import bn_kl
from dreamforge.shard_stream import ShardStream
from shared.architectures import build_network
from shared.errors import CheckpointError, DreamforgeError
from shared.natural import NaturalBasis
from shared.seeding import generator
from shared.spec import TeacherSpec
from shared.teacher import Teacher, fingerprint, load_teacher

CPU = torch.device("cpu")
SHIPPED = Path(__file__).parents[1] / "data" / "cifar10-resnet20.safetensors"


def bn_distance(teacher, images):
    with BatchNormMonitor(teacher.network) as monitor:
        teacher.network(teacher.normalize(images.float() / 255))
        return bn_kl(monitor.take()).item()


def test_dreams_are_recognised_and_match_the_remembered_statistics(tiny_teacher):
    # No mirror: it turns one of this teacher's classes into another.
    config = SynthesisConfig(num_images=32, steps=100, jitter=0, flip=False, bn_weight=3.0).resolve(
        (3, 8, 8)
    )
    result = Engine(tiny_teacher, config, CPU).synthesize(0, 0, 32)
    dreams = result.dreams
    noise = torch.randint(0, 256, dreams.images.shape, dtype=torch.uint8)

    assert (tiny_teacher.logits(dreams.images).argmax(1) == dreams.labels).float().mean() >= 0.95
    assert bn_distance(tiny_teacher, dreams.images) < bn_distance(tiny_teacher, noise) / 5


def test_stored_logits_are_the_teachers_answer_to_the_stored_images(tiny_teacher, tiny_config):
    dreams = Engine(tiny_teacher, tiny_config, CPU).synthesize(1, 8, 16).dreams

    expected = tiny_teacher.logits(dreams.images).to(torch.float16)
    assert torch.equal(dreams.logits, expected)
    assert torch.equal(dreams.labels, balanced_targets(4, 0, 8, 16))
    assert dreams.batch.tolist() == [1] * 8


def test_logits_that_float16_cannot_hold_are_one_line(tiny_teacher, tiny_config):
    network = copy.deepcopy(tiny_teacher.network)
    network.linear.weight.mul_(1e7)
    teacher = Teacher(network=network, spec=tiny_teacher.spec)
    config = dataclasses.replace(tiny_config, steps=1)
    fast = FastEngine(teacher, dataclasses.replace(config, method="generator"), CPU)

    for engine in (Engine(teacher, config, CPU), ShardStream(fast, fast.initial)):
        with pytest.raises(CheckpointError, match=r"resnet8: logits beyond float16 .* mean, std"):
            engine.synthesize(0, 0, 8)


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 2e-2)])
@pytest.mark.parametrize(("jitter", "flip"), [(1, True), (0, True), (0, False)])
def test_the_engine_agrees_with_ten_naive_lines(tiny_teacher, jitter, flip, precision, tolerance):
    """Plain autograd through hooks, float32, the same noise and moves.

    Without moves the engine's gradient can come back channels-last, which a fused Adam would
    silently apply to the wrong pixels: the loss then stays where it began.
    """
    config = SynthesisConfig(
        num_images=8,
        steps=5,
        jitter=jitter,
        flip=flip,
        precision=precision,
        bn_weight=3.0,
        tv_weight=0.1,
        space="pixels",
        init="pink",
        jitter_kind="roll",
    ).resolve((3, 8, 8))
    dreams = Engine(tiny_teacher, config, CPU).synthesize(0, 0, 8)

    network, spec = tiny_teacher.network, tiny_teacher.spec
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    seen = []
    handles = [
        m.register_forward_pre_hook(lambda m, args: seen.append((m, args[0]))) for m in norms
    ]
    draws = generator(0, "batch", 0)
    low = (torch.zeros(3, 1, 1) - 0.5) / 0.25
    high = (torch.ones(3, 1, 1) - 0.5) / 0.25
    noise = initial_inputs("pink", 8, spec.image_shape, draws)
    inputs = noise.clamp(low, high).requires_grad_()
    moves = jitters(5, jitter, draws, flip=flip)
    adam = torch.optim.Adam([inputs], lr=config.lr, betas=(config.beta1, config.beta2))
    losses = []
    for step in range(5):
        adam.param_groups[0]["lr"] = config.lr * rate_factor(config, step)
        seen.clear()
        moved = move(inputs, *moves[step])
        loss = F.cross_entropy(network(moved), balanced_targets(4, 0, 0, 8))
        for module, values in seen:
            mean, var = values.mean((0, 2, 3)), values.var((0, 2, 3), correction=0) + 1e-5
            rv = module.running_var + 1e-5
            kl = (rv / var).log() + (var + (mean - module.running_mean) ** 2) / rv - 1
            loss = loss + 3.0 * kl.mean() / 2 / len(norms)
        vertical = (moved[:, :, 1:] - moved[:, :, :-1]).square().mean()
        loss = loss + 0.1 * (vertical + (moved[..., 1:] - moved[..., :-1]).square().mean())
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            inputs.copy_(inputs.clamp(low, high))
    for handle in handles:
        handle.remove()

    assert dreams.terms["total"] == pytest.approx(min(losses), rel=tolerance)


def test_natural_steps_agree_with_autograd_through_the_basis(tiny_teacher, tiny_config):
    config = dataclasses.replace(tiny_config, jitter=0, flip=False, bn_weight=0.0, compile="off")
    config = config.resolve((3, 8, 8))
    terms = Engine(tiny_teacher, config, CPU).synthesize(0, 0, 8).terms

    basis = NaturalBasis((3, 8, 8), CPU)
    low, high = torch.tensor(-2.0), torch.tensor(2.0)  # (0 - 0.5) / 0.25 and (1 - 0.5) / 0.25
    noise = initial_inputs(config.init, 8, (3, 8, 8), generator(config.seed, "batch", 0))
    coefficients = basis.coefficients(noise).requires_grad_()
    adam = torch.optim.Adam([coefficients], lr=config.lr, betas=(config.beta1, config.beta2))
    losses = []
    for step in range(config.steps):
        adam.param_groups[0]["lr"] = config.lr * rate_factor(config, step)
        free = basis.inputs(coefficients)
        inputs = free.detach().clamp(low, high).requires_grad_()
        targets = balanced_targets(4, config.seed, 0, 8)
        loss = config.class_weight * F.cross_entropy(tiny_teacher.network(inputs), targets)
        (gradient,) = torch.autograd.grad(loss, inputs)
        keeps = ~((free > high) & (gradient < 0)) & ~((free < low) & (gradient > 0))
        adam.zero_grad()
        free.backward(gradient * keeps)
        adam.step()
        losses.append(loss.item())

    assert terms["total"] == pytest.approx(min(losses), rel=1e-3)


def test_the_returned_batch_is_the_best_one_seen_not_the_last(
    tiny_teacher, tiny_config, monkeypatch
):
    """The reference CIFAR script aliases the tensor that Adam moves: its best is its last."""
    seen = []
    original = inversion_loss.objective

    def best_at_step_two(*args, **options):
        total, terms = original(*args, **options)
        total = total + 1000 * abs(len(seen) - 2)
        seen.append((total.item(), args[1].detach().clone()))
        return total, terms

    monkeypatch.setattr(inversion_loss, "objective", best_at_step_two)
    config = dataclasses.replace(tiny_config, jitter=0, flip=False)
    result = Engine(tiny_teacher, config, CPU).synthesize(0, 0, 8)
    loss, inputs = seen[2]

    assert result.terms["total"] == pytest.approx(loss)
    expected = tiny_teacher.denormalize(inputs).clamp(0, 1).mul(255).round().to(torch.uint8)
    assert torch.equal(result.dreams.images, expected)
    assert not torch.equal(seen[2][1], seen[-1][1])


def test_a_batch_alone_is_that_batch_of_a_run(tiny_teacher, tiny_config):
    engine = Engine(tiny_teacher, tiny_config, CPU)
    engine.synthesize(0, 0, 8)
    after_another = engine.synthesize(2, 16, 24).dreams
    alone = Engine(tiny_teacher, tiny_config, CPU).synthesize(2, 16, 24).dreams

    assert torch.equal(after_another.images, alone.images)
    assert torch.equal(after_another.logits, alone.logits)


def test_seeds_and_batches_give_different_dreams(tiny_teacher, tiny_config):
    other_seed = dataclasses.replace(tiny_config, seed=1)
    first = Engine(tiny_teacher, tiny_config, CPU).synthesize(0, 0, 8).dreams.images
    second = Engine(tiny_teacher, tiny_config, CPU).synthesize(1, 8, 16).dreams.images
    third = Engine(tiny_teacher, other_seed, CPU).synthesize(0, 0, 8).dreams.images

    assert not torch.equal(first, second)
    assert not torch.equal(first, third)


def test_mixed_precision_stays_close_to_float32(tiny_teacher):
    plain = SynthesisConfig(num_images=32, steps=30, precision="float32").resolve((3, 8, 8))
    mixed = dataclasses.replace(plain, precision="bfloat16")
    distances = [
        bn_distance(tiny_teacher, Engine(tiny_teacher, c, CPU).synthesize(0, 0, 32).dreams.images)
        for c in (plain, mixed)
    ]

    assert distances[1] == pytest.approx(distances[0], rel=0.25)


def test_the_teacher_is_left_alone(tiny_teacher, tiny_config):
    before = {name: value.clone() for name, value in tiny_teacher.network.state_dict().items()}
    Engine(tiny_teacher, tiny_config, CPU).synthesize(0, 0, 8)

    after = tiny_teacher.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in tiny_teacher.network.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in tiny_teacher.network.modules())


def test_entropy_labels_are_the_teachers_answers(tiny_teacher, tiny_config):
    config = dataclasses.replace(tiny_config, class_loss="entropy")
    dreams = Engine(tiny_teacher, config, CPU).synthesize(0, 0, 8).dreams

    assert torch.equal(dreams.labels, tiny_teacher.logits(dreams.images).argmax(1))


def test_a_batch_that_diverges_is_tried_again_with_half_the_rate(
    tiny_teacher, tiny_config, monkeypatch
):
    rates = []
    original = Engine._optimize

    def unstable(self, batch, targets, lr, on_step):
        rates.append(lr)
        best = original(self, batch, targets, lr, on_step)
        if lr > tiny_config.lr / 3:
            best.last = torch.tensor(float("nan"))
        return best

    monkeypatch.setattr(Engine, "_optimize", unstable)
    result = Engine(tiny_teacher, tiny_config, CPU).synthesize(0, 0, 8)

    assert rates == [tiny_config.lr, tiny_config.lr / 2, tiny_config.lr / 4]
    assert result.attempts == 3


def test_a_batch_that_always_diverges_is_one_clear_error(tiny_teacher, tiny_config, monkeypatch):
    monkeypatch.setattr(
        inversion_loss, "objective", lambda *a, **_: (a[1].sum() * float("nan"), {"bn": a[1].sum()})
    )
    with pytest.raises(DreamforgeError, match="batch 0 diverged 4 times"):
        Engine(tiny_teacher, tiny_config, CPU).synthesize(0, 0, 8)


@pytest.mark.parametrize(
    ("first", "last", "diverged"),
    [(2.0, 0.1, False), (2.0, 2.9, False), (2.0, 3.1, True), (2.0, float("inf"), True)],
)
def test_a_loss_that_ends_well_above_where_it_began_has_diverged(first, last, diverged):
    best = _Best(torch.zeros(1), *torch.tensor([min(first, last), first, last]))

    assert best.diverged() is diverged


def scenes_of_the_shipped_teacher(lr: float) -> SynthesizedBatch:
    teacher = load_teacher(SHIPPED)
    config = SynthesisConfig(num_images=8, steps=8, lr=lr).resolve(teacher.spec.image_shape)
    return Engine(teacher, config, CPU).synthesize(0, 0, 8)


def test_a_rate_that_only_throws_scenes_about_is_halved_until_they_settle():
    """Losses stay finite then: colours have an end."""
    result = scenes_of_the_shipped_teacher(10.0)
    settled = scenes_of_the_shipped_teacher(2.5)

    assert (result.attempts, settled.attempts) == (3, 1)
    assert torch.equal(result.dreams.images, settled.dreams.images)


def test_where_no_rate_settles_the_error_says_what_the_loss_did():
    with pytest.raises(DreamforgeError, match=r"at rate 125 from a loss of [\d.]+ to [\d.]+: low"):
        scenes_of_the_shipped_teacher(1000.0)


def test_the_rate_warms_up_and_falls_to_nothing():
    config = SynthesisConfig(steps=100, warmup=10, lr_schedule="cosine")
    factors = [rate_factor(config, step) for step in range(100)]

    assert factors[0] == pytest.approx(0.1)
    assert factors.index(max(factors)) == 9
    assert factors[-1] < 0.001
    assert rate_factor(SynthesisConfig(steps=10, lr_schedule="constant"), 9) == 1.0


def test_steps_report_their_terms(tiny_teacher, tiny_config, monkeypatch):
    monkeypatch.setattr(engine_module, "SECONDS_BETWEEN_READS", 0.0)
    reports = []
    Engine(tiny_teacher, tiny_config, CPU).synthesize(
        0, 0, 8, lambda step, terms: reports.append((step, terms))
    )

    assert [step for step, _ in reports] == list(range(1, 7))
    assert set(reports[0][1]) == {"loss", "class", "bn"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_loss_falls_without_moves_at_the_size_where_gradients_come_back_channels_last(
    precision,
):
    """A fused Adam gives such a gradient to the wrong pixels, silently, if nobody reorders it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network("resnet8", num_classes=10)
    spec = TeacherSpec(
        architecture="resnet8",
        num_classes=10,
        image_shape=(3, 32, 32),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        fingerprint=fingerprint(network),
    )
    config = SynthesisConfig(
        num_images=16, batch_size=16, steps=40, jitter=0, flip=False, precision=precision, lr=0.2
    )
    teacher = Teacher(network=network, spec=spec)
    engine = Engine(teacher, config.resolve(spec.image_shape), CPU)
    first = Engine(teacher, dataclasses.replace(config, steps=1).resolve(spec.image_shape), CPU)

    start, end = (each.synthesize(0, 0, 16).terms["total"] for each in (first, engine))
    assert end < 0.6 * start
