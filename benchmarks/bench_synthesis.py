"""How fast inversion runs, beside a loop as the papers' scripts write it. Prints Markdown.

    python benchmarks/bench_synthesis.py                # random weights: rates
    python benchmarks/bench_synthesis.py --teacher resnet20.pt --steps 100  # time to a distance
    python benchmarks/bench_synthesis.py --device cuda --networks resnet20,resnet34,resnet50

Three loops do the same work in one run, one after the other and again: *plain* (float32, NCHW,
hooks with ``mean`` and ``var``, weight gradients on, one loss read per step), *eager* (the engine,
not compiled) and *compiled*. Same noise, targets, moves, rates and objective in all of them, and
pixels are what is moved, as in the scripts. The fourth, *natural*, is compiled and moves what
``--space natural`` moves, the default: a little more work in a step, and other dreams. Each
network is measured in a process of its own, so that peak memory is that loop's. The last columns
compare with what this device can do at most, measured in the same process: bytes are those of
every layer's input and output, once forward and twice backward, which no loop can avoid without
fusing across convolutions.
"""

import argparse
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from dreamforge.bn_stats import BatchStats  # noqa: E402
from dreamforge.config import SynthesisConfig  # noqa: E402
from dreamforge.engine import Engine, rate_factor  # noqa: E402
from dreamforge.moves import jitters, move  # noqa: E402
from dreamforge.noise import balanced_targets, initial_inputs  # noqa: E402
from dreamforge.objective import bn_kl, objective  # noqa: E402
from shared.architectures import build_network  # noqa: E402
from shared.device import (  # noqa: E402
    compute_dtype,
    describe_device,
    peak_num_bytes,
    reset_peak_memory,
    resolve_device,
    synchronize,
)
from shared.seeding import generator  # noqa: E402
from shared.spec import TeacherSpec  # noqa: E402
from shared.teacher import Teacher, batch_norms, fingerprint, load_teacher  # noqa: E402

# name: architecture of the catalog, image side, batch size on a CPU, batch size on a GPU.
NETWORKS = {
    "resnet20": ("resnet20", 32, 256, 256),
    "resnet34": ("cifar_resnet34", 32, 128, 256),
    "resnet50": ("resnet50", 224, 16, 64),
    "mobilenet_v2": ("mobilenet_v2", 224, 16, 64),
}
LOOPS = ("plain", "eager", "compiled", "natural")
OnStep = Callable[[int, dict[str, float]], None]


