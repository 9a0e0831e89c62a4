import copy
import pickle

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.errors import ConfigError


def test_frozen_is_bit_identical_after_training_with_its_statistics():
    cfg = mf.compose(
        "model=cnn", "+freeze.rules.body={match: ['conv*', 'norm1.*']}", "trainer.max_epochs=2", "trainer.device=cpu"
    )
    cfg.trainer.progress = "none"
    plan = mf.plan(cfg)
    before = {name: tensor.clone() for name, tensor in plan.build().state_dict().items()}
    result = mf.train(cfg)
    assert result.model is not None
    after = result.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {name for name in before if name.startswith(("conv", "norm1."))}
    assert frozen.isdisjoint(moved) and {"head.weight", "norm2.running_mean", "norm2.weight"} <= moved
    assert {row.name for row in plan.ledger if not row.trainable} == {
        name for name in frozen if "running" not in name and "num" not in name
    }


def test_frozen_norms_stay_whoever_calls_train():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    mf.freeze(model, ["0.*", "1.*"])
    for held in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        held.train()
        assert not held[1].training and held[2].training
        before = held[1].running_mean.clone()
        held(torch.randn(16, 3) + 5)
        assert torch.equal(held[1].running_mean, before)


def test_a_norm_without_parameters_is_held_with_what_is_around_it():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False)), nn.Linear(4, 2))
    mf.freeze(model, ["0.*"])
    assert not model.train()[0][1].training


def test_freeze_beside_a_layer_exempts_it_from_rules_by_kind():
    layers = {
        "a": {"_target_": "torch.nn.Linear", "out_features": 3, "freeze": True},
        "b": {"_target_": "torch.nn.Linear", "out_features": 2},
    }
    layers["b"]["freeze"] = False
    config = {"model": {"layers": layers}, "data": {"input_shape": [3]}}
    frozen = {
        name: not p.requires_grad
        for name, p in mf.build({**config, "freeze": {"rules": {"all": {"role": "weight"}}}}).named_parameters()
    }
    assert frozen == {"a.weight": True, "a.bias": True, "b.weight": False, "b.bias": False}
    named = mf.build({**config, "freeze": {"rules": {"b": {"match": "b.*"}}}})
    assert not any(parameter.requires_grad for parameter in named.parameters())


def test_a_rule_that_picks_nothing_is_an_error_with_the_nearest():
    with pytest.raises(ConfigError, match=r"freeze\[0\]: \{match: 0.wieght\} picks no parameter; did you mean '0.weight'"):
        mf.freeze(nn.Sequential(nn.Linear(2, 2)), ["0.wieght"])
    with pytest.raises(ConfigError, match="freeze.rules.x: .*picks no parameter"):
        mf.build(mf.compose("+freeze.rules.x={match: backbone.*}"))


def test_freezing_nothing_changes_nothing():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert mf.freeze(model, [{"role": "embedding", "optional": True}]) == []
    assert all(parameter.requires_grad for parameter in model.parameters()) and model.train()[1].training
