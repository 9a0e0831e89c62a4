"""Schemes of one's own: what they may not do is told, and a model that exists is as it was then."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.config.errors import ConfigError

MODEL: list[nn.Module] = []


def halves_(tensor, generator=None):
    return tensor.uniform_(-0.5, 0.5, generator=generator)


def fills_what_it_calls_t_(t, to=1.0, *, generator):
    t.normal_(generator=generator).clamp_(0, 1).add_(to)


def fills_a_positional_(weights, /):
    weights.fill_(2)


def fills_any_(*tensors):
    tensors[0].fill_(2)


def takes_nothing():
    pass


def takes_one_more_(t, tensor):
    t.fill_(tensor)


def raises_(tensor):
    tensor.zero_()
    raise RuntimeError("there is no such matrix")


def returns_a_new_one(tensor):
    return torch.randn_like(tensor)


def fills_the_first_row_(tensor):
    tensor[0] = 1


def writes_elsewhere_(tensor):
    tensor.fill_(1)
    MODEL[0][1].running_mean.data.fill_(3)
    MODEL[0][0].weight.data.add_(1)  # by .data: no version counter tells


def fills_its_siblings_(tensor):
    tensor.fill_(1)
    MODEL[0][0].weight.data.mul_(2)


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODELFACTORY_TRUST", "tests")
    seen = MODEL
    seen[:] = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))]
    yield seen[0]
    seen.clear()


def rule(name: str, match: str = "2.weight") -> dict:
    return {"match": match, "scheme": f"tests.init.test_custom_scheme.{name}"}


WRONG = {
    "raises_": "raises_ on 2.weight: RuntimeError: there is no such matrix",
    "returns_a_new_one": "leaves 8 of 8 numbers unset or not a number; it has to fill the tensor that it is given, in place",
    "fills_the_first_row_": "leaves 4 of 8 numbers unset",
    "writes_elsewhere_": "writes to 0.weight, 1.running_mean too; it may fill the tensor it is given and nothing else",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_scheme_may_not_do_is_told_and_the_model_is_as_it_was(model: nn.Module, name: str):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rules = {"first": {"match": "0.bias", "scheme": "ones"}, "mine": rule(name)}
    with pytest.raises(ConfigError, match="rules.mine: ") as caught:
        mf.initialize(model, rules)
    assert WRONG[name] in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_parameter_that_is_written_twice_by_one_rule_is_told(model: nn.Module):
    with pytest.raises(ConfigError, match="writes to 0.weight too"):
        mf.initialize(model, rule("fills_its_siblings_", "*.weight") | {"module": "Linear"})


def test_a_right_one_fills_and_nothing_else_changes(model: nn.Module):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    mf.initialize(model, rule("halves_"), seed=2)
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["2.weight"] and model.state_dict()["2.weight"].abs().max() <= 0.5


@pytest.mark.parametrize("name", ["raises_", "returns_a_new_one"])
def test_a_build_tells_the_same(name: str):
    rules = {"author": {"match": "*", "scheme": "default"}, "mine": rule(name, "fc.weight")}
    layers = {"fc": {"_target_": "torch.nn.Linear", "out_features": 2}}
    with pytest.raises(ConfigError, match="init.rules.mine: tests.init.test_custom_scheme"):
        mf.build({"model": {"layers": layers}, "data": {"input_shape": [3]}, "init": {"rules": rules}})


@pytest.mark.parametrize(("name", "least"), [("fills_what_it_calls_t_", 5), ("fills_a_positional_", 2), ("fills_any_", 2)])
def test_the_tensor_comes_by_position_whatever_its_name_is(model: nn.Module, name: str, least: int):
    mf.initialize(model, rule(name) | ({"to": 5.0} if least == 5 else {}), seed=2)
    assert model.state_dict()["2.weight"].min() >= least


REFUSED = {
    ("fills_what_it_calls_t_", "t"): "rules.rule.t: given by the factory, and not by a rule",
    ("halves_", "generator"): "rules.rule.generator: given by the factory, and not by a rule",
    ("takes_nothing", ""): "takes_nothing takes no tensor to fill",
    ("takes_one_more_", ""): "rules.rule.tensor: missing; takes_one_more_ needs it",
}


@pytest.mark.parametrize(("name", "argument"), REFUSED)
def test_a_function_that_cannot_be_called_so_is_told(model: nn.Module, name: str, argument: str):
    with pytest.raises(ConfigError) as caught:
        mf.initialize(model, rule(name) | ({argument: 3} if argument else {}))
    assert REFUSED[name, argument] in str(caught.value)
