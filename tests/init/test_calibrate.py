"""Calibration: what a first batch leaves each layer with, what is left alone, and what is told."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

import modelfactory as mf
from modelfactory.config.compose import to_plain
from modelfactory.config.errors import SchemeError
from modelfactory.data import Data, build_data, make_batches
from modelfactory.numerics.rng import generator


def batch(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "batch"))


def deep(activation: type[nn.Module] = nn.Tanh, depth: int = 6, width: int = 32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(width, width), activation())))


def outputs(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What leaves each layer, in evaluation mode but for norms."""
    found: dict[str, torch.Tensor] = {}
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, name=name: found.setdefault(name, out.detach().clone()) is None or None)
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU])
def test_lsuv_leaves_every_layer_with_unit_std(activation):
    model, x = deep(activation), batch(200, 32)
    done = mf.calibrate(model, x, tol=0.02)
    for std in (out.std(correction=0).item() for out in outputs(model, x).values()):
        assert std == pytest.approx(1.0, abs=0.02)
    assert [row.layer for row in done.rows] == [str(index) for index in range(0, 12, 2)]


def test_lsuv_divides_by_the_std_of_the_output_layer_by_layer():
    """As the paper has it: one factor a layer, found behind layers that are done, and nothing but a factor."""
    model, x = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Tanh(), nn.Linear(16, 16, bias=False)), batch(400, 16)
    before = copy.deepcopy(model)
    mf.calibrate(model, x, target=2.0, tol=0.001)
    with torch.no_grad():
        for index in (0, 2):
            std = before[: index + 1](x).std(correction=0)
            before[index].weight.mul_(2.0 / std)
    for index in (0, 2):
        assert torch.allclose(model[index].weight, before[index].weight, rtol=2**-10)


def test_a_bias_takes_iterations():
    layer = nn.Linear(8, 64)
    nn.init.normal_(layer.bias, std=0.7, generator=generator(0, "bias"))
    done = mf.calibrate(layer, batch(500, 8), tol=0.001)
    assert done.rows[0].iterations > 1 and done.rows[0].after == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(6, 10), batch(300, 6)),
        (nn.Conv2d(4, 10, 3, padding=1, groups=2), batch(20, 4, 9, 9)),
        (nn.ConvTranspose1d(4, 6, 4, stride=2, groups=2), batch(60, 4, 9)),
    ],
    ids=["linear", "grouped", "transposed"],
)
def test_data_dependent_leaves_every_channel_with_mean_0_and_std_1(layer, x):
    mf.calibrate(layer, x, "data_dependent")
    with torch.no_grad():
        out = layer(x).movedim(1, 0).flatten(1)
    assert torch.allclose(out.std(1, correction=0), torch.ones(len(out)), atol=2**-10)
    assert torch.allclose(out.mean(1), torch.zeros(len(out)), atol=1e-4)


def test_what_is_frozen_tied_left_out_or_a_buffer_stays_and_so_does_global_random_state():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), *(nn.Linear(8, 8) for _ in range(4)))
    model[6].weight = model[5].weight
    model[0].weight.requires_grad_(False)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    done = mf.calibrate(model, batch(64, 8), only={"0.weight", "4.weight", "5.weight"})
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"4.weight"} == set(done.factors)
    assert torch.equal(state, torch.random.get_rng_state()) and model[2].training and model[2].p == 0.5
    assert {row.layer: row.note.partition(",")[0] for row in done.rows if row.note} == {
        "0": "its weight is frozen",
        "3": "its weight is frozen",
        "5": "its weight is tied to another",
        "6": "its weight is tied to another",
    }


def test_it_is_deterministic_with_dropout_inside_of_attention():
    first = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.3, batch_first=True)
    twins = [first, copy.deepcopy(first)]
    for twin in twins:
        mf.calibrate(twin, batch(8, 5, 16))
    assert all(torch.equal(*pair) for pair in zip(*(twin.state_dict().values() for twin in twins), strict=True))
    assert twins[0].self_attn.dropout == 0.3


def test_a_parametrised_weight_is_scaled_through_its_parametrisation():
    model, x = nn.Sequential(weight_norm(nn.Linear(8, 32)), nn.Tanh(), weight_norm(nn.Linear(32, 32))), batch(300, 8)
    mf.calibrate(model, x)
    for out in outputs(model, x).values():
        assert out.std(correction=0).item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("constrain", [orthogonal, spectral_norm])
