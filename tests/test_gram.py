import pytest
import torch
import torch.nn.functional as F
from torch import nn

from recover.gram import Gram, num_places, rows_at

CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3, padding=1, bias=False),
    nn.Conv2d(4, 6, (3, 1), stride=2, padding=(2, 0), bias=False),
    nn.Conv2d(4, 6, 3, padding="same", dilation=2, padding_mode="circular", bias=False),
    nn.Conv2d(4, 6, 2, groups=2, bias=False),
    nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
]


@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
def test_the_rows_of_a_convolution_times_its_weight_are_its_output(conv: nn.Conv2d) -> None:
    inputs = torch.randn(3, 4, 7, 5, generator=torch.Generator().manual_seed(0))
    outputs = conv(inputs).detach()
    places = torch.arange(num_places(conv, outputs))

    rows, wanted = rows_at(conv, inputs, outputs, places)

    weight = conv.weight.detach().reshape(conv.groups, -1, rows.shape[2])
    torch.testing.assert_close(rows @ weight.mT, wanted)
    by_place = outputs.flatten(2).mT.reshape(-1, conv.groups, outputs.shape[1] // conv.groups)
    assert torch.equal(wanted, by_place.transpose(0, 1))


def test_the_rows_of_a_layer_that_autocasts_have_the_dtype_of_its_weight() -> None:
    for layer, shape in ((nn.Linear(3, 2), (4, 3)), (nn.Conv2d(3, 2, 1), (4, 3, 2, 2))):
        inputs = torch.rand(shape)
        outputs = layer(inputs).detach()
        place = torch.tensor([0])

        rows, wanted = rows_at(layer, inputs, outputs.bfloat16(), place)

        assert rows.dtype == wanted.dtype == torch.float32
        torch.testing.assert_close(
            wanted, rows_at(layer, inputs, outputs, place)[1], rtol=0.01, atol=0.01
        )


def test_the_rows_are_those_of_unfold() -> None:
    conv, inputs = nn.Conv2d(2, 1, 3, padding=1, stride=2), torch.rand(2, 2, 6, 6)
    places = torch.tensor([0, 4, 8])

    rows, _ = rows_at(conv, inputs, conv(inputs), places)

    unfolded = F.unfold(inputs, 3, padding=1, stride=2)[:, :, places]
    assert torch.equal(rows[0], unfolded.mT.flatten(0, 1))


@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 3)], ids=str)
def test_the_rows_of_a_linear_layer_are_its_inputs(shape: tuple[int, ...]) -> None:
    linear, inputs = nn.Linear(3, 2, bias=False), torch.rand(shape)
    outputs = linear(inputs).detach()

    places = torch.arange(num_places(linear, outputs))
    rows, wanted = rows_at(linear, inputs, outputs, places)

    assert torch.equal(rows, inputs.reshape(1, 6, 3))
    assert torch.equal(wanted, outputs.reshape(1, 6, 2))


def test_the_sums_do_not_depend_on_how_the_rows_are_parted() -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(2, 10, 3, generator=draws, dtype=torch.float64) + 5
    y = torch.randn(2, 10, 4, generator=draws, dtype=torch.float64)
    gram = Gram(2, 3, 4, torch.device("cpu"))

    for part in (slice(0, 2), slice(2, 9), slice(9, 10)):
        gram.add(x[:, part], y[:, part])

    xx, xy = gram.moments(centered=False)
    torch.testing.assert_close(xx, x.mT @ x / 10)
    torch.testing.assert_close(xy, x.mT @ y / 10)
    torch.testing.assert_close(gram.means(), (x.mean(1), y.mean(1)))
    for group in range(2):
        together = torch.cat([x[group], y[group]], 1).T.cov(correction=0)
        xx, xy = (moment[group] for moment in gram.moments(centered=True))
        torch.testing.assert_close(xx, together[:3, :3])
        torch.testing.assert_close(xy, together[:3, 3:])


def test_what_hardly_varies_around_a_large_mean_keeps_its_covariance() -> None:
    draws = torch.Generator().manual_seed(0)
    small = torch.randn(1, 400, 2, generator=draws)
    gram = Gram(1, 2, 2, torch.device("cpu"))

    rows = small / 64 + 1024  # float32 has 2 ** -13 between two numbers there
    gram.add(rows, rows)

    covariance = rows[0].double().T.cov(correction=0)
    torch.testing.assert_close(gram.moments(centered=True)[0][0], covariance, rtol=1e-4, atol=0)
