"""Rules for a block of a packed parameter: in a model that exists they set its rows alone; beside `auto` every block is filled."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import modelfactory as mf
from modelfactory.config.errors import ConfigError

BLOCKS = {"query": 0, "key": 1, "value": 2, "input_gate": 0, "forget_gate": 1, "cell_gate": 2, "output_gate": 3}
MODELS = {
    "attention": (lambda: nn.TransformerEncoderLayer(64, 4), "value", 3, ["self_attn.in_proj_weight", "self_attn.in_proj_bias"]),
    "lstm": (lambda: nn.LSTM(8, 16), "forget_gate", 4, ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]),
    "half": (lambda: nn.MultiheadAttention(8, 2, dtype=torch.bfloat16), "query", 3, ["in_proj_weight", "in_proj_bias"]),
    "double": (lambda: nn.MultiheadAttention(8, 2, dtype=torch.float64), "key", 3, ["in_proj_weight", "in_proj_bias"]),
}


def noisy(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all values, after every number of the model was made another than any init gives."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 3)
    return {name: value.clone() for name, value in model.state_dict().items()}


def check_rows(model: nn.Module, before: dict[str, torch.Tensor], names: list[str], role: str, blocks: int) -> list[torch.Tensor]:
    """Everything but the rows of that block is bit-identical; gives those rows."""
    rows = []
    for name, value in model.state_dict().items():
        if name not in names:
            assert torch.equal(value, before[name])
            continue
        for index, (own, old) in enumerate(zip(value.chunk(blocks), before[name].chunk(blocks), strict=True)):
            if index == BLOCKS[role]:
                rows.append(own)
            else:
                assert torch.equal(own, old)
    return rows


@pytest.mark.parametrize("scheme", ["zeros", "ones", "default", "tests.init.test_custom_scheme.halves_"])
@pytest.mark.parametrize("kind", MODELS)
def test_one_rule_sets_the_rows_of_its_block_and_no_other(kind: str, scheme: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODELFACTORY_TRUST", "tests")
    make, role, blocks, names = MODELS[kind]
    model = make()
    before = noisy(model)
    ledger = mf.initialize(model, {"role": role, "scheme": scheme}, seed=0)
    assert [row.name for row in ledger] == names
    for rows in check_rows(model, before, names, role, blocks):
        assert (rows == 0).all() if scheme == "zeros" else (rows == 1).all() if scheme == "ones" else (rows.abs() < 3).all()
    values = dict(model.named_parameters())
    for row in ledger:
        assert f"{role.removesuffix('_gate')}: {scheme}" in row.scheme and ": as it was" in row.scheme
        assert math.isnan(row.expected_mean) and math.isnan(row.expected_std)  # what the other rows have is no promise of a rule
        assert row.mean == pytest.approx(values[row.name].float().mean().item(), rel=1e-5)


def test_the_packed_linear_of_timm_is_set_in_part():
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", depth=2)
    before = noisy(model)
    ledger = mf.initialize(model, {"role": "query", "scheme": "zeros"}, seed=0)
    names = [f"blocks.{index}.attn.qkv.{kind}" for index in range(2) for kind in ("weight", "bias")]
    assert [row.name for row in ledger] == names
    assert [row.scheme for row in ledger] == ["query: zeros; key, value: as it was"] * 4
    assert [row.rule for row in ledger] == ["query: rule"] * 4
    assert not any(rows.any() for rows in check_rows(model, before, names, "query", 3))


def test_a_scheme_for_matrices_has_the_fans_of_its_block():
    model = nn.MultiheadAttention(256, 4)
    before = noisy(model)
    weight, bias = mf.initialize(model, {"role": "value", "scheme": "xavier_normal"}, seed=0)
    rows, shift = check_rows(model, before, ["in_proj_weight", "in_proj_bias"], "value", 3)
    assert (weight.fan_in, weight.fan_out) == (256, 256) and rows.std().item() == pytest.approx(256**-0.5, rel=0.02)
    assert not shift.any() and bias.rule == "value: biases"


def test_several_rules_for_blocks_leave_the_rest():
    model = nn.MultiheadAttention(8, 2)
    before = noisy(model)
    ledger = mf.initialize(model, {"q": {"role": "query", "scheme": "ones"}, "v": {"role": "value", "scheme": "zeros"}})
    query, key, value = model.in_proj_weight.detach().chunk(3)
    assert (query == 1).all() and (value == 0).all() and torch.equal(key, before["in_proj_weight"][8:16])
    assert [(row.rule, row.scheme) for row in ledger] == [("query: q; value: v", "query: ones; key: as it was; value: zeros")] * 2


def test_a_block_has_the_same_values_as_beside_a_rule_for_the_whole():
    alone, beside = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2)
    rule = {"role": "value", "scheme": "orthogonal"}
    mf.initialize(alone, rule, seed=3)
    mf.initialize(beside, [{"match": "*", "scheme": "zeros"}, rule], seed=3)
    assert torch.equal(alone.in_proj_weight[16:], beside.in_proj_weight[16:])


@pytest.mark.parametrize("role", ["value", "forget_gate"])
def test_a_block_that_the_model_has_not_is_an_error(role: str):
    with pytest.raises(ConfigError, match=f"rules.rule: {{role: {role}}} picks no parameter"):
        mf.initialize(nn.Sequential(nn.Linear(2, 2)), {"role": role, "scheme": "zeros"})


def test_a_block_of_a_computed_weight_is_an_error_and_changes_nothing():
    model = weight_norm(nn.LSTM(8, 16), "weight_ih_l0")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match="rules.rule: weight_ih_l0 is computed from other parameters"):
        mf.initialize(model, {"role": "forget_gate", "scheme": "ones"})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_auto_fills_the_gates_that_it_is_left_with():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model.recurrent = nn.LSTM(8, 16)
    before = noisy(model)
    ledger = mf.initialize(model, {"all": {"match": "*", "scheme": "auto"}, "f": {"role": "cell_gate", "scheme": "ones"}}, seed=0)
    values = dict(model.named_parameters())
    assert not any((values[name] == before[name]).any() for name in values)
    assert not any("auto" in row.scheme for row in ledger)
    bias = [block[0].item() for block in values["recurrent.bias_ih_l0"].detach().chunk(4)]
    second = [block[0].item() for block in values["recurrent.bias_hh_l0"].detach().chunk(4)]
    assert bias == [0, 1, 1, 0] and second == [0, 0, 1, 0]


def test_auto_for_a_block_of_attention_draws_it():
    model = nn.TransformerEncoderLayer(64, 4)
    noisy(model)
    rules = {"all": {"match": "*", "scheme": "auto"}, "v": {"role": "value", "scheme": "zeros"}}
    example = torch.randn(2, 5, 64)
    ledger = {row.name: row for row in mf.initialize(model, rules, seed=0, example=example)}
    query, key, value = model.self_attn.in_proj_weight.detach().chunk(3)
    assert max(query.abs().max(), key.abs().max()) < 1 and query.std() > 0.05 and not torch.equal(query, key) and not value.any()
    row = ledger["self_attn.in_proj_weight"]
    assert row.std == pytest.approx(row.expected_std, rel=0.05)


class Untraceable(nn.Module):
    modelfactory_blocks = {"qkv": ["query", "key", "value"]}

    def __init__(self):
        super().__init__()
        self.qkv = nn.Parameter(torch.randn(12, 4))

    def forward(self, x):
        return x @ self.qkv.T if float(x.sum()) > 0 else x


@pytest.mark.parametrize("scheme", [{"scheme": "zeros"}, {"scheme": "constant", "val": 0.0}])
def test_a_block_needs_no_fans_for_a_scheme_that_uses_none(scheme):
    model = nn.Sequential(Untraceable())
    before = model[0].qkv.detach().clone()
    with pytest.warns(UserWarning, match="0.qkv is there for is not known"):
        row = mf.initialize(model, {"rules": {"query": {"role": "query", **scheme}}})["0.qkv"]
    assert row.fan_in is None and not model[0].qkv[:4].any() and torch.equal(model[0].qkv[4:], before[4:])


def test_a_block_whose_scheme_needs_fans_that_nothing_tells_is_told_with_its_rule():
    with pytest.raises(ConfigError, match="init.rules.query: 0.qkv of shape .*declare it beside the layer by fans"):
        mf.initialize(nn.Sequential(Untraceable()), {"rules": {"query": {"role": "query", "scheme": "kaiming_normal"}}})
