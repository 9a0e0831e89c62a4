"""Shapes known from shapes alone are those of the meta device."""

import pytest
import torch
from torch import nn

from modelfactory.model.layers.glue import Reduce
from modelfactory.numerics.activation import ACTIVATIONS
from modelfactory.tracing.meta_shapes import KnownShapes

CASES = [
    (nn.Linear(3, 5), (2, 7, 3)),
    (nn.Conv1d(4, 6, 3, 2, 1), (2, 4, 9)),
    (nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2), (2, 4, 9, 11)),
    (nn.Conv2d(4, 6, 3, padding="same"), (2, 4, 9, 11)),
    (nn.Conv3d(2, 3, 2), (2, 2, 4, 5, 6)),
    (nn.ConvTranspose2d(4, 6, 3, 2), (2, 4, 5, 5)),
    (nn.BatchNorm2d(4), (2, 4, 5, 5)),
    (nn.LayerNorm([4, 5]), (2, 3, 4, 5)),
    (nn.GroupNorm(2, 4), (2, 4, 5)),
    (nn.InstanceNorm1d(4, affine=True), (2, 4, 5)),
    (nn.PReLU(4), (2, 4, 5)),
    (nn.AdaptiveAvgPool1d(3), (2, 4, 9)),
    (nn.AdaptiveAvgPool2d(1), (2, 4, 9, 9)),
    (nn.AdaptiveAvgPool2d((2, None)), (2, 4, 9, 9)),
    (nn.AdaptiveAvgPool3d(2), (2, 4, 9, 9, 9)),
    (Reduce(1), (2, 4, 5)),
    (Reduce(-1), (2, 4, 5)),
    (nn.LSTM(3, 5, 2, bidirectional=True, batch_first=True), (2, 4, 3)),
    (nn.LSTM(3, 5, proj_size=2), (4, 2, 3)),
    (nn.GRU(3, 5), (4, 2, 3)),
    (nn.RNN(3, 5, nonlinearity="relu", batch_first=True), (2, 4, 3)),
    (nn.TransformerEncoderLayer(8, 2, batch_first=True), (2, 4, 8)),
    *((ACTIVATIONS[name](*((0.1, 0.0) if name == "threshold" else ())), (2, 4, 5)) for name in sorted(ACTIVATIONS)),
]


def shapes(value):
    return tuple(map(shapes, value)) if isinstance(value, (tuple, list)) else (value.shape, value.dtype)


@pytest.mark.parametrize(("module", "shape"), CASES, ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "")
def test_shapes_are_those_of_the_meta_device(module, shape):
    module, x = module.to("meta").eval(), torch.empty(shape, device="meta")
    with KnownShapes():
        known = module(x)
    assert shapes(known) == shapes(module(x))


WRONG = [
    (nn.Linear(3, 5), (2, 4)),
    (nn.Conv2d(4, 6, 3), (2, 3, 9, 9)),
    (nn.Conv2d(4, 6, 5), (2, 4, 3, 3)),
    (nn.BatchNorm1d(4), (2, 5)),
    (nn.LayerNorm([4, 5]), (2, 5, 4)),
    (nn.GroupNorm(2, 4), (2, 6, 5)),
    (nn.LSTM(3, 5), (4, 2, 2)),
]


@pytest.mark.parametrize(("module", "shape"), WRONG, ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "")
def test_what_does_not_fit_is_refused_as_on_the_meta_device(module, shape):
    with pytest.raises((RuntimeError, ValueError)), KnownShapes():
        module.to("meta").eval()(torch.empty(shape, device="meta"))
