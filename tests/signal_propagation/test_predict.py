"""The signal as predicted against the signal as it is, over every kind of layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modelfactory.signal_propagation.predict import predict


def test_on_the_meta_device_from_moments_alone():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(100, 50, bias=False), nn.ReLU(), nn.Linear(50, 10, bias=False))
    table = predict(model, (64, 100), {"0.weight": (0.0, 0.1), "2.weight": (0.0, 0.2)})
    assert [row.predicted.forward for row in table] == pytest.approx([1.0, 0.5**0.5, 1.0], rel=1e-4)
    assert [row.predicted.gradient for row in table] == pytest.approx([(10 * 0.04 / 2) ** 0.5, (10 * 0.04) ** 0.5, 1.0], rel=1e-4)


def test_what_is_not_known_is_said():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
    first, second = predict(model, (2, 3, 4))
    assert "the values of 0.weight are not known" in first.note
    assert "not predicted" in second.note
