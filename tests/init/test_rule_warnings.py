"""Invariant 1: every parameter and buffer of every model gets its values, from one origin; memory as it came is NaN here."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

import modelfactory as mf
from tests.contract.test_conf import SMALL, names


@contextmanager
def memory_of_nan():
    """Memory that nothing has written to holds NaN, or the largest integer."""
    kept = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(kept[0])
        torch.utils.deterministic.fill_uninitialized_memory = kept[1]


def check_covered(config) -> None:
    with memory_of_nan():
        built = mf.plan(config).materialize()
        model, ledger = built.model, built.ledger
    assert {name for row in ledger for name in row.name.split(" = ")} >= {name for name, _ in model.named_parameters()}
    assert len({row.name for row in ledger}) == len(ledger)
    assert {row.origin for row in ledger} <= {"rule", "default"}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        left = tensor.isnan() if tensor.is_floating_point() else tensor == torch.iinfo(tensor.dtype).max
        assert not left.any(), f"{name} has {int(left.sum())} numbers that nothing wrote"


@pytest.mark.parametrize("model", [name for name in names("model") if name != "own"])
@pytest.mark.parametrize("init", ["default", "kaiming_normal", "orthogonal", "uniform", "auto", "zeros"])
def test_every_number_of_our_models_is_written(model: str, init: str):
    check_covered(mf.compose(f"model={model}", f"init={init}", *SMALL.get(model, ())))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "swin_t", "shufflenet_v2_x0_5", "convnext_tiny", "squeezenet1_1"])
def test_every_number_of_torchvisions_models_is_written(name: str):
    model = {"_target_": f"torchvision.models.{name}", "num_classes": 7}
    for init in ("default", "xavier_normal"):
        check_covered({"model": model, "data": {"input_shape": [3, 64, 64]}, "init": init})
