"""What may differ when a run is resumed: each key has one policy, and only what differs in meaning counts."""

import dataclasses

import pytest

import modelfactory as mf
from modelfactory.config.compose import to_plain
from modelfactory.training.resume_policy import POLICY, ResumeRule, find_changes, policy_of
from modelfactory.training.spec import TrainerSpec


def linear(**keys):
    return {"_target_": "torch.nn.Linear", "out_features": 3, **keys}


def paths(before, after):
    return [change.path for change in find_changes(before, after)]


def test_every_key_of_the_trainer_is_decided_on_by_name():
    named = {key for policy in POLICY for key in policy.keys}
    missing = {f"trainer.{field.name}" for field in dataclasses.fields(TrainerSpec)} - named
    assert missing == {"trainer.resume"}  # which is never compared


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("seed", ResumeRule.REFUSED),
        ("data.batch_size", ResumeRule.TAKES_EFFECT),
        ("data.transforms.train.crop.size", ResumeRule.TAKES_EFFECT),
        ("data.root", ResumeRule.TAKES_EFFECT),
        ("data.num_workers", ResumeRule.FREE),
        ("data.anything_else", ResumeRule.REFUSED),
        ("model.layers.NAME.out_features", ResumeRule.REFUSED),
        ("model.layers.NAME.init.weight", ResumeRule.START),
        ("model.layers.NAME.layers.NAME.freeze", ResumeRule.TAKES_EFFECT),
        ("init.rules.weights.scheme", ResumeRule.START),
        ("backbone.weights", ResumeRule.START),
        ("backbone.name", ResumeRule.REFUSED),
        ("freeze.rules.body.match", ResumeRule.TAKES_EFFECT),
        ("optimizer._target_", ResumeRule.REFUSED),
        ("optimizer.groups.head.lr_scale", ResumeRule.TAKES_EFFECT),
        ("scheduler._target_", ResumeRule.TAKES_EFFECT),
        ("trainer.loss.label_smoothing", ResumeRule.REFUSED),
        ("trainer.max_epochs", ResumeRule.FREE),
        ("trainer.precision", ResumeRule.TAKES_EFFECT),
        ("callbacks.stop.patience", ResumeRule.FREE),
    ],
)
def test_a_key_has_the_policy_of_its_row(path, rule):
    assert policy_of(path).rule is rule


def test_a_seed_that_is_left_out_is_0():
    assert find_changes({}, {"seed": 0}) == find_changes({"seed": None}, {"seed": 0}) == []
    assert [str(change) for change in find_changes({}, {"seed": 2})] == ["seed: 0 -> 2"]


def test_a_key_that_is_left_out_is_its_default():
    before = {"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}, "model": {"layers": {"fc": linear()}}}
    after = {
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0, "groups": {}, "no_decay": []},
        "model": {"layers": {"fc": linear(bias=True)}},
        "data": {"seed": 0, "val_batch_size": None},
        "scheduler": {"_target_": None, "interval": "epoch", "warmup_epochs": 0.0},
        "trainer": {"accumulate": 1, "loss": None, "resume": "somewhere"},
        "sweep": {"resume": "auto"},
        "freeze": {},
    }
    assert paths(before, after) == []


def test_a_layer_may_have_any_name():
    """Layers that are called as keys of the grammar are layers all the same."""
    for name in ("init", "freeze", "roles", "layers", "p"):
        before, after = ({"model": {"layers": {name: {"_target_": f"torch.nn.{kind}"}}}} for kind in ("ReLU", "Tanh"))
        (change,) = find_changes(before, after)
        assert change.path == f"model.layers.{name}._target_" and change.policy.rule is ResumeRule.REFUSED


@pytest.mark.parametrize("group", ["model.layers", "init.rules", "freeze.rules", "optimizer.groups", "data.transforms.train"])
def test_the_order_of_layers_of_rules_and_of_groups_counts(group):
    def nested(keys):
        value = dict.fromkeys(keys, {"match": "*"})
        for name in reversed(group.split(".")):
            value = {name: value}
        return value

    (change,) = find_changes(nested("ab"), nested("ba"))
    assert str(change) == f"{group}: the order a, b -> the order b, a"
    assert paths(nested("ab"), nested("axb")) == [f"{group}.x"]


def test_whole_configs_are_told_apart_key_by_key():
    one, other = (to_plain(mf.compose("model=cnn", "optimizer=sgd", *words)) for words in ((), ("activation=gelu", "optimizer.lr=0.3")))
    assert find_changes(one, one) == []
    found = paths(one, other)
    assert found[-1] == "optimizer.lr" and set(found[:-1]) == {
        "activation._target_", "model.layers.act1._target_", "model.layers.act2._target_"
    }  # fmt: skip
