"""Several processes that teach one student: what one process does is the reference."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from dreamset_fixtures import tiny_spec
from recover_fixtures import begin_distillation, blob_dreams, odd_network, quick_config
from thread_group import ThreadGroup, together
from torch import Tensor, nn

from recover.course import take_steps
from recover.distill import Distillation
from recover.importance import prunable_weights
from recover.journal import Journal
from recover.parallel import follow, launched_group
from recover.pipeline import recover_student
from recover.preparation import prepare
from shared.distributed import ALONE, Group, join, one_voice
from shared.errors import ConfigError, DreamforgeError, SpokenForError
from shared.progress import Progress, ignore_progress
from shared.teacher import Teacher
from shared.workers import Worker

# What BatchNorm, CutMix and pruning could spoil, at rates that make mistakes show.
CHANGES: dict[str, Any] = {"mix": "cutmix", "flip": True, "weight_decay": 0.01, "ema": 0.9}


class InDouble(nn.Module):
    """A network that computes in float64, so that the order of sums does not show."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).double()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.network(inputs.double())


class OwnStatistics(nn.BatchNorm2d):
    """A class of somebody's own, which asks no function of PyTorch's to normalize."""

    def forward(self, inputs: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        assert mean is not None
        assert var is not None
        if self.training:
            var, mean = torch.var_mean(inputs, dim=(0, 2, 3))
            with torch.no_grad():
                self.running_mean.lerp_(mean, 0.1)  # type: ignore[union-attr]
                self.running_var.lerp_(var, 0.1)  # type: ignore[union-attr]
        return (inputs - mean.view(1, -1, 1, 1)) * torch.rsqrt(var.view(1, -1, 1, 1) + self.eps)


def taught(run: Distillation, num_steps: int) -> Distillation:
    for _ in range(num_steps):
        run.advance()
    return run


def relative_differences(found: nn.Module, expected: nn.Module) -> dict[str, float]:
    """The norm of what is different over the norm of what is expected, by tensor."""
    return {
        name: float((found.state_dict()[name] - value).norm() / value.norm())
        for name, value in expected.state_dict().items()
        if value.is_floating_point()
    }


def gradient_of(network: nn.Module) -> Tensor:
    """All gradients in one vector."""
    return torch.cat([p.grad.reshape(-1) for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize(("batch_size", "count"), [(16, 2), (16, 3), (5, 3), (2, 2)])
def test_a_step_is_that_of_one_process_to_1e_5_in_float32(
    tiny_teacher: Teacher, batch_size: int, count: int
) -> None:
    config = quick_config(**CHANGES, batch_size=batch_size, warmup=0.0)
    alone = taught(begin_distillation(tiny_teacher, config), 1)

    runs = together(count, lambda group: taught(begin_distillation(tiny_teacher, config, group), 1))

    loss, expected = alone.row()["loss"], gradient_of(alone.student)
    for run in runs:
        assert max(relative_differences(run.student, alone.student).values()) < 1e-5
        assert (gradient_of(run.student) - expected).norm() < 1e-5 * expected.norm()
        assert run.row()["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        *({}, {"schedule": "one-shot"}, {"importance": "fisher"}),
        *(
            {"sparsity": 0.0, "channels": 0.5, "importance": name}
            for name in ("magnitude", "fisher")
        ),
    ],
    ids=str,
)
def test_all_steps_are_those_of_one_process_in_float64(
    tiny_teacher: Teacher, changes: dict[str, Any]
) -> None:
    config = quick_config(**CHANGES, **changes)
    teacher = Teacher(network=InDouble(tiny_teacher.network), spec=tiny_teacher.spec)
    alone = taught(begin_distillation(teacher, config), config.steps)

    runs = together(
        2, lambda group: taught(begin_distillation(teacher, config, group), config.steps)
    )

    for run in runs:
        assert max(relative_differences(run.student, alone.student).values()) < 1e-6
        assert max(relative_differences(run.taught, alone.taught).values()) < 1e-6
        for name, mask in alone.masks.kept.items():
            assert torch.equal(run.masks.kept[name], mask)


def test_all_processes_have_the_same_bits_and_exact_zeros(tiny_teacher: Teacher) -> None:
    config = quick_config(**CHANGES, sparsity=0.9)

    first, *others = together(
        3, lambda group: taught(begin_distillation(tiny_teacher, config, group), config.steps)
    )

    for network in (first.student, first.taught):
        zeros = sum(int((w == 0).sum()) for w in prunable_weights(network).values())
        assert zeros == first.masks.num_weights - round(0.1 * first.masks.num_weights)
    for other in others:
        assert other.masks.digest() == first.masks.digest()
        for mine, theirs in ((other.student, first.student), (other.taught, first.taught)):
            expected = theirs.state_dict()
            assert all(torch.equal(value, expected[n]) for n, value in mine.state_dict().items())


def test_unusual_layers_are_taught_together() -> None:
    teacher = Teacher(network=odd_network(), spec=tiny_spec())
    config = quick_config(**CHANGES)
    alone = taught(begin_distillation(teacher, config), 1)

    for run in together(2, lambda group: taught(begin_distillation(teacher, config, group), 1)):
        assert max(relative_differences(run.student, alone.student).values()) < 1e-5
        run.masks.check(run.student)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3)])
