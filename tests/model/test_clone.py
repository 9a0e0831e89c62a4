"""Shadow: a double on the meta device that shares nothing with its original."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from modelfactory.model.clone import mould_of, shadow_of


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.again = self.first


class WithPlainList(nn.Module):
    """Holds a module where torch does not look for one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.order = [self.inner]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.order[0](x)


class WithHook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.calls = 0
        self.inner.register_forward_hook(self.count)

    def count(self, *_: object) -> None:
        self.calls += 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.LSTM(3, 4, num_layers=2),
        lambda: nn.TransformerEncoderLayer(8, 2),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), weight_norm(nn.Conv2d(4, 4, 1))),
        Tied,
        WithPlainList,
        WithHook,
        lambda: torchvision.models.resnet18(),
        lambda: torchvision.models.swin_t(),
    ],
)
def test_the_double_is_what_deepcopy_gives_without_memory(build):
    module = build()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    double, original = shadow_of(module)
    twin = copy.deepcopy(module)
    assert list(double.state_dict()) == list(twin.state_dict())
    assert all(tensor.is_meta for tensor in (*double.parameters(), *double.buffers()))
    assert [type(part) for part in double.modules()] == [type(part) for part in twin.modules()]
    assert repr(double) == repr(module)
    assert {id(part) for part in double.modules()}.isdisjoint(id(part) for part in module.modules())
    assert [original[id(tensor)] for tensor in double.parameters()] == [id(tensor) for tensor in module.parameters()]
    double.eval().to(torch.float64)
    for part in double.modules():
        part._parameters.clear()
        part.register_forward_hook(lambda *_: None)
    assert module.training
    assert not any(part._forward_hooks for part in module.modules() if not isinstance(module, WithHook))
    after = module.state_dict()
    assert all(torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items())


@pytest.mark.parametrize("kind", [WithPlainList, WithHook])
def test_what_refers_to_a_part_refers_to_the_doubles_own(kind):
    module = kind()
    double, _ = shadow_of(module)
    assert double(torch.empty(2, 4, device="meta")).is_meta
    assert vars(module).get("calls", 0) == 0


def test_tied_stay_tied():
    double, _ = shadow_of(Tied())
    assert double.second.weight is double.first.weight
    assert double.again is double.first


def test_a_mould_makes_copies_that_share_nothing_but_settings():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    mould = mould_of(module)
    assert mould is not None
    one, other = mould.copy(torch.clone), mould.copy(torch.clone)
    for copied in (one, other):
        assert repr(copied) == repr(module) and list(copied.state_dict()) == list(module.state_dict())
        assert all(torch.equal(copied.state_dict()[name], value) for name, value in module.state_dict().items())
    one[0].weight.data.zero_()
    one[1].register_forward_hook(lambda *_: None)
    one[2].inplace = True
    assert other[0].weight.any() and module[0].weight.any()
    assert not other[1]._forward_hooks and not module[1]._forward_hooks
    assert not other[2].inplace and not module[2].inplace


@pytest.mark.parametrize("kind", [WithPlainList, WithHook])
def test_what_holds_more_than_settings_has_no_mould(kind):
    assert mould_of(kind()) is None