class PlainLoop:
    """The loop of the published scripts, written anew from their description.

    Nothing is saved that they do not save: every parameter wants a gradient, hooks compute the
    statistics with ``mean`` and ``var``, and the host reads the loss in every step.
    """

    def __init__(self, teacher: Teacher, config: SynthesisConfig, device: torch.device) -> None:
        self._teacher = teacher.to(device)
        self._network = self._teacher.network.float().requires_grad_(True)
        self._config = config
        self._device = device

    def run(self, num_images: int, on_step: OnStep) -> None:
        """Do a batch's steps; report each."""
        config, device = self._config, self._device
        stats: list[BatchStats] = []

        def hook(norm: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            values = inputs[0]
            mean = values.mean([0, 2, 3])
            flat = values.permute(1, 0, 2, 3).contiguous().view(values.shape[1], -1)
            var = flat.var(1, correction=0)
            stats.append(BatchStats(mean, var, norm.running_mean, norm.running_var))

        norms = batch_norms(self._network).values()
        handles = [norm.register_forward_hook(hook) for norm in norms]
        draws = generator(config.seed, "batch", 0)
        spec = self._teacher.spec
        noise = initial_inputs(config.init, num_images, spec.image_shape, draws)
        moves = jitters(config.steps or 1, config.jitter or 0, draws, flip=config.flip)
        targets = balanced_targets(spec.num_classes, config.seed, 0, num_images).to(device)
        low, high = self._limits(spec.image_shape)
        inputs = torch.maximum(torch.minimum(noise.to(device), high), low).requires_grad_()
        adam = torch.optim.Adam([inputs], lr=config.lr, betas=(config.beta1, config.beta2))
        best, best_inputs = float("inf"), inputs.detach().clone()
        for step in range(config.steps or 1):
            adam.param_groups[0]["lr"] = config.lr * rate_factor(config, step)
            adam.zero_grad()
            self._network.zero_grad()
            moved = move(inputs, *moves[step])
            loss, terms = objective(config, moved, self._network(moved), targets, stats)
            stats.clear()
            loss.backward()
            if loss.item() < best:
                best, best_inputs = loss.item(), inputs.detach().clone()
            adam.step()
            inputs.data = torch.maximum(torch.minimum(inputs.data, high), low)
            on_step(step + 1, {"bn": terms["bn"].item()})
        del best_inputs
        for handle in handles:
            handle.remove()

    def _limits(self, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        black, white = torch.zeros(1, *shape), torch.ones(1, *shape)
        normalize = self._teacher.normalize
        return normalize(black.to(self._device)), normalize(white.to(self._device))


class EngineLoop:
    """Our engine, reporting every step for the curve only where ``observe`` is set."""

    def __init__(
        self, teacher: Teacher, config: SynthesisConfig, device: torch.device, **changes: str
    ) -> None:
        self._engine = Engine(teacher, dataclasses.replace(config, **changes), device)
        started = time.perf_counter()
        problem = self._engine.prepare()
        self.seconds_to_compile = time.perf_counter() - started
        if problem:
            raise SystemExit(f"cannot be compiled: {problem}")

    def run(self, num_images: int, on_step: OnStep) -> None:
        """Do a batch's steps; report about once a second, as in a real run."""
        self._engine.rehearse(num_images, on_step)


def random_teacher(architecture: str, side: int) -> Teacher:
    """Return a network with random weights, for rates alone."""
    torch.manual_seed(0)  # noqa: TID251
    network = build_network(architecture, num_classes=10).eval().requires_grad_(False)
    spec = TeacherSpec(
        architecture=architecture,
        num_classes=10,
        image_shape=(3, side, side),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        fingerprint=fingerprint(network),
    )
    return Teacher(network=network, spec=spec)


def make_loop(name: str, teacher: Teacher, config: SynthesisConfig, device: torch.device) -> Any:
    """Return one of the four loops."""
    if name == "plain":
        return PlainLoop(teacher, config, device)
    space = "natural" if name == "natural" else "pixels"
    return EngineLoop(
        teacher, config, device, compile="off" if name == "eager" else "on", space=space
    )


def measure(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure one loop with one network; everything that is printed of it."""
    device = resolve_device(chosen.device)
    architecture, side, on_cpu, on_gpu = NETWORKS[chosen.network]
    if chosen.teacher:
        teacher = load_teacher(chosen.teacher)
        side = max(teacher.spec.image_shape[1:])
    else:
        teacher = random_teacher(architecture, side)
    batch_size = chosen.batch_size or (on_cpu if device.type == "cpu" else on_gpu)
    config = SynthesisConfig(
        num_images=batch_size,
        batch_size=batch_size,
        steps=chosen.steps,
        space="pixels",
        jitter_kind="roll",
    )
    config = config.resolve((3, side, side))
    loop = make_loop(name, teacher, config, device)
    loop.run(batch_size, lambda step, terms: None)  # warm
    reset_peak_memory(device)
    rates, curve = [], []
    for _ in range(chosen.repetitions):
        synchronize(device)
        started = time.perf_counter()
        marks: list[tuple[float, float]] = []
        loop.run(
            batch_size,
            lambda step, terms, s=started, m=marks: m.append(
                (time.perf_counter() - s, terms["bn"])
            ),
        )
        synchronize(device)
        rates.append(batch_size * chosen.steps / (time.perf_counter() - started))
        curve = marks
    rate = statistics.median(rates)
    return {
        "loop": name,
        "rate": rate,
        "least": min(rates),
        "most": max(rates),
        "peak": peak_num_bytes(device),
        "compile": getattr(loop, "seconds_to_compile", 0.0),
        "batch_size": batch_size,
        "side": side,
        "curve": curve,
        **roofline(teacher, config, device),
    }


def roofline(teacher: Teacher, config: SynthesisConfig, device: torch.device) -> dict[str, float]:
    """Return FLOPs and bytes of an image-step, and the most that the device does of both."""
    dtype = compute_dtype(device, config.precision)
    network = teacher.network.to("cpu", torch.float32).requires_grad_(False)
    inputs = torch.zeros(2, *teacher.spec.image_shape, requires_grad=True)
    values = 0

    def count(module: nn.Module, taken: tuple[Any, ...], made: Any) -> None:
        nonlocal values
        values += taken[0].numel() + made.numel()

    leaves = [module for module in network.modules() if not any(module.children())]
    handles = [leaf.register_forward_hook(count) for leaf in leaves]
    with FlopCounterMode(display=False) as counter:
        network(inputs).sum().backward()  # the counter cannot follow autograd.grad
    for handle in handles:
        handle.remove()
    return {
        "flops": counter.get_total_flops() / 2,
        "bytes": 3 * values / 2 * dtype.itemsize,
        "peak_flops": best_flops(device, dtype),
        "peak_bytes": best_bandwidth(device),
    }


def best_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of a large matrix product: the best of five."""
    size = 2048 if device.type == "cpu" else 8192
    left = torch.randn(size, size, device=device).to(dtype)
    seconds = fastest(device, lambda: left @ left)
    return 2 * size**3 / seconds


def best_bandwidth(device: torch.device) -> float:
    """Return the bytes per second of a copy far larger than the caches: the best of five."""
    source = torch.ones(64 * 2**20, device=device)
    target = torch.empty_like(source)
    seconds = fastest(device, lambda: target.copy_(source))
    return 2 * source.numel() * 4 / seconds


def fastest(device: torch.device, run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of five calls, after one to warm up."""
    seconds = []
    for _ in range(6):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def in_own_process(name: str, network: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Measure in a fresh process, so that peak memory and compiler state are its own."""
    command = [sys.executable, __file__, "--one", name, "--network", network]
    for flag in ("device", "steps", "repetitions", "batch_size", "teacher"):
        value = getattr(chosen, flag)
        if value is not None:
            command += [f"--{flag.replace('_', '-')}", str(value)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"{name} {network}: {found.stderr.strip().splitlines()[-1]}")
    record: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return record


def seconds_to(curve: Sequence[Sequence[float]], distance: float) -> float | None:
    """Return when the BatchNorm distance was first at or below ``distance``; None if never."""
    return next((seconds for seconds, bn in curve if bn <= distance), None)


def show(network: str, records: Sequence[dict[str, Any]]) -> None:
    """Print one network's rows."""
    plain = records[0]
    last = max(record["curve"][-1][1] for record in records if record["curve"])
    for record in records:
        reached = seconds_to(record["curve"], 1.2 * last)
        print(
            f"| {network}, {record['side']} px, batch {record['batch_size']} | {record['loop']} "
            f"| {record['rate']:,.0f} ({record['least']:,.0f} to {record['most']:,.0f}) "
            f"| {record['rate'] / plain['rate']:.1f} x "
            f"| {record['peak'] / 2**20:,.0f} | {record['compile']:.0f} "
            f"| {'-' if reached is None else f'{reached:.1f}'} "
            f"| {record['flops'] / 1e6:,.0f} | {record['bytes'] / 1e6:,.1f} "
            f"| {record['rate'] * record['flops'] / record['peak_flops']:.0%} "
            f"| {record['rate'] * record['bytes'] / record['peak_bytes']:.0%} |",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or measure one loop (for the processes that the table is made of)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--teacher", help="a real checkpoint instead: also the time to a distance")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--loops", default=",".join(LOOPS))
    parser.add_argument("--one", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--network", default="resnet20", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.one:
        print(json.dumps(measure(chosen.one, chosen)))
        return 0
    device = resolve_device(chosen.device)
    print(f"`python benchmarks/bench_synthesis.py {' '.join(sys.argv[1:])}`".replace(" `", "`"))
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    print(f"{describe_device(device)}; {versions}\n")
    print(
        "| network | loop | image-steps/s | against plain | peak MiB | s to compile "
        "| s to the distance | MFLOP per image-step | MB | of peak FLOP/s | of peak bytes/s |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    networks = ["resnet20"] if chosen.teacher else chosen.networks.split(",")
    for network in networks:
        records = [in_own_process(name, network, chosen) for name in chosen.loops.split(",")]
        show(Path(chosen.teacher).stem if chosen.teacher else network, records)
    print(
        f"\nThe distance is {bn_kl.__name__} of dreamforge.objective, 1.2 times the last value of "
        "the loop that came least far; the engine reads it about once a second."
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
