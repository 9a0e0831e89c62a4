"""What torch's authors wrote, told and drawn: mean and std agree for every class that is known."""

import math

import pytest
import torch
from torch import nn

from modelfactory.init.default_moments import authored_moments
from modelfactory.model.layers.containers import Residual
from modelfactory.model.layers.glue import PositionalEmbedding

LAYERS = (
    nn.Linear(64, 128),
    nn.Conv2d(8, 64, 3, groups=2),
    nn.ConvTranspose2d(8, 64, 3),
    nn.Bilinear(16, 32, 64),
    nn.LSTM(32, 64),
    nn.GRUCell(32, 64),
    nn.Embedding(200, 50),
    nn.MultiheadAttention(64, 4),
    nn.MultiheadAttention(64, 4, kdim=32, vdim=16, add_bias_kv=True),
    nn.BatchNorm1d(8),
    nn.LayerNorm(8),
    nn.GroupNorm(2, 8),
    nn.PReLU(4),
    PositionalEmbedding(50, 64),
    Residual({"fc": nn.Linear(4, 4)}, learn_scale=0.1, channels=4),
)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_what_an_author_wrote_is_what_the_values_show(layer: nn.Module):
    torch.manual_seed(0)
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    for attr, parameter in layer._parameters.items():
        if parameter is None:
            continue
        mean, std = authored_moments(layer, attr)
        count = parameter.numel()
        assert parameter.mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(count) + 1e-7), attr
        assert parameter.double().std(correction=0).item() == pytest.approx(std, rel=5 / math.sqrt(2 * count), abs=1e-7), attr


def test_of_a_class_that_is_not_known_nothing_is_told():
    module = nn.Module()
    module.w = nn.Parameter(torch.zeros(3, 3))
    assert all(math.isnan(value) for value in authored_moments(module, "w"))