def test_a_weight_that_keeps_its_scale_is_left_as_it_was(constrain):
    torch.manual_seed(0)
    layer = constrain(nn.Linear(8, 8))
    before, weight = copy.deepcopy(layer.state_dict()), layer.eval().weight.detach().clone()
    done = mf.calibrate(layer, 3 * batch(100, 8))
    assert done.factors == {} and "keeps its scale" in done.rows[0].note
    assert all(torch.allclose(value, before[name], atol=1e-6) for name, value in layer.state_dict().items())
    assert torch.allclose(layer.weight, weight, atol=1e-5)


def test_a_layer_of_zeros_stays_and_is_told():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    done = mf.calibrate(model, batch(50, 4))
    assert "constant on the batch" in done.rows[1].note and not model[1].weight.any()


class Blowing(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x / 0)


@pytest.mark.parametrize(
    ("model", "x", "args", "message"),
    [
        (nn.Linear(4, 4), batch(3, 4), {"method": "lsvu"}, "'lsvu' is not a calibration; did you mean 'lsuv'"),
        (nn.Linear(4, 4), batch(3, 5), {}, r"cannot take the batch, float32 of shape \[3, 5\]"),
        (nn.Linear(4, 4), torch.full((3, 4), float("nan")), {}, "has NaN or infinity"),
        (nn.Linear(4, 4), torch.zeros(0, 4), {}, "a tensor of inputs with values"),
        (nn.ReLU(), batch(3, 4), {}, "nothing to calibrate"),
        (nn.Linear(4, 4), batch(3, 4), {"target": 0.0}, "target > 0"),
        (nn.Sequential(nn.Linear(4, 4), Blowing()), batch(3, 4), {}, "the output of 1.fc is not finite"),
    ],
)
def test_what_cannot_be_calibrated_is_told(model, x, args, message):
    with pytest.raises(SchemeError, match=message):
        mf.calibrate(model, x, **args)


def config(**more):
    small = ("model=deep_mlp", "model.depth=3", "model.width=16", "activation=gelu", "init=lsuv")
    return mf.compose(*small, *(f"{key}={value}" for key, value in more.items()))


def test_a_config_calibrates_on_the_first_batch_and_the_ledger_says_so():
    built = mf.plan(config()).materialize()
    model = built.model
    stds = [out.std(correction=0).item() for out in outputs(model, first_batch()).values()]
    assert stds == pytest.approx([1.0] * 4, abs=0.01)
    rows = {row.name: row for row in built.ledger}
    row = rows["head.weight"]
    assert row.scheme == "orthogonal+lsuv" and row.gain != 1.0 and row.expected_std is not None
    assert row.std == pytest.approx(model.head.weight.std(correction=0).item(), rel=1e-5)
    assert rows["head.bias"].scheme == "zeros"
    assert mf.plan(config()).materialize().ledger.fingerprint == built.ledger.fingerprint != ""


def digits() -> Data:
    return build_data(to_plain(mf.compose())["data"])


def first_batch() -> torch.Tensor:
    data = digits()
    return next(iter(make_batches(data.train, data.batch_size, torch.device("cpu"), seed=data.seed).epoch(1)))[0]


def test_frozen_layers_of_a_config_keep_what_they_were_given():
    frozen = {"+freeze.rules.first": "{match: 'hidden.0.*'}"}
    free, built = mf.build(config(**{"init.calibrate": "null"})), mf.plan(config(**frozen)).materialize()
    assert torch.equal(free.hidden[0].fc.weight, built.model.hidden[0].fc.weight)
    assert built.calibration is not None and "hidden.0.fc.weight" not in built.calibration.factors


def test_a_config_without_data_cannot_calibrate():
    layers = {"fc": {"_target_": "torch.nn.Linear", "out_features": 2}}
    with pytest.raises(mf.ConfigError, match="init.calibrate: 'lsuv' needs data, for a first batch"):
        mf.build({"model": {"layers": layers}, "data": {"input_shape": [3]}, "init": "lsuv"})


def test_priors_from_the_data_are_the_classes_shares():
    plan = mf.plan(mf.compose("init=prior_bias", "model.width=8"))
    shares = plan.build().head.bias.detach().softmax(0)
    counts = torch.bincount(digits().train.y)
    assert torch.allclose(shares, counts / counts.sum(), atol=1e-6)
