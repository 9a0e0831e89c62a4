"""No false alarm on models as their authors made them, in training and in evaluation, with a batch and without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import modelfactory as mf
from tests.auditing.real_models import (
    EXPLAINED,
    OF_IMAGES,
    OF_TEXT,
    OF_TIMM,
    OF_TORCHVISION,
    OF_TWO_TEXTS,
    of_torchvision,
    of_transformers,
)
from tests.tracing.small_transformers import KNOWN

TORCHVISION = "mobilenet_v3_small mnasnet0_5 shufflenet_v2_x0_5 squeezenet1_1 regnet_y_400mf".split()
LONG = ["resnet18"]
TIMM = ["tinynet_e"]
LONG_TIMM = ["resnet10t"]
SOON = ["DistilBertForMaskedLM", "DINOv3ViTModel", "Olmo3ForCausalLM"]


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


def hold_clean(model: nn.Module, batch: Any) -> None:
    """In both modes, with a batch and without one."""
    for training in (True, False):
        model.train(training)
        for found in (mf.audit(model), mf.audit(model, batch)):
            assert found, str(found)


@pytest.mark.parametrize("name", SOON)
def test_more_models_of_transformers_are_clean_with_a_batch(name: str):
    pytest.importorskip("transformers")
    hold_clean(*of_transformers(name))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")  # of MobileBert, by itself
@pytest.mark.parametrize("name", [*OF_TEXT, *OF_TWO_TEXTS, *OF_IMAGES])
def test_every_model_of_transformers_that_is_known_is_clean(name: str):
    pytest.importorskip("transformers")
    hold_clean(*of_transformers(name))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The default weight initialization")  # of GoogLeNet and Inception, by torchvision
@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_every_model_of_torchvision_that_is_known_is_clean(name: str):
    hold_clean(*of_torchvision(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_TIMM)
def test_every_model_of_timm_that_is_known_is_clean(name: str):
    timm = pytest.importorskip("timm")
    model = timm.create_model(name)
    hold_clean(model, torch.randn(2, *model.default_cfg["input_size"]))


@pytest.mark.parametrize("name", EXPLAINED)
def test_what_is_told_of_a_model_is_true_and_explained(name: str):
    pytest.importorskip("transformers")
    model, batch = of_transformers(name)
    kinds = {finding.kind for finding in mf.audit(model)}
    assert kinds
    assert kinds <= EXPLAINED[name]
    assert {finding.kind for finding in mf.audit(model, batch)} == EXPLAINED[name]
