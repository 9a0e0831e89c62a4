"""No false alarm on models as their authors made them."""

from __future__ import annotations

import pytest
import torch

import modelfactory as mf
from tests.tracing.small_transformers import KNOWN

TORCHVISION = "mobilenet_v3_small mnasnet0_5 shufflenet_v2_x0_5 squeezenet1_1 regnet_y_400mf".split()
LONG = ["resnet18"]
TIMM = ["tinynet_e"]
LONG_TIMM = ["resnet10t"]


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("name", [*TORCHVISION, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)])
def test_models_of_torchvision_are_clean(name: str):
    import torchvision

    found = mf.audit(torchvision.models.get_model(name, weights=None))
    assert found, str(found)


@pytest.mark.parametrize("name", [*TIMM, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG_TIMM)])
def test_models_of_timm_are_clean(name: str):
    timm = pytest.importorskip("timm")
    found = mf.audit(timm.create_model(name))
    assert found, str(found)


@pytest.mark.parametrize("name", KNOWN)
def test_models_of_transformers_are_clean(name: str):
    pytest.importorskip("transformers")
    found = mf.audit(KNOWN[name].make()[0])
    assert found, str(found)
