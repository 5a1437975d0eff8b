import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from recover_fixtures import odd_network
from torch import Tensor, nn

import recover.reconstruct
from recover.importance import magnitudes, prunable_weights
from recover.masks import Masks, dense_masks, global_masks
from recover.reconstruct import not_reconstructible, reconstruct
from shared.progress import Progress
from shared.teacher import Teacher

DRAWS = torch.Generator().manual_seed(0)
IMAGES = torch.randn(48, 3, 6, 6, generator=DRAWS)


def identity(images: Tensor) -> Tensor:
    return images


def given(*sizes: int) -> Callable[[], Iterable[Tensor]]:
    return lambda: IMAGES[: sum(sizes)].split(sizes)


def masks_without(network: nn.Module, **pruned: Tensor) -> Masks:
    """Return masks that prune the entries of some layers' weights, True in ``pruned``."""
    kept = dict(dense_masks(network).kept)
    kept |= {f"{name}.weight": ~entries for name, entries in pruned.items()}
    return Masks(kept, sum(int(mask.sum()) for mask in kept.values()))


def pruned_by(masks: Masks, network: nn.Module) -> nn.Module:
    pruned = copy.deepcopy(network)
    masks.apply(pruned)
    return pruned.eval().requires_grad_(False)


def error(network: nn.Module, dense: nn.Module) -> float:
    return float((network(IMAGES) - dense(IMAGES)).square().mean())


@pytest.mark.parametrize("renormalize", [True, False])
def test_a_network_that_is_not_pruned_stays_as_it_is(renormalize: bool) -> None:
    dense = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    dense = dense.eval().requires_grad_(False)
    same = copy.deepcopy(dense)

    count = reconstruct(
        same, dense, dense_masks(dense), given(48), identity, seed=0, renormalize=renormalize
    )

    assert count == 2
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_pruned_inputs_that_kept_ones_can_say_are_made_up_for_exactly() -> None:
    # The second convolution sees every channel of the first twice, and loses the copies. Their
    # constant parts are left to its bias.
    first, second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 3)
    first.weight.data[4:] = 2 * first.weight.data[:4]
    first.bias.data[4:] = 2 * first.bias.data[:4] + 1
    dense = nn.Sequential(first, second).eval().requires_grad_(False)
    copies = torch.zeros_like(second.weight, dtype=torch.bool)
    copies[:, 4:] = True
    masks = masks_without(dense, **{"1": copies})
    network = pruned_by(masks, dense)
    before = error(network, dense)

    reconstruct(network, dense, masks, given(48), identity, seed=0, damping=1e-5)

    assert error(network, dense) < 1e-6 * before
    masks.check(network)


def test_every_kind_of_layer_comes_nearer_and_zeros_stay_zero() -> None:
    dense = odd_network().eval().requires_grad_(False)
    masks = global_masks(magnitudes(dense), 0.5)
    network = pruned_by(masks, dense)
    before = error(network, dense)
    weights = {name: weight.clone() for name, weight in prunable_weights(network).items()}

    count = reconstruct(
        network, dense, masks, given(16, 16, 16), identity, seed=0, renormalize=False
    )

    assert count == 4
    masks.check(network)
    assert error(network, dense) < 0.5 * before
    changed = [
        name
        for name, weight in prunable_weights(network).items()
        if not torch.equal(weight, weights[name])
    ]
    left = not_reconstructible(dense, IMAGES[:1])
    assert sorted(changed + left) == sorted(weights)
    assert left == ["up.weight", "first.weight"]


class Autocasting(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return super().forward(input).float()


def test_a_network_that_autocasts_comes_nearer_too() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)
    dense = Autocasting(*layers).eval().requires_grad_(False)
    masks = global_masks(magnitudes(dense), 0.5)
    network = pruned_by(masks, dense)
    before = error(network, dense)

    count = reconstruct(network, dense, masks, given(48), identity, seed=0, renormalize=False)

    assert count == 2
    assert error(network, dense) < 0.5 * before


def test_a_layer_without_bias_is_fitted_around_zero_unless_a_norm_follows() -> None:
    inputs = torch.rand(48, 3, 4, 4, generator=torch.Generator().manual_seed(1)) + 3
    for norm in (nn.Identity(), nn.BatchNorm2d(2)):
        conv = nn.Conv2d(3, 2, 1, bias=False)
        dense = nn.Sequential(conv, norm).eval().requires_grad_(False)
        entries = torch.zeros_like(conv.weight, dtype=torch.bool)
        entries[:, 2] = True
        masks = masks_without(dense, **{"0": entries})
        network = pruned_by(masks, dense)

        reconstruct(network, dense, masks, lambda: [inputs], identity, seed=0, damping=1e-9)

        x, y = inputs.movedim(1, -1).reshape(-1, 3), conv(inputs).movedim(1, -1).reshape(-1, 2)
        if isinstance(norm, nn.BatchNorm2d):
            x, y = x - x.mean(0), y - y.mean(0)
        expected = torch.linalg.lstsq(x[:, :2], y).solution.T
        found = network[0].weight[:, :2, 0, 0]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_later_layers_see_what_earlier_ones_became() -> None:
    # The first layer loses everything but its bias, which the last one can say on its own.
    dense = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    dense = dense.eval().requires_grad_(False)
    masks = masks_without(dense, **{"0": torch.ones_like(dense[0].weight, dtype=torch.bool)})
    network = pruned_by(masks, dense)

    reconstruct(network, dense, masks, given(24, 24), identity, seed=0)

    means = [features(IMAGES).mean((0, 2, 3)) for features in (dense[:1], network[:1])]
    torch.testing.assert_close(means[1], means[0])
    torch.testing.assert_close(network(IMAGES).mean((0, 2, 3)), dense(IMAGES).mean((0, 2, 3)))


def test_few_places_of_large_maps_are_the_same_every_time(
    tiny_teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover.reconstruct, "MOST_ROWS", 48 * 4)
    dense = tiny_teacher.network
    masks = global_masks(magnitudes(dense), 0.8)

    def fitted(seed: int) -> nn.Module:
        network = pruned_by(masks, dense)
        reconstruct(network, dense, masks, given(24, 24), identity, seed=seed)
        return network

    one, again, other = (fitted(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_too_wide_layers_are_left_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover.reconstruct, "MOST_INPUTS", 20)
    dense = odd_network().eval()

    left = not_reconstructible(dense, IMAGES[:1])

    assert left == ["stem.weight", "up.weight", "first.weight"]


def test_without_images_nothing_happens(tiny_teacher: Teacher) -> None:
    dense = tiny_teacher.network

    assert reconstruct(dense, dense, dense_masks(dense), list, identity, seed=0) == 0


def test_progress_counts_the_layers_and_modes_are_as_before(tiny_teacher: Teacher) -> None:
    dense = tiny_teacher.network
    masks = global_masks(magnitudes(dense), 0.5)
    network, reports = pruned_by(masks, dense), list[Progress]()

    reconstruct(network, dense, masks, given(8), identity, seed=0, progress=reports.append)

    assert [report.done for report in reports] == list(range(9))
    assert {report.total for report in reports} == {8}
    assert not any(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in (*network.modules(), *dense.modules()))
