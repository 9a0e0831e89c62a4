"""What constructors write: the recorder tells draws, values, copies and raw memory apart."""

import copy
import math

import pytest
import torch
from torch import nn

from modelfactory.model.deferred_construction import construction
from modelfactory.parameters.written import Written


def written(make) -> dict[str, Written]:
    """What is known of each parameter of what `make` gives, on the meta device and on the CPU, which have to agree."""
    found = []
    for device in ("meta", "cpu"):
        with torch.device(device), construction(0, "net") as recording:
            module = make()
        found.append(recording.history.of(dict(module.named_parameters())))
    assert str(found[0]) == str(found[1])
    return found[0]


def held(value) -> nn.Module:
    module = nn.Module()
    module.p = nn.Parameter(value)
    return module


def set_in(change, like=lambda: torch.empty(4, 6)):
    """A module whose parameter is raw memory that `change` writes to."""

    def make() -> nn.Module:
        module = held(like())
        with torch.no_grad():
            change(module.p)
        return module

    return make


VALUES = {
    "zeros": (lambda: held(torch.zeros(3, 4)), 0.0),
    "full": (lambda: held(torch.full((3,), 0.5)), 0.5),
    "a number times ones": (lambda: held(1e-6 * torch.ones(3)), 1e-6),
    "fill_": (set_in(lambda p: p.fill_(-4.6)), -4.6),
    "constant_": (set_in(lambda p: nn.init.constant_(p, 2.0)), 2.0),
    "all entries assigned": (set_in(lambda p: p.data.__setitem__(slice(None), 3.0)), 3.0),
    "zeros copied": (set_in(lambda p: p.copy_(torch.zeros(4, 6))), 0.0),
    "a range": (lambda: held(torch.arange(4.0)), math.nan),
    "a logarithm": (lambda: held(torch.log(torch.arange(1, 17).float())), math.nan),
    "the identity": (set_in(nn.init.eye_), math.nan),
    "a list": (lambda: held(torch.tensor([1.0, 2.0])), math.nan),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_are_told_with_their_constant(name):
    make, value = VALUES[name]
    found = written(make)["p"]
    assert found.how == "value" and (found.value == value or math.isnan(value) and math.isnan(found.value))


DRAWS = {
    "normal_": (set_in(lambda p: nn.init.normal_(p, 0.5, 0.02)), 0.5, 0.02),
    "uniform_": (set_in(lambda p: p.uniform_(-2, 4)), 1.0, 6 / math.sqrt(12)),
    "xavier": (set_in(nn.init.xavier_normal_), 0.0, math.sqrt(2 / 10)),
    "kaiming": (set_in(lambda p: nn.init.kaiming_uniform_(p, a=math.sqrt(5))), 0.0, 1 / math.sqrt(3 * 6)),
    "randn times a number": (lambda: held(torch.randn(4, 6) * 0.1), 0.0, 0.1),
    "rand moved to 0": (lambda: held((torch.rand(4, 6) * 2 - 1) / 2), 0.0, 1 / math.sqrt(12)),
    "a draw over zeros": (set_in(nn.init.xavier_normal_, lambda: torch.zeros(4, 6)), 0.0, math.sqrt(2 / 10)),
    "drawn and divided": (set_in(lambda p: nn.init.normal_(p, std=0.02).div_(4)), 0.0, 0.005),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_told_with_their_law(name):
    make, mean, std = DRAWS[name]
    found = written(make)["p"]
    assert found.how == "draw" and (found.mean, found.std) == (pytest.approx(mean), pytest.approx(std))


def test_what_nothing_is_written_to_is_raw_memory():
    def parts() -> nn.Module:
        module = nn.Module()
        for name, rows in (("some", 2), ("all_of_it", 4)):
            module.register_parameter(name, nn.Parameter(torch.empty(4, 6)))
            for row in range(rows):
                nn.init.normal_(module.get_parameter(name)[row : row + 1])
        return module

    assert written(lambda: held(torch.empty(2)))["p"].how == "nothing"
    assert written(lambda: held(torch.empty_like(torch.zeros(2))))["p"].how == "nothing"
    assert written(lambda: held(torch.zeros(2).new_empty(3)))["p"].how == "nothing"
    assert written(lambda: copy.deepcopy(held(torch.empty(2))))["p"].how == "nothing"
    assert [each.how for each in written(parts).values()] == ["nothing", "draw"]


def test_a_layer_of_torch_writes_its_own_and_another_constructor_does_not():
    def net() -> nn.Module:
        module = nn.ModuleDict({"norm": nn.BatchNorm1d(3), "table": nn.Embedding(3, 4, padding_idx=0), "act": nn.PReLU()})
        module["attention"], module["head"] = nn.MultiheadAttention(4, 2), nn.Linear(3, 3)
        nn.init.zeros_(module["head"].bias)
        return module

    found = written(net)
    assert {name for name, each in found.items() if not each.by_layer} == {"head.bias"}
    assert found["table.weight"].part is None or found["table.weight"].by_layer


def test_copies_are_told_unless_they_are_a_stack_of_layers():
    def twins(changed: bool = False, loaded: bool = False) -> nn.Module:
        net = nn.ModuleDict({"online": nn.Linear(3, 3)})
        net["target"] = nn.Linear(3, 3) if loaded else copy.deepcopy(net["online"])
        if loaded:
            net["target"].load_state_dict(net["online"].state_dict())
        if changed:
            nn.init.normal_(net["online"].weight)
        return net

    def stack() -> nn.Module:
        layer = nn.Linear(3, 3)
        return nn.ModuleList(copy.deepcopy(layer) for _ in range(3))

    for loaded in (False, True):
        assert {name: each.copy_of for name, each in written(lambda loaded=loaded: twins(loaded=loaded)).items() if each.copy_of} == {
            "target.weight": "online.weight",
            "target.bias": "online.bias",
        }
    assert [each.copy_of for each in written(lambda: twins(changed=True)).values()] == ["", "", "", "online.bias"]
    assert not any(each.copy_of for each in written(stack).values())
