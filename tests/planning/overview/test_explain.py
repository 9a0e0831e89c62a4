"""Why a parameter gets its values: the rules in order, the winner, fans, gain and draws, as the build does it."""

from __future__ import annotations

import json

import pytest
import torch

import modelfactory as mf
from modelfactory.config.errors import ConfigError
from modelfactory.numerics.rng import generator


def compose(*overrides: str):
    """A config with kaiming_normal where no initialisation is named."""
    named = any(override.startswith("init=") for override in overrides)
    return mf.compose(*([] if named else ["init=kaiming_normal"]), *overrides)


def layer(name: str, **arguments) -> dict:
    return {"_target_": f"torch.nn.{name}", **arguments}


def explained(name: str, *overrides: str):
    (explanation,) = mf.plan(compose(*overrides)).explain(name)
    return explanation


def test_every_rule_is_told_in_order_with_what_picked_and_who_won():
    mine = "+init.rules.mine={match: ['fc1.*', 'fc2.*'], module: Linear, role: weight, scheme: orthogonal}"
    found = explained("fc2.weight", mine)
    assert [(one.rule, one.matched, one.won) for one in found.contenders] == [
        ("author", True, False),
        ("biases", False, False),
        ("weights", True, False),
        ("mine", True, True),
    ]
    assert found.contenders[3].parts == (("match", "fc1.*, fc2.*", True), ("module", "Linear", True), ("role", "weight", True))
    assert found.contenders[2].why == "init.rules.mine comes later"
    other = explained("head.weight", mine)
    assert other.contenders[3].parts[0] == ("match", "fc1.*, fc2.*", False) and not other.contenders[3].won


def test_a_rule_beside_a_layer_wins_over_roles_and_yields_to_names():
    beside = "+model.layers.head.init={weight: zeros}"
    found = explained("head.weight", beside)
    assert [one.rule for one in found.contenders if one.won] == ["model.layers.head.init.weight"]
    assert "stands beside the layer" in found.contenders[2].why
    named = explained("head.weight", beside, "+init.rules.mine={match: head.weight, scheme: ones}")
    assert [one.rule for one in named.contenders if one.won] == ["mine"]
    assert named.contenders[-1].matched and "names the parameter by match" in named.contenders[-1].why


def test_a_rule_that_cannot_fill_loses_and_says_so():
    found = explained("head.bias", "+init.rules.mine={match: 'head.*', scheme: xavier_normal}")
    assert found.contenders[3].matched and not found.contenders[3].won and found.contenders[3].why == "it needs 2 dimensions"
    assert [one.rule for one in found.contenders if one.won] == ["biases"]


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet", "vit", "lstm"])
@pytest.mark.parametrize("init", ["default", "xavier_normal"])
def test_one_rule_wins_for_every_parameter_and_it_is_that_of_the_ledger(model: str, init: str):
    plan = mf.plan(compose(f"model={model}", f"init={init}"))
    found = plan.explain("*")
    assert [one.row.name for one in found] == [row.name for row in plan.ledger]
    for explanation in found:
        (winner,) = (one for one in explanation.contenders if one.won)
        assert winner.rule == explanation.row.rule and winner.matched
    json.dumps([one.to_dict() for one in found], allow_nan=False)


def test_the_seed_told_is_the_one_that_draws():
    found = explained("fc1.weight", "model.width=8", "seed=4", "init=normal")
    drawn = torch.empty(8, 64).normal_(0, 0.02, generator=generator(found.seed, "fc1.weight"))
    assert torch.equal(drawn, mf.build(compose("model.width=8", "seed=4", "init=normal")).fc1.weight)
    assert found.draws == "modelfactory.numerics.rng.generator(4, 'fc1.weight')"
    assert explained("fc1.bias").seed is None


AUTO = ("init=xavier_normal", "init.rules.weights.gain=auto")
FANS = {
    "grouped": (layer("Conv2d", out_channels=8, kernel_size=3, groups=4), "fan_in 18 = 2 channels in (8 in 4 groups) x 9 taps (3 x 3)"),
    "strided": (layer("Conv2d", out_channels=4, kernel_size=2, stride=2), "one window in 4, the stride 2 x 2"),
    "padded": (layer("Conv2d", out_channels=4, kernel_size=3, padding=1), "on an input of 6 x 6 some taps lie on zero padding"),
    "transposed": (layer("ConvTranspose2d", out_channels=4, kernel_size=2, stride=2), "reached by one tap in 4, the stride 2 x 2"),
}


@pytest.mark.parametrize("name", FANS)
def test_how_fans_follow_is_told_with_the_numbers_of_the_ledger(name: str):
    part, expected = FANS[name]
    plan = mf.plan({"model": {"layers": {"conv": part}}, "data": {"input_shape": [8, 6, 6]}, "init": "xavier_normal"})
    (found,) = plan.explain("conv.weight")
    assert expected in found.fans
    assert f"fan_in {found.row.fan_in:.4g}" in found.fans and f"fan_out {found.row.fan_out:.4g}" in found.fans


def test_packed_blocks_and_torchs_own_fans_are_told():
    assert "for each of the 4 blocks packed into it (input, forget, cell, output)" in explained("lstm.weight_hh_l0", "model=lstm").fans
    assert "as torch.nn.init reads them off the shape [512, 64]" in explained("fc1.weight", "init.fans=torch").fans


def test_what_decided_the_gain_is_told_with_its_place():
    assert explained("fc2.weight", *AUTO, "activation=gelu").gain.startswith("1.5335 (auto): 1/sqrt")
    assert "act1 (GELU)" in explained("fc2.weight", *AUTO, "activation=gelu").gain
    assert "act1 (Tanh)" in explained("fc2.weight", "init=kaiming_normal", "activation=tanh").gain  # and the relu that was given
    assert explained("fc2.weight", "init=xavier_normal", "init.rules.weights.gain=2").gain == "2, as the config gives it"


def test_freezing_is_told_with_its_rule():
    assert explained("head.bias", "+freeze.rules.a={match: 'head.*'}").training == "no: frozen by freeze.rules.a {match: head.*}"
    assert explained("head.bias", "+model.layers.head.freeze=true").training == "no: frozen by model.layers.head.freeze"


def test_a_name_that_there_is_not_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="'hed.weight' is no parameter of the model; did you mean 'head.weight'"):
        mf.plan(compose()).explain("hed.weight")
