"""What tells two plans apart."""

from __future__ import annotations

import modelfactory as mf


def compose(*overrides: str):
    """A config with kaiming_normal where no initialisation is named."""
    named = any(override.startswith("init=") for override in overrides)
    return mf.compose(*([] if named else ["init=kaiming_normal"]), *overrides)


def plans(first: str, second: str):
    return [mf.plan(compose(*words.split())) for words in (first, second)]


def test_equal_plans_do_not_differ():
    one, other = plans("model=cnn", "model=cnn seed=1")
    difference = one.against(other)
    assert not difference and "no difference" in str(difference)


def test_layers_parameters_and_sums_that_differ_are_told():
    one, other = plans("model.width=8", "model.width=16 init=xavier_normal init.rules.weights.gain=auto +freeze.rules.a={match:fc1.bias}")
    difference = one.against(other)
    told = {(change.name, change.what): (change.before, change.after) for change in (*difference.layers, *difference.parameters)}
    assert told["fc1", "output"] == ("[N, 8]", "[N, 16]")
    assert told["fc1", "parameters"] == ("520", "1,040")
    assert told["fc2.weight", "scheme"] == ("kaiming_normal", "xavier_normal")
    assert told["fc2.weight", "fans"] == ("8 / 8", "16 / 16")
    assert told["fc1.bias", "trains"] == ("in group default", "frozen")
    assert ("fc2.weight", "gain") not in told and ("fc1.weight", "gain") in told
    assert {change.what for change in difference.totals} == {"parameters", "trainable", "weights", "optimizer's state", "FLOPs"}


def test_layers_that_one_has_alone_are_told_and_alike_changes_share_a_line():
    one, other = plans("model=deep_mlp model.depth=3", "model=deep_mlp model.depth=5 init=lecun_normal")
    difference = one.against(other)
    assert [layer.name for layer in difference.added] == ["hidden.3.fc", "hidden.3.act", "hidden.4.fc", "hidden.4.act"]
    assert not difference.removed
    assert "hidden.0.fc.weight and 3 others  scheme  kaiming_normal  lecun_normal" in str(difference)
    assert difference.to_dict()["added"] == ["hidden.3.fc", "hidden.3.act", "hidden.4.fc", "hidden.4.act"]
