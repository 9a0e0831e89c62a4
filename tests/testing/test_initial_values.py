"""The assertion for tests of one's own fails with the table, and lets pass what is meant."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modelfactory.testing import assert_init


def test_it_fails_with_the_findings_and_passes_without():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    assert_init(model, torch.randn(8, 64))
    nn.init.normal_(model[0].weight)
    with pytest.raises(AssertionError, match=r"warn   scale  0\.weight"):
        assert_init(model)


@pytest.mark.parametrize("meant", [{"level": "error"}, {"ignore": ["0.*"]}, {"ignore": ["scale"]}])
def test_what_is_meant_passes(meant: dict):
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    nn.init.normal_(model[0].weight)
    assert_init(model, **meant)
