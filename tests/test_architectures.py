"""Every architecture is found again from its own tensors, in time."""

import re
import time

import pytest
import torch
import torchvision
from torch import nn

from shared.architectures import (
    ARCHITECTURES,
    build_network,
    build_skeleton,
    find_candidate,
    identify,
    match_candidate,
    set_input_channels,
)
from shared.errors import CheckpointError, ConfigError

LARGE = "densenet1[56]|densenet2|net_b[3-7]|v2_[ml]|101|152|regnet_.*_(16|32|128)gf|resnet110|40_2"
CATALOG = [
    pytest.param(name, marks=pytest.mark.slow) if re.search(LARGE, name) else name
    for name in ARCHITECTURES
]
# The tensors of the first fit the second, which the catalog prefers.
ALIASES = {
    "cifar_mobilenet_v2": "mobilenet_v2",
    "cifar_shufflenet_v2_x1_0": "shufflenet_v2_x1_0",
}


def skeleton_tensors(name: str, *, num_classes: int = 10, in_channels: int = 3) -> dict:
    network = build_skeleton(lambda: ARCHITECTURES[name].build(num_classes))
    set_input_channels(network, in_channels)
    return network.state_dict()


@pytest.mark.parametrize("name", CATALOG)
def test_an_architecture_is_identified_by_its_own_tensors(name: str) -> None:
    match = identify(skeleton_tensors(name))

    assert match.architecture == ALIASES.get(name, name).removesuffix("_end").removesuffix("_pool")
    assert (match.num_classes, match.in_channels) == (10, 3)


@pytest.mark.parametrize("name", ["resnet20", "vgg11_bn", "densenet121", "inception_v3"])
def test_classes_and_channels_are_read_from_head_and_first_convolution(name: str) -> None:
    match = identify(skeleton_tensors(name, num_classes=37, in_channels=1))

    assert (match.architecture, match.num_classes, match.in_channels) == (name, 37, 1)


def test_identifying_a_resnet50_takes_well_under_two_seconds() -> None:
    tensors = skeleton_tensors("resnet50", num_classes=1000)
    started = time.perf_counter()

    assert identify(tensors).architecture == "resnet50"
    assert time.perf_counter() - started < 1.5


def test_counters_that_old_files_lack_do_not_matter() -> None:
    tensors = skeleton_tensors("resnet20")
    old = {name: t for name, t in tensors.items() if not name.endswith("num_batches_tracked")}

    assert len(old) < len(tensors)
    assert identify(old).architecture == "resnet20"


def test_auxiliary_heads_are_left_out() -> None:
    tensors = skeleton_tensors("googlenet")
    tensors |= {"aux1.fc2.weight": torch.zeros(10, 1024), "aux2.fc2.bias": torch.zeros(10)}

    assert identify(tensors).architecture == "googlenet"


@pytest.mark.parametrize(
    ("hint", "image_size", "expected"),
    [
        ("", None, "mobilenet_v2"),
        ("mobilenet_v2-cifar10", None, "cifar_mobilenet_v2"),
        ("mobilenetv2", (32, 32), "cifar_mobilenet_v2"),
        ("cifar_mobilenet_v2", (224, 224), "mobilenet_v2"),
    ],
)
def test_between_twins_size_and_name_decide_aloud(
    hint: str, image_size: tuple[int, int] | None, expected: str
) -> None:
    match = identify(skeleton_tensors("mobilenet_v2"), hint, image_size)

    assert match.architecture == expected
    assert len(match.assumptions) == 1
    assert "--arch" in match.assumptions[0]


def test_unknown_tensors_are_refused_naming_some() -> None:
    with pytest.raises(CheckpointError, match=r"stem\.weight.*--arch"):
        identify({"stem.weight": torch.zeros(1), "bn.running_mean": torch.zeros(1)})


def test_a_near_miss_names_the_tensor_that_does_not_fit() -> None:
    tensors = skeleton_tensors("resnet18")
    tensors["layer1.0.conv1.weight"] = torch.zeros(32, 64, 3, 3)

    with pytest.raises(CheckpointError, match=r"layer1\.0\.conv1\.weight is \(32, 64, 3, 3\)"):
        identify(tensors)


@pytest.mark.parametrize(
    "name", ["resnet20", "resnet8_b", "resnet14_fc", "cifar_resnet18", "kuangliu_resnet50"]
)
def test_small_networks_answer_one_row_of_logits_per_image(name: str) -> None:
    network = build_network(name, num_classes=7, in_channels=1).eval()

    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    "name",
    [
        *("cifar_vgg11_bn", "cifar_mobilenet_v2", "wrn_16_1"),
        *("cifar_densenet121", "cifar_shufflenet_v2_x1_0", "cifar_wide_resnet50_2"),
    ],
)
def test_other_cifar_families_reduce_32_pixels_as_published(name: str) -> None:
    network = build_network(name, num_classes=5).eval()
    sizes: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda *args: sizes.append(args[-1].shape[-1]))

    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    last = {"cifar_vgg11_bn": 2, "cifar_mobilenet_v2": 4, "wrn_16_1": 8}
    assert (sizes[0], sizes[-1]) == (32, last.get(name, 4))


@pytest.mark.parametrize("name", ["densenet121", "wide_resnet50_2"])
def test_a_gentle_stem_changes_the_first_convolution_alone(name: str) -> None:
    gentle, usual = skeleton_tensors(f"cifar_{name}"), skeleton_tensors(name)

    assert gentle.keys() == usual.keys()
    other = [key for key in usual if gentle[key].shape != usual[key].shape]
    assert [gentle[key].shape[2:] for key in other] == [(3, 3)]


def test_a_pooling_stem_is_torchvisions_with_another_first_convolution() -> None:
    theirs = torchvision.models.resnet18(num_classes=5)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    ours = build_network("cifar_resnet18_pool", num_classes=5)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_he_resnets_have_the_papers_parameter_counts() -> None:
    # He et al. 2016, table 6: 0.27 M, 0.46 M, 0.66 M, 0.85 M, 1.7 M.
    counts = {
        depth: sum(p.numel() for p in build_network(f"resnet{depth}", num_classes=10).parameters())
        for depth in (20, 32, 44, 56, 110)
    }

    assert {depth: round(n / 1e6, 2) for depth, n in counts.items()} == {
        20: 0.27,
        32: 0.46,
        44: 0.66,
        56: 0.85,
        110: 1.73,
    }


def test_option_a_shortcuts_subsample_and_pad_with_zero_channels() -> None:
    network = build_network("resnet8", num_classes=10)
    images = torch.arange(16.0 * 4 * 4).reshape(1, 16, 4, 4)

    out = network.get_submodule("layer2.0.shortcut")(images, 32)

    assert out.shape == (1, 32, 2, 2)
    assert torch.equal(out[:, 8:24], images[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_unknown_names_get_suggestions() -> None:
    with pytest.raises(ConfigError, match="resnet50"):
        find_candidate("resnet5O")
    with pytest.raises(ConfigError, match="expected timm:NAME"):
        find_candidate("timm:hf-hub:someone/something")


def test_a_factory_of_ones_own_is_called(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "my_network_module.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(),\n"
        "                         nn.Linear(16, 6))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [])
    name = "my_network_module:make"

    network = build_network(name, num_classes=6)
    match = match_candidate(find_candidate(name), network.state_dict())

    assert (match.architecture, match.num_classes) == (name, 6)
    with pytest.raises(ConfigError, match="no_such"):
        find_candidate("my_network_module:no_such")
