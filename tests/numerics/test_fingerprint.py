"""The hash of initial values: the same values, the same hash; another value, another hash."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import modelfactory as mf

RULES = {
    "w": {"role": "weight", "scheme": "kaiming_normal"},
    "b": {"role": "bias", "scheme": "uniform", "a": -1.0, "b": 1.0},
}


def net(dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)


def fingerprint(model: nn.Module, rules=RULES, seed: int = 0) -> str:
    return mf.initialize(model, rules, seed=seed).fingerprint


def test_it_does_not_depend_on_the_type_or_the_order_of_rules_and_does_on_the_seed_and_the_scheme():
    base = fingerprint(net())
    assert len(base) == 16 and base == fingerprint(net())
    assert base == fingerprint(net(torch.float64)) == fingerprint(net(torch.bfloat16))
    assert base == fingerprint(net(), dict(reversed(RULES.items())))
    assert base != fingerprint(net(), seed=1)
    assert base != fingerprint(net(), {**RULES, "w": {"role": "weight", "scheme": "lecun_normal"}})


def test_each_parameter_has_a_digest_that_another_layers_rule_does_not_change():
    one = mf.initialize(net(), RULES).digests
    other = mf.initialize(net(), {**RULES, "head": {"match": "2.weight", "scheme": "zeros"}}).digests
    assert set(one) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert {name for name in one if one[name] != other[name]} == {"2.weight"}


def test_one_number_in_its_last_bit_is_another_hash():
    from modelfactory.numerics.fingerprint import digest

    x = torch.ones(1000)
    y = x.clone()
    y[500] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert digest(x) != digest(y)


@pytest.mark.parametrize("init", ["kaiming_normal", "default"])
def test_a_run_leaves_it_in_its_result_and_a_plan_without_values_has_none(tmp_path, init):
    cfg = mf.compose("trainer=debug", "trainer.device=cpu", "trainer.progress=none", "model.width=8", f"init={init}")
    assert mf.plan(cfg).ledger.fingerprint == ""
    result = mf.train(cfg, run_dir=tmp_path)
    built = mf.plan(cfg).materialize()
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["init_hash"] == result.init_hash == built.ledger.fingerprint != ""
