"""init=auto: what it chooses for each layer, why, and that deep nets get their signal through with it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.init.auto import stable_level
from modelfactory.model.layers.containers import Residual
from modelfactory.numerics.activation import ACTIVATIONS, critical, gain
from modelfactory.numerics.gaussian_moments import respond
from modelfactory.signal_propagation.verdict import worst


def rows(*overrides: str) -> dict[str, tuple[str, float | None]]:
    return {row.name: (row.scheme, row.gain) for row in mf.plan(mf.compose("init=auto", *overrides)).ledger}


def near_a_guess(classes: int) -> float:
    """The rms of logits at which the mean of the first loss is 1.07 ln C."""
    return math.sqrt(0.14 * math.log(classes) / (1 - 1 / classes))


def test_the_gain_is_that_of_what_acts_on_the_layer():
    found = rows("activation=tanh")
    assert found["fc1.weight"] == ("lecun_normal", 1.0)
    assert found["fc2.weight"] == ("lecun_normal", pytest.approx(gain("tanh")))
    assert found["head.weight"] == ("lecun_normal", pytest.approx(near_a_guess(10) * gain("tanh")))
    assert found["fc1.bias"][0] == "zeros"


def test_what_stands_after_a_norm_has_gain_1_and_the_norm_its_authors_init():
    found = rows("model=vit")
    assert found["blocks.0.mlp.fc1.weight"] == ("lecun_normal", 1.0)
    assert found["blocks.0.mlp.norm.weight"][0] == "default"


def test_the_end_of_each_of_eight_residual_branches_is_scaled():
    found = rows("model=vit")
    assert found["blocks.0.mlp.fc2.weight"][1] == pytest.approx(gain("gelu") / math.sqrt(8))
    assert rows("model=resnet")["stage1.0.body.conv2.weight"][1] == pytest.approx(1 / math.sqrt(3))  # a norm ends the branch


def test_what_a_norm_follows_has_torchs_scale_since_its_own_says_only_how_fast_it_learns():
    found = rows("model=cnn")
    assert found["conv1.weight"] == found["conv2.weight"] == ("lecun_normal", pytest.approx(1 / math.sqrt(3)))
    assert rows("model=deep_cnn")["hidden.1.conv.weight"][1] == pytest.approx(gain("relu")), "no norm follows"


class Twice(nn.Module):
    """What a norm takes, and a sum that leaves the model too."""

    def __init__(self, out: bool):
        super().__init__()
        self.first, self.norm, self.last, self.out = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        y = self.last(self.norm(x))
        return x + y if self.out else y


@pytest.mark.parametrize("out", [True, False])
def test_a_scale_that_something_else_sees_is_not_free(out: bool):
    ledger = mf.initialize(Twice(out), "auto", example=torch.zeros(2, 8))
    assert ledger["first.weight"].gain == pytest.approx(1.0 if out else 1 / math.sqrt(3))


def test_a_pre_norm_stream_begins_as_small_as_the_positions_and_no_other_does():
    assert rows("model=vit")["patches.weight"] == ("lecun_normal", 0.02)
    assert rows("model=deep_residual")["stem.weight"][1] == 1.0
    post = nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 3))
    assert mf.initialize(post, "auto", example=torch.zeros(2, 5, 8))["0.weight"].gain == 1.0
    pre = nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True))
    assert mf.initialize(pre, "auto", example=torch.zeros(2, 5, 8))["0.weight"].gain == 1.0, "its stream leaves the model without a norm"
    normed = nn.Sequential(*pre, nn.LayerNorm(16), nn.Linear(16, 3))
    assert mf.initialize(normed, "auto", example=torch.zeros(2, 5, 8))["0.weight"].gain == 0.02


def test_recurrent_weights_are_orthogonal_and_the_forget_gate_is_open():
    found = rows("model=lstm")
    assert found["lstm.weight_hh_l0"][0] == "orthogonal"
    model = mf.build(mf.compose("model=lstm", "init=auto"))
    biases = model.get_parameter("lstm.bias_ih_l0") + model.get_parameter("lstm.bias_hh_l0")
    assert biases.tolist() == [0.0] * 64 + [1.0] * 64 + [0.0] * 128


def test_an_unstable_activation_begins_where_its_variance_map_is_stable():
    level = stable_level("gelu")
    weight, bias = critical("gelu", level)
    plan = mf.plan(mf.compose("init=auto", "model=deep_mlp", "activation=gelu"))
    assert plan.ledger["hidden.0.fc.weight"].gain == pytest.approx(math.sqrt(level))
    assert plan.ledger["hidden.1.fc.weight"].gain == pytest.approx(math.sqrt(weight))
    assert plan.ledger["hidden.1.fc.bias"].expected_std == pytest.approx(math.sqrt(bias))


@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "hardswish"])
def test_the_variance_map_is_stable_at_that_level(name: str):
    level = stable_level(name)
    weight, bias = critical(name, level)
    for start in (0.8, 1.25):
        q = start * level
        for _ in range(200):
            q = weight * respond(name, 0.0, q).second + bias
        assert abs(math.log(q / level)) < abs(math.log(start))


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "tanh", "gelu", "silu", "elu", "selu", "mish", "hardswish", "softsign"])
def test_thirty_layers_get_their_signal_through(name: str):
    layers = [layer for _ in range(30) for layer in (nn.Linear(256, 256), ACTIVATIONS[name]())]
    model = nn.Sequential(*layers, nn.Linear(256, 10))
    torch.manual_seed(0)
    mf.initialize(model, "auto", example=torch.randn(2, 256))
    table = mf.signal(model, torch.randn(64, 256))
    assert worst(table) in ("ok", "unexpected")
    hidden = [row.measured.forward for row in table][1:-1:2]
    assert 0.1 < hidden[-1] / hidden[0] < 10


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("name", "width", "depth", "classes"), [("silu", 96, 25, 7), ("mish", 64, 15, 30), ("tanh", 48, 40, 10), ("gelu", 128, 12, 2)]
)
def test_the_first_loss_of_a_deep_net_is_near_that_of_a_guess(name: str, width: int, depth: int, classes: int, residual: bool):
    """Of silu the variance is kept at 16, and residual sums grow by e: the head has to make logits of the same rms of either."""
    act = ACTIVATIONS[name]
    ratios = []
    for seed in range(4):
        if residual:
            blocks = [Residual({"a": nn.Linear(width, width), "act": act(), "b": nn.Linear(width, width)}) for _ in range(depth)]
            model = nn.Sequential(nn.Linear(width, width), *blocks, act(), nn.Linear(width, classes))
        else:
            layers = [part for _ in range(depth) for part in (nn.Linear(width, width), act())]
            model = nn.Sequential(*layers, nn.Linear(width, classes))
        x, y = torch.randn(256, width, generator=torch.Generator().manual_seed(seed)), torch.arange(256) % classes
        mf.initialize(model, "auto", seed=seed, example=x[:2])
        with torch.no_grad():
            ratios.append(nn.functional.cross_entropy(model(x), y).item() / math.log(classes))
    assert 1.005 < sum(ratios) / len(ratios) < 1.1, ratios


def test_the_head_leaves_out_the_mean_and_counts_what_a_mean_over_places_leaves():
    """Behind relu rows add up to 0; of the variance means over 2x2 places leave 7/16. Tokens behind a norm have no mean, but share 3/4."""
    left = (1 - 1 / math.pi) * (1 / 4 + 3 / 4 / 4)
    assert rows("model=cnn")["head.weight"] == ("centred_normal", pytest.approx(near_a_guess(10) * math.sqrt(2 / left)))
    assert rows("model=vit")["head.weight"] == ("lecun_normal", pytest.approx(near_a_guess(10) / math.sqrt(1 / 16 + 15 / 16 * 0.75)))
    assert mf.build(mf.compose("model=cnn", "init=auto")).get_parameter("head.weight").sum(1).abs().max().item() < 1e-5


@pytest.mark.parametrize("model", ["cnn", "resnet", "mlp", "vit", "deep_cnn"])
def test_the_first_loss_on_digits_is_near_that_of_a_guess(model: str):
    x, y = mf.build_data("data=digits").train.sample(256)
    losses = []
    for seed in range(3):
        built = mf.build(mf.compose(f"model={model}", "init=auto", f"seed={seed}"))
        with torch.no_grad():
            losses.append(nn.functional.cross_entropy(built(x), y).item())
    assert math.log(10) < sum(losses) / 3 < 1.12 * math.log(10), losses


def test_the_bias_at_the_end_of_a_residual_branch_is_scaled_with_its_weight():
    plan = mf.plan(mf.compose("init=auto", "model=deep_residual", "model.depth=9", "activation=gelu"))
    weight, bias = critical("gelu", stable_level("gelu"))
    assert plan.ledger["hidden.0.block.fc2.weight"].gain == pytest.approx(math.sqrt(weight / 9))
    assert plan.ledger["hidden.0.block.fc2.bias"].expected_std == pytest.approx(math.sqrt(bias / 9))


def test_the_reason_is_told():
    from modelfactory.init.auto import resolve_auto
    from modelfactory.init.choose import Choice
    from modelfactory.init.input_activation import InputActivation, find_acting
    from modelfactory.init.scheme_call import Auto
    from modelfactory.parameters.roles import describe

    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Residual({"fc": nn.Linear(4, 4)}), nn.Linear(4, 2))
    infos = describe(model)
    choices = [Choice(info, "r", "p", Auto()) for info in infos]
    reasons = [choice.reason for choice in resolve_auto(choices, find_acting(model))]
    assert reasons[0] == "its input is the data" and reasons[2] == "1 (ReLU) acts on its input: 1/sqrt(E f^2)"
    unknown = {id(infos[0].parameter): InputActivation(None, "not known: hidden", None, False)}
    assert resolve_auto(choices[:1], unknown)[0].reason == "as its author wrote it: not known: hidden"


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_what_stands_behind_a_gated_layer_has_the_gain_of_the_state_it_settles_at(kind):
    width, came_in = 256, 64
    layers = {
        "rnn": {"_target_": f"torch.nn.{kind}", "hidden_size": width, "batch_first": True, "output": 0},
        "fc": {"_target_": "torch.nn.Linear", "out_features": width},
        "act": {"_target_": "torch.nn.Tanh"},
        "head": {"_target_": "torch.nn.Linear", "out_features": 3},
    }
    model = mf.build({"model": {"layers": layers}, "data": {"input_shape": [24, came_in]}, "init": "auto", "seed": 0})
    x = torch.randn(256, 24, came_in, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        after = model.fc(model.rnn(x)[0][:, -1])
    # gates that depend on the state they made are not quite independent, which is what the formula takes them for
    assert after.square().mean().sqrt().item() == pytest.approx(1, abs=0.1)
