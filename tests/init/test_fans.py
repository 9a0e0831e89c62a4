"""The closed form of effective fans against the operators themselves, run with ones."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modelfactory.config.errors import SchemeError
from modelfactory.init.fans import Fans, operator_fans, torch_fans

LAYERS = [
    (nn.Linear(7, 5), (2, 7)),
    (nn.Conv1d(4, 6, 3), (1, 4, 20)),
    (nn.Conv1d(4, 6, 3, padding=1), (1, 4, 9)),
    (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 8, 8)),
    (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 1, 1)),
    (nn.Conv2d(4, 8, (3, 5), stride=(2, 1), padding=(1, 2)), (1, 4, 9, 12)),
    (nn.Conv2d(4, 8, 3, stride=2, dilation=2, padding=2), (1, 4, 11, 11)),
    (nn.Conv2d(64, 64, 3, padding=1, groups=64), (1, 64, 8, 8)),
    (nn.Conv2d(8, 16, 3, groups=4), (1, 8, 10, 10)),
    (nn.Conv2d(4, 4, 3, padding="same", dilation=2), (1, 4, 7, 7)),
    (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (1, 4, 6, 6)),
    (nn.Conv3d(2, 4, 3, padding=1), (1, 2, 4, 5, 6)),
    (nn.ConvTranspose1d(4, 6, 4, stride=2), (1, 4, 9)),
    (nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), (1, 4, 7, 7)),
    (nn.ConvTranspose2d(4, 8, 3, stride=2, padding=1, output_padding=1, groups=2), (1, 4, 5, 5)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: str(value).replace(" ", ""))
def test_fans_are_what_the_operator_does_with_ones(layer, shape):
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.zero_()
    x = torch.ones(shape, requires_grad=True)
    y = layer(x)
    y.backward(torch.ones_like(y))
    fans = operator_fans(layer, "weight", shape)[0].fans
    assert fans is not None and x.grad is not None
    assert fans.fan_in == pytest.approx(y.mean().item(), rel=1e-6)
    assert fans.fan_out == pytest.approx(x.grad.mean().item(), rel=1e-6)


def test_the_factor_of_a_zero_padded_kernel_is_that_of_the_catalogue():
    # along one dimension 22 of 24 taps land; over both the square, whose root the std follows
    fans = operator_fans(nn.Conv2d(3, 8, 3, padding=1), "weight", (1, 3, 8, 8))[0].fans
    assert fans is not None
    assert (fans.fan_in / 27) ** 0.5 == pytest.approx(22 / 24, rel=1e-6)


def test_a_far_border_changes_nothing():
    near, far = (
        operator_fans(nn.Conv2d(3, 8, 3, stride=2, padding=1), "weight", size)[0].fans for size in (None, (1, 3, 4096, 4096))
    )
    assert near is not None and far is not None
    assert near.fan_in == pytest.approx(far.fan_in, rel=1e-3) and near.fan_out == pytest.approx(far.fan_out, rel=1e-3)


def test_torch_is_wrong_where_the_catalogue_says_so():
    depthwise = nn.Conv2d(64, 64, 3, groups=64)
    assert torch_fans(depthwise.weight.shape) == Fans(9.0, 576.0)
    assert operator_fans(depthwise, "weight")[0].fans == Fans(9.0, 9.0)
    transposed = nn.ConvTranspose2d(4, 6, 2, stride=2)
    assert torch_fans(transposed.weight.shape) == Fans(24.0, 16.0)
    assert operator_fans(transposed, "weight")[0].fans == Fans(4.0, 24.0)


def test_packed_projections_are_three_matrices():
    blocks = operator_fans(nn.MultiheadAttention(8, 2), "in_proj_weight")
    assert [(block.name, block.rows, block.fans) for block in blocks] == [
        ("query", slice(0, 8), Fans(8.0, 8.0)),
        ("key", slice(8, 16), Fans(8.0, 8.0)),
        ("value", slice(16, 24), Fans(8.0, 8.0)),
    ]
    separate = nn.MultiheadAttention(8, 2, kdim=5, vdim=6)
    assert operator_fans(separate, "k_proj_weight")[0].fans == Fans(5.0, 8.0)


@pytest.mark.parametrize(
    ("layer", "gates"), [(nn.LSTM(5, 7), ["input", "forget", "cell", "output"]), (nn.GRU(5, 7), ["reset", "update", "new"])]
)
def test_gates_are_matrices_of_their_own(layer, gates):
    for attr, columns in (("weight_ih_l0", 5.0), ("weight_hh_l0", 7.0)):
        blocks = operator_fans(layer, attr)
        assert [block.name for block in blocks] == gates
        assert {block.fans for block in blocks} == {Fans(columns, 7.0)}


def test_a_gate_acts_as_its_block_says():
    layer = nn.LSTM(5, 7)
    forget = operator_fans(layer, "weight_ih_l0")[1]
    assert forget.rows is not None
    part = layer.weight_ih_l0[forget.rows]
    assert F.linear(torch.ones(1, 5), torch.ones_like(part)).mean().item() == forget.fans.fan_in  # pyright: ignore


def test_vectors_have_no_fans():
    with pytest.raises(SchemeError, match="at least 2 dimensions"):
        torch_fans((3,))
    with pytest.raises(SchemeError, match="BatchNorm2d.weight of shape"):
        operator_fans(nn.BatchNorm2d(3), "weight")


def convolution(draw: random.Random) -> nn.Module:
    """A convolution of any geometry, transposed or not, of ones."""
    axes, transposed = draw.choice([1, 2]), draw.random() < 0.4
    kernel, stride, dilation, padding = (
        tuple(draw.randint(*bounds) for _ in range(axes)) for bounds in ((1, 5), (1, 3), (1, 2), (0, 2))
    )
    geometry = {"stride": stride, "dilation": dilation, "padding": padding, "groups": draw.choice([1, 2]), "bias": False}
    if transposed:
        extra = tuple(draw.randint(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
        layer = [nn.ConvTranspose1d, nn.ConvTranspose2d][axes - 1](4, 6, kernel, output_padding=extra, **geometry)
    else:
        mode = draw.choice(["zeros", "circular", "reflect", "replicate"])
        layer = [nn.Conv1d, nn.Conv2d][axes - 1](4, 6, kernel, padding_mode=mode, **geometry)
    nn.init.ones_(layer.weight)
    return layer.double()


def ones_through(layer: nn.Module, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.ones(1, 4, *size, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    return y, gradient


def interior_mean(values: torch.Tensor, period: tuple[int, ...]) -> float:
    for axis, step in enumerate(period):
        values = values.narrow(2 + axis, values.shape[2 + axis] // 2 - 2 * step, 4 * step)
    return values.mean().item()


@pytest.mark.parametrize("seed", range(60))
def test_fans_of_any_geometry_are_what_the_operator_does(seed):
    draw = random.Random(seed)
    layer = convolution(draw)
    stride = layer.stride
    assert isinstance(stride, tuple)
    size = tuple(draw.randint(9, 14) for _ in stride)
    y, gradient = ones_through(layer, size)
    fans = operator_fans(layer, "weight", (1, 4, *size))[0].fans
    assert fans is not None and (fans.fan_in, fans.fan_out) == pytest.approx((y.mean().item(), gradient.mean().item()), abs=1e-9)

    y, gradient = ones_through(layer, (48,) * len(stride))
    one = (1,) * len(stride)
    at_outputs, at_inputs = (stride, one) if layer.transposed else (one, stride)
    fans = operator_fans(layer, "weight")[0].fans
    expected = interior_mean(y, at_outputs), interior_mean(gradient, at_inputs)
    assert fans is not None and (fans.fan_in, fans.fan_out) == pytest.approx(expected, abs=1e-9)


def test_bilinear_embedding_and_projected_recurrence():
    layer = nn.Bilinear(3, 4, 5, bias=False)
    nn.init.ones_(layer.weight)
    x1, x2 = torch.ones(1, 3, requires_grad=True), torch.ones(1, 4, requires_grad=True)
    y = layer(x1, x2)
    gradients = torch.cat(torch.autograd.grad(y.sum(), [x1, x2]), dim=1)
    fans = operator_fans(layer, "weight")[0].fans
    assert fans is not None and (fans.fan_in, fans.fan_out) == pytest.approx((y.mean().item(), gradients.mean().item()))
    assert operator_fans(nn.Embedding(10, 4), "weight")[0].fans == Fans(1.0, 4.0)
    projected = nn.LSTM(5, 7, proj_size=3, num_layers=2, bidirectional=True)
    assert operator_fans(projected, "weight_hh_l0")[0].fans == Fans(3.0, 7.0)
    assert operator_fans(projected, "weight_ih_l1_reverse")[0].fans == Fans(6.0, 7.0)
    assert [block.rows for block in operator_fans(projected, "weight_hr_l0")] == [None]


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(SchemeError, match="takes an input of 4 dimensions"):
        operator_fans(nn.Conv2d(3, 8, 3), "weight", (3, 8, 8))
    with pytest.raises(SchemeError, match="too small"):
        operator_fans(nn.Conv2d(3, 8, 5), "weight", (1, 3, 4, 8))
