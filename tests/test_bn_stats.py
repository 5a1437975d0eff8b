import inspect

import pytest
import torch
from torch import nn

from dreamforge.bn_stats import BatchNormMonitor, channel_affine


def network(dim=2):
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dim]
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dim]
    model = nn.Sequential(conv(3, 4, 3), norm(4), nn.ReLU(), conv(4, 5, 1), norm(5, affine=False))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_outputs_statistics_and_gradients_are_those_of_a_plain_forward_pass(dim, plain):
    model = network(dim)
    inputs = torch.randn(6, 3, *[7] * dim, requires_grad=True)

    def loss_of(outputs, stats):
        pieces = [outputs.square().sum()]
        pieces += [(mean.sin().sum() + var.square().sum()) for mean, var in stats]
        return torch.stack(pieces).sum()

    with BatchNormMonitor(model, plain=plain) as monitor:
        outputs = model(inputs)
        stats = [(layer.mean, layer.var) for layer in monitor.take()]
        (gradient,) = torch.autograd.grad(loss_of(outputs, stats), inputs)

    expected_stats, values = [], inputs
    for module in model:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            axes = [axis for axis in range(values.ndim) if axis != 1]
            var, mean = torch.var_mean(values, dim=axes, correction=0)
            expected_stats.append((mean, var))
        values = module(values)
    (expected,) = torch.autograd.grad(loss_of(values, expected_stats), inputs)

    torch.testing.assert_close(outputs, values, rtol=1e-4, atol=1e-4)
    for (mean, var), (plain_mean, plain_var) in zip(stats, expected_stats, strict=True):
        torch.testing.assert_close(mean, plain_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(var, plain_var, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


def test_statistics_are_float32_and_accurate_in_bfloat16():
    model = nn.Sequential(nn.BatchNorm2d(4)).eval().requires_grad_(False)
    inputs = torch.randn(32, 4, 16, 16).bfloat16()

    with BatchNormMonitor(model) as monitor:
        outputs = model(inputs)
        (layer,) = monitor.take()

    var, mean = torch.var_mean(inputs.double(), dim=(0, 2, 3), correction=0)
    assert outputs.dtype == torch.bfloat16
    assert layer.mean.dtype == layer.var.dtype == torch.float32
    torch.testing.assert_close(layer.mean.double(), mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(layer.var.double(), var, rtol=1e-4, atol=1e-6)


def test_the_network_is_as_it_was_after_the_block_and_after_an_error():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.randn(2, 3, 5, 5)
    expected = model(inputs)

    with pytest.raises(KeyError), BatchNormMonitor(model):
        raise KeyError

    assert not any("forward" in vars(module) for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(inputs), expected)


def test_a_batch_norm_that_is_called_twice_reports_twice():
    norm = nn.BatchNorm2d(3).eval()
    model = nn.Sequential(norm, nn.ReLU(), norm).requires_grad_(False)

    with BatchNormMonitor(model) as monitor:
        model(torch.randn(2, 3, 4, 4))
        assert len(monitor.take()) == 2


def test_channel_affine_is_exact_for_powers_of_two():
    inputs = torch.arange(24, dtype=torch.float32).view(2, 3, 2, 2)
    scale, shift = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([0.0, 4.0, -8.0])

    expected = inputs * scale.view(3, 1, 1) + shift.view(3, 1, 1)
    assert torch.equal(channel_affine(inputs, scale, shift), expected)


class NormAndAct(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def __init__(self, num_features):
        super().__init__(num_features)
        self.drop = nn.Identity()
        self.act = nn.ReLU()

    def forward(self, inputs):
        return self.act(self.drop(super().forward(inputs)))


@pytest.mark.parametrize("plain", [False, True])
def test_an_activation_inside_a_batch_norm_is_not_lost(plain):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), NormAndAct(4)).eval().requires_grad_(False)
    inputs = torch.randn(2, 3, 8, 8)
    expected = model(inputs)

    with BatchNormMonitor(model, plain=plain) as monitor:
        outputs = model(inputs)
        (layer,) = monitor.take()

    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(layer.mean, model[0](inputs).mean((0, 2, 3)), atol=1e-5, rtol=1e-4)


class Leaky(nn.BatchNorm2d):
    """A class of somebody's own, which does more than a BatchNorm."""

    def forward(self, input):
        return nn.functional.leaky_relu(super().forward(input), 0.1)


class Renamed(nn.BatchNorm2d):
    """A class of somebody's own, which is a BatchNorm all the same."""

    def forward(self, features):
        return super().forward(features)


class Bounded(nn.BatchNorm2d):
    """Bent where inputs are large alone."""

    def forward(self, input):
        return super().forward(input).clamp(-1, 1)


class Unused(nn.BatchNorm2d):
    """It holds a layer that it does not call."""

    def __init__(self, num_features):
        super().__init__(num_features)
        self.act = nn.ReLU()


class Turned(nn.BatchNorm2d):
    """It takes channels last: as many rows as channels, so that no shape tells."""

    def forward(self, input, scale=1.0):
        return super().forward(input.transpose(1, 2)).transpose(1, 2) * scale


class ByHand(nn.BatchNorm2d):
    """It calls nothing of PyTorch's."""

    def forward(self, input):
        mean, var = self.running_mean.view(1, -1, 1, 1), self.running_var.view(1, -1, 1, 1)
        return (input - mean) / (var + self.eps).sqrt()


class Direct(nn.BatchNorm2d):
    """It calls the function below torch.nn.functional, and names what it gives it."""

    def forward(self, input):
        turned = input.transpose(1, 2)
        return torch.batch_norm(
            weight=self.weight,
            bias=self.bias,
            running_mean=self.running_mean,
            running_var=self.running_var,
            input=turned,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
            cudnn_enabled=False,
        ).transpose(1, 2)


class Calls(nn.Module):
    """Calls its layer by the names of its arguments."""

    def __init__(self, layer, **named):
        super().__init__()
        self.layer, self.named = layer, named

    def forward(self, inputs):
        (first, *_) = inspect.signature(self.layer.forward).parameters
        return self.layer(**{first: inputs}, **self.named)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("kind", [Leaky, Renamed, Bounded, Unused, ByHand])
def test_a_class_with_a_forward_of_its_own_answers_as_it_does(kind, plain):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), kind(4), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        model[1].running_mean.copy_(torch.tensor([0.5, -1.0, 0.0, 2.0]))
        model[1].running_var.copy_(torch.tensor([0.5, 2.0, 1.0, 4.0]))
    model.requires_grad_(False)
    inputs = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    inputs.requires_grad_(True)

    with BatchNormMonitor(model, plain=plain) as monitor:
        outputs = model(inputs)
        (layer,) = monitor.take()
        (gradient,) = torch.autograd.grad(outputs.square().sum(), inputs)

    seen = model[0](inputs)
    var, mean = torch.var_mean(seen, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(layer.mean, mean)
    torch.testing.assert_close(layer.var, var, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs, model(inputs))
    (expected,) = torch.autograd.grad(model(inputs).square().sum(), inputs)
    torch.testing.assert_close(gradient, expected)
    assert "forward" not in vars(model[1])


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("layer", "named"),
    [(Turned(4), {"scale": 2.0}), (Direct(4), {}), (Renamed(4), {}), (nn.BatchNorm2d(4), {})],
)
def test_statistics_are_of_what_is_normalised_however_it_is_called(plain, layer, named):
    model = Calls(layer, **named).eval().requires_grad_(False)
    inputs = torch.randn(3, 4, 4, 2, generator=torch.Generator().manual_seed(0))
    axes = (0, 1, 3) if isinstance(layer, (Turned, Direct)) else (0, 2, 3)
    expected = model(inputs)

    with BatchNormMonitor(model, plain=plain) as monitor:
        model.forward = type(model).forward.__get__(model)
        outputs = layer(inputs, **named)
        (seen,) = monitor.take()

    torch.testing.assert_close(outputs, expected)
    torch.testing.assert_close(seen.mean, inputs.mean(axes))
