"""The closed form of effective fans against the operators themselves, run with ones."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modelfactory.errors import SchemeError
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
