"""Layers whose callers name what they give them: ``layer(input=x)``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dreamforge
import recover
from dreamforge.bn_stats import BatchNormMonitor
from dreamforge.mode_seeking import FeatureTap
from recover.multiply_adds import count_macs
from shared.at_hand import teacher_at_hand
from shared.hooks import on_input, on_output
from shared.input_scale import first_layers
from shared.misfit import misfit


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 8, 3)
        self.third, self.norm, self.head = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 4)
        self.before = nn.BatchNorm2d(8)

    def call(self, layer: nn.Module, values: Tensor) -> Tensor:
        return layer(values)  # type: ignore[no-any-return]

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.call(self.before, self.call(self.first, inputs)).relu()
        features = self.call(self.third, self.call(self.second, features))
        return self.call(self.head, self.call(self.norm, features).relu().mean((2, 3)))


class Named(Plain):
    def call(self, layer: nn.Module, values: Tensor) -> Tensor:
        return layer(input=values)  # type: ignore[no-any-return]


def trained(make: Callable[[], nn.Module]) -> nn.Module:
    draws = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make()
    for _ in range(10):
        network(torch.randn(16, 3, 8, 8, generator=draws))
    return network.eval()


def answers_of_parts(network: nn.Module) -> list[Any]:
    """What is found out by watching layers."""
    inputs = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    layers = first_layers(network, (3, 8, 8))
    with FeatureTap(network) as tap, torch.no_grad():
        network(inputs)
        seen = tap.take()
    taken = []
    for plain in (False, True):
        with BatchNormMonitor(network, plain=plain) as monitor, torch.no_grad():
            network(inputs)
            taken += [each.mean for each in monitor.take()]
    names = {module: name for name, module in network.named_modules()}
    return [
        [names[layer] for layer in layers or ()],
        misfit(network, (3, 8, 8)),
        count_macs(network, inputs[:1]),
        *(each.tolist() for each in (seen, *taken)),
    ]


def test_what_is_seen_of_layers_does_not_depend_on_how_they_are_called() -> None:
    found = answers_of_parts(trained(Named))

    assert found == answers_of_parts(trained(Plain))
    assert found[0] == ["first", "before"]


@pytest.mark.filterwarnings("ignore::shared.api.AssumptionWarning")
def test_dreams_and_students_do_not_depend_on_it(tmp_path: Path) -> None:
    quick = {"device": "cpu", "progress": False, "steps": 2, "batch_size": 8}
    facts = {"num_images": 16, "image_size": 8, "mean": 0.5, "std": 0.25, "compile": "off"}
    options = {**quick, "sparsity": 0.5, "repair": "matched", "reconstruct": "least-squares"}
    students = []
    for kind in (Plain, Named):
        network = trained(kind)
        dreams = dreamforge.synth(network, tmp_path / f"{kind.__name__}.h5", **facts, **quick)
        out = tmp_path / kind.__name__
        students.append(recover.run(dreams, teacher=network, out=out, **options).network)

    plain, named = (student.state_dict() for student in students)
    assert all(torch.equal(plain[name], named[name]) for name in plain)


class EndsInASoftmax(Named):
    def __init__(self) -> None:
        super().__init__()
        self.softmax = nn.Softmax(1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.softmax(input=super().forward(inputs))  # type: ignore[no-any-return]


def test_a_softmax_that_is_called_so_is_passed_over() -> None:
    images = torch.randn(4, 3, 8, 8)
    with teacher_at_hand(
        trained(EndsInASoftmax), image_size=8, mean=(0.5,), std=(0.25,)
    ) as teacher:
        logits = teacher.network(images)

    torch.testing.assert_close(logits, Named.forward(trained(EndsInASoftmax), images))


def test_hooks_see_the_first_tensor_and_leave() -> None:
    layer, given, passed = nn.Bilinear(2, 3, 4), [], []
    handles = [
        on_input(layer, given.append),
        on_output(layer, lambda *both: passed.extend(both)),
    ]
    first, second = torch.ones(1, 2), torch.ones(1, 3)
    output = layer(first, input2=second)

    assert given[0] is passed[0] is first
    assert passed[1] is output
    for handle in handles:
        handle.remove()
    layer(input1=first, input2=second)
    assert len(given) == 1


def test_a_module_that_is_given_no_tensor_is_not_looked_at() -> None:
    seen: list[Tensor] = []
    source = nn.Identity()
    source.forward = lambda: torch.ones(1)  # type: ignore[method-assign]
    on_input(source, seen.append)
    on_output(source, lambda given, output: seen.append(given))

    assert torch.equal(source(), torch.ones(1))
    assert not seen
