import torch
import torchvision
from recover_fixtures import odd_network
from torch import Tensor, nn

from recover.folding import folded


def with_statistics(network: nn.Module) -> nn.Module:
    """Statistics and affine parameters that do something, as after training."""
    draws = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.5), (module.running_var, 0.5)):
                tensor.copy_(torch.rand(tensor.shape, generator=draws) + low)
            module.weight.data.uniform_(0.5, 1.5, generator=draws)
            module.bias.data.uniform_(-0.5, 0.5, generator=draws)
    return network.eval()


def num_norms(network: nn.Module) -> int:
    """Norms that a forward pass goes through."""
    calls = 0

    def count(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal calls
        calls += 1

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    with torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return calls


def assert_same_answers(network: nn.Module, fast: nn.Module) -> None:
    inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(fast(inputs), network(inputs), rtol=1e-4, atol=1e-4)


def test_a_folded_network_answers_the_same_without_a_batch_norm() -> None:
    network = with_statistics(torchvision.models.shufflenet_v2_x0_5(num_classes=4))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    fast = folded(network)

    assert num_norms(network) > 50
    assert num_norms(fast) == 0
    assert_same_answers(network, fast)
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_unusual_layers_are_folded_too() -> None:
    network = with_statistics(odd_network())

    assert_same_answers(network, folded(network))


class UsedTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.convolution(inputs)
        return self.norm(features) + features + self.norm(self.convolution(features))


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.norm(inputs) if inputs.sum() > 0 else inputs


def test_what_cannot_be_folded_is_left_as_it_is() -> None:
    for network in (UsedTwice(), Untraceable()):
        with_statistics(network)
        assert_same_answers(network, folded(network))