def test_another_number_of_processes_goes_on_from_a_state(
    tiny_teacher: Teacher, before: int, after: int
) -> None:
    config = quick_config(**CHANGES, lr=0.01)
    alone = taught(begin_distillation(tiny_teacher, config), 6)
    loss = alone.row()["loss"]
    state = together(
        before, lambda group: taught(begin_distillation(tiny_teacher, config, group), 4).state()
    )[0]

    def go_on(group: Group) -> Distillation:
        run = begin_distillation(tiny_teacher, config, group)
        if group.leads:
            run.restore(state)
        run.begin()
        return taught(run, 2)

    for run in together(after, go_on):
        assert run.step == 6
        assert run.row()["loss"] == pytest.approx(loss, rel=1e-3)
        assert max(relative_differences(run.student, alone.student).values()) < 1e-3


def test_processes_that_choose_other_weights_are_stopped(
    tiny_teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThreadGroup, "agree", lambda self, digest: digest == -1)

    with pytest.raises(DreamforgeError, match="chose other weights to keep at step 0"):
        together(
            2, lambda group: taught(begin_distillation(tiny_teacher, quick_config(), group), 1)
        )


def test_a_signal_to_one_process_stops_all_after_one_checkpoint(
    tiny_teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick_config()
    saved: list[int] = []

    def interrupted_run(group: Group) -> int:
        run = begin_distillation(tiny_teacher, config, group)
        group_any = group.any

        def any_signal(flag: bool) -> bool:
            return group_any(flag or (run.step == 5 and not group.leads))

        object.__setattr__(group, "any", any_signal)
        with pytest.raises(KeyboardInterrupt):
            take_steps(
                run,
                journal=Journal(tmp_path / f"{group.index}.jsonl"),
                save=lambda run: saved.append(run.step) if group.leads else None,
                progress=ignore_progress,
            )
        return run.step

    assert together(2, interrupted_run) == [5, 5]
    assert saved == [5]


def test_a_run_with_a_follower_is_a_run(tiny_teacher: Teacher, tmp_path: Path) -> None:
    dreams = blob_dreams(tmp_path / "dreams", tiny_teacher)
    config = quick_config(ema=0.9)
    seen: list[Progress] = []

    def work(group: Group) -> None:
        # Threads would move one teacher's module between modes; processes have their own.
        teacher = copy.deepcopy(tiny_teacher)
        if group.leads:
            recover_student(
                config, teacher, dreams, None, tmp_path / "two", seen.append, group=group
            )
        else:
            follow(config, teacher, dreams, group)

    together(2, work)
    expected = recover_student(config, tiny_teacher, dreams, None, tmp_path / "one")

    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        path.name for path in (tmp_path / "one").iterdir()
    }
    record = json.loads((tmp_path / "two" / "report.json").read_text())
    assert record["provenance"]["num_processes"] == 2
    assert record["num_kept"] == expected.num_kept == record["recovered"]["num_nonzero"]
    rows = [json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("one", "two")]
    assert rows[1] == pytest.approx(rows[0], rel=1e-3)
    assert seen[-1].stage == "judge recovered student"


def test_who_fails_speaks_before_its_end_wakes_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    monkeypatch.setattr("shared.distributed.rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)

    def join_as_if_two(*arguments: Any) -> Group:
        join(store, Worker(), torch.device("cpu"))
        return Group(index=0, count=2)

    close, spoken_for = dist.destroy_process_group, []

    def close_and_wake() -> None:
        close()
        try:
            with one_voice():
                raise DreamforgeError("another process of this run ended")
        except DreamforgeError as error:
            spoken_for.append(isinstance(error, SpokenForError))

    monkeypatch.setattr("recover.parallel.join", join_as_if_two)
    monkeypatch.setattr(dist, "destroy_process_group", close_and_wake)

    with (
        pytest.raises(OSError, match="No space left on device"),
        launched_group(quick_config(device="cpu")),
    ):
        raise OSError("No space left on device")

    assert spoken_for == [True]
    assert not dist.is_initialized()


def test_a_layer_that_takes_statistics_of_its_own_is_refused() -> None:
    """Each process would teach another student, whose layers remember its part alone."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), OwnStatistics(4), nn.Flatten(), nn.LazyLinear(4))
    network(torch.zeros(2, *tiny_spec().image_shape))
    teacher = Teacher(network=network.eval(), spec=tiny_spec())
    config = quick_config(sparsity=0.0)

    with pytest.raises(ConfigError, match=r"BatchNorm '1' .*each of 2 processes: .*one process"):
        together(2, lambda group: taught(begin_distillation(teacher, config, group), 1))

    taught(begin_distillation(teacher, config), 1)  # alone it is taught


def test_a_batch_of_fewer_dreams_than_processes_is_refused(
    tiny_teacher: Teacher, tmp_path: Path
) -> None:
    dreams = blob_dreams(tmp_path, tiny_teacher)

    with pytest.raises(ConfigError, match="found 2 dreams in a batch for 3 processes"):
        prepare(
            quick_config(batch_size=2), tiny_teacher, dreams, group=ThreadGroup(index=0, count=3)
        )


def test_one_process_is_not_asked_to_meet_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    config = quick_config(device="auto")

    with launched_group(config) as (group, same):
        assert group is ALONE
        assert same is config
