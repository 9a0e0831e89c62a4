"""Weights that are computed from parameters: what a rule draws is what the layer computes with."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import modelfactory as mf
from modelfactory.config.errors import ConfigError
from modelfactory.parameters.roles import describe


def old_weight_norm(layer: nn.Module, dim: int = 0) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch has a newer one; old models have this one
        return weight_norm(layer, dim=dim)


class Normed(nn.Module):
    """The same layers plain, and by each kind of weight norm."""

    def __init__(self, how: str = "plain"):
        super().__init__()
        wrap = {"plain": lambda layer: layer, "new": parametrizations.weight_norm, "old": old_weight_norm}[how]
        self.conv = wrap(nn.Conv2d(4, 30, 3, padding=1, groups=2))
        self.fc = wrap(nn.Linear(30, 200))

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def config(how: str, init) -> dict:
    model = {"_target_": "tests.parameters.test_parametrized.Normed", "how": how}
    return {"model": model, "data": {"input_shape": [4, 6, 6]}, "init": init, "seed": 3}


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODELFACTORY_TRUST", "tests")


@pytest.mark.parametrize("how", ["new", "old"])
@pytest.mark.parametrize("init", ["kaiming_normal", "xavier_uniform", "orthogonal"])
def test_a_weight_normed_layer_computes_with_what_the_plain_one_would_have(how: str, init: str):
    plan = mf.plan(config(how, init))
    model, plain = plan.build(), mf.build(config("plain", init))
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model(x), plain(x), atol=1e-5)  # the hook of the old one computes its weight at the call
    for name in ("conv", "fc"):
        weight = getattr(model, name).weight
        assert torch.allclose(weight, getattr(plain, name).weight, rtol=1e-5, atol=1e-7)
    assert {row.scheme for row in plan.ledger if "bias" not in row.name} == {init}


def test_the_ledger_says_honest_fans_and_what_follows():
    plan = mf.plan(config("new", "kaiming_normal"))
    ledger = plan.materialize().ledger
    row = ledger["conv.parametrizations.weight.original1"]
    plain = mf.plan(config("plain", "kaiming_normal")).ledger["conv.weight"]
    assert (row.fan_in, row.fan_out, row.expected_std) == (plain.fan_in, plain.fan_out, plain.expected_std)
    assert row.std == pytest.approx(row.expected_std, rel=6 / math.sqrt(row.numel)) and row.role.split()[0] == "weight"
    scale = ledger["conv.parametrizations.weight.original0"]
    assert (scale.rule, scale.scheme, scale.role, scale.fan_in) == ("weights", "kaiming_normal", "scale", None)
    assert "put into conv.weight" in plan.explain("conv.weight")[0].draws


def test_a_rule_may_name_the_computed_weight_or_the_scale_alone():
    weights = {"author": {"match": "*", "scheme": "default"}, "mine": {"match": "fc.weight", "scheme": "constant", "val": 0.5}}
    model = mf.build(config("new", {"rules": weights}))
    assert torch.allclose(model.fc.weight, torch.full((200, 30), 0.5))
    only = {**weights, "scale": {"match": "fc.*original0", "scheme": "ones"}}
    assert torch.allclose(mf.build(config("new", {"rules": only})).fc.weight.norm(dim=1), torch.ones(200))


@pytest.mark.parametrize("how", ["new", "old"])
def test_the_authors_init_is_that_of_the_constructor(how: str):
    model = mf.build(config(how, "default"))
    bound = 1 / math.sqrt(30)
    assert 0.9 * bound < model.fc.weight.abs().max() <= bound * 1.001


def test_an_existing_model_is_initialised_through_its_parametrizations():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(50, 40)), parametrizations.orthogonal(nn.Linear(40, 40)))
    mf.initialize(model, {"role": "weight", "scheme": "kaiming_normal", "nonlinearity": "linear"}, seed=1)
    plain = nn.Sequential(nn.Linear(50, 40))
    mf.initialize(plain, {"role": "weight", "scheme": "kaiming_normal", "nonlinearity": "linear"}, seed=1)
    assert torch.allclose(model[0].weight, plain[0].weight, rtol=1e-5, atol=1e-7)
    own = model[1].weight.detach()
    assert torch.allclose(own.mm(own.T), torch.eye(40), atol=1e-5)  # what it computes stays orthogonal
    with pytest.raises(ConfigError, match="computes 0.weight, which reset_parameters cannot set; give a scheme"):
        mf.initialize(model, {"match": "0.weight", "scheme": "default"})


def test_spectral_norm_divides_what_was_drawn_by_its_norm():
    for wrap, name in ((parametrizations.spectral_norm, "parametrizations.weight.original"), (spectral_norm, "weight_orig")):
        model = wrap(nn.Linear(60, 50)).eval()
        ledger = mf.initialize(model, {"role": "weight", "scheme": "normal", "std": 0.3})
        assert [row.name for row in ledger] == [name] and ledger[name].std == pytest.approx(0.3, rel=0.05)
        model(torch.ones(1, 60))
        assert torch.linalg.matrix_norm(model.weight, 2).item() == pytest.approx(1, abs=0.1)  # of the new values, in evaluation mode too


def test_what_torch_cannot_go_back_through_is_left_to_its_author():
    layer = parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="cayley", use_trivialization=False)
    (info,) = (info for info in describe(layer) if "original" in info.name)
    assert info.computed is None and info.roles[0] == "other"
