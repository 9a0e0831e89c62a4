"""Initialisations of whole architectures: which parameter gets what, on models of torch, torchvision and the grammar."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import modelfactory as mf
from modelfactory.init.recipes import recipe, recipe_names
from modelfactory.numerics.rng import generator


def torchs(name: str, **more: Any) -> dict[str, Any]:
    return {"_target_": f"torchvision.models.{name}", "num_classes": 10, **more}


def planned(model: dict[str, Any], init: Any, **config: Any) -> mf.Ledger:
    return mf.plan({"model": model, "init": init, "data": {"input_shape": [3, 32, 32]}, **config}).ledger


def encoder(layers: int = 3) -> dict[str, Any]:
    own = {"d_model": 16, "nhead": 2, "dim_feedforward": 32, "batch_first": True}
    layer = {"_target_": "torch.nn.TransformerEncoderLayer", **own}
    return {"layers": {str(index): layer for index in range(layers)}}


def test_gpt2_scales_what_ends_a_branch_by_their_number():
    ledger = planned(encoder(), "gpt2", data={"input_shape": [5, 16]})
    stds = {row.name.removeprefix("1."): row.expected_std for row in ledger if row.name.startswith("1.") and "x" in row.shape}
    inside, ends = ("self_attn.in_proj_weight", "linear1.weight"), ("self_attn.out_proj.weight", "linear2.weight")
    assert stds == pytest.approx(dict.fromkeys(inside, 0.02) | dict.fromkeys(ends, 0.02 / 6**0.5))


def test_fixup_is_hes_rule_by_depth_with_last_layers_and_head_0():
    ledger = planned(torchs("resnet50"), "fixup")
    blocks = 16
    assert ledger["layer2.1.conv1.weight"].expected_std == pytest.approx((2 / 512) ** 0.5 * blocks ** (-1 / 4))
    assert ledger["layer2.1.conv1.weight"].scheme == ledger["layer2.1.conv2.weight"].scheme == "fixup"
    assert {row.scheme for row in ledger if row.name.endswith("conv3.weight")} == {"zeros"}
    assert ledger["fc.weight"].scheme == ledger["fc.bias"].scheme == "zeros"
    assert ledger["conv1.weight"].scheme == ledger["layer2.0.downsample.0.weight"].scheme == "kaiming_normal"


def test_zero_residual_makes_each_block_the_identity_at_first():
    model = mf.build({"model": torchs("resnet18"), "init": "zero_residual", "data": {"input_shape": [3, 32, 32]}})
    block, x = model.layer1[1], torch.rand(2, 64, 8, 8, generator=generator(0, "x"))
    assert torch.equal(block(x), x)
    assert {name for name, p in model.named_parameters() if name.endswith("bn2.weight") and p.any()} == set()
    assert bool(model.layer1[0].bn1.weight.all())


def test_deepnorm_and_t_fixup_leave_queries_and_keys_alone():
    for init, scale in (("deepnorm", (8 * 3) ** -0.25), ("t_fixup", 0.67 * 3**-0.25)):
        model = mf.build({"model": encoder(), "init": init, "data": {"input_shape": [5, 16]}, "seed": 1})
        plain = {"deepnorm": "xavier_normal", "t_fixup": "xavier_uniform"}[init]
        other = mf.build({"model": encoder(), "init": plain, "data": {"input_shape": [5, 16]}, "seed": 1})
        packed, base = (net.get_parameter("2.self_attn.in_proj_weight") for net in (model, other))
        gain = 1.0  # a norm acts on the input, so that gain: auto of the plain ones is 1 as well
        assert torch.allclose(packed[:32], gain * base[:32]) and torch.allclose(packed[32:], scale * base[32:], rtol=1e-5)


def test_an_encoder_and_a_decoder_are_told_apart():
    model = nn.Transformer(16, 2, num_encoder_layers=4, num_decoder_layers=2, dim_feedforward=32, batch_first=True)
    ledger = mf.initialize(model, {"branches": {"role": "residual", "scheme": "deepnorm"}})
    plain = math.sqrt(2 / (16 + 32))
    assert ledger["encoder.layers.0.linear1.weight"].expected_std == pytest.approx(plain * 0.87 * (4**4 * 2) ** (-1 / 16))
    assert ledger["decoder.layers.0.linear1.weight"].expected_std == pytest.approx(plain * (12 * 2) ** -0.25)


@pytest.mark.parametrize(("init", "loss"), [("zero_head", math.log(10)), ("small_head", math.log(10)), ("prior_bias", None)])
def test_the_first_loss_is_that_of_a_head_that_knows_nothing(init, loss):
    model = mf.build(mf.compose(f"init={init}", "model.width=64"))
    x, y = torch.randn(500, 1, 8, 8, generator=generator(0, "x")), torch.arange(500) % 10
    first = F.cross_entropy(model(x), y).item()
    assert first == pytest.approx(math.log(10) if loss is None else loss, rel=0.01)


class Tied(nn.Module):
    def __init__(self, vocabulary: int = 1000, width: int = 64):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.mix(self.words(x))))


def test_a_tied_embedding_has_logits_of_unit_size_and_torchs_own_has_not():
    tokens = torch.randint(1000, (400,), generator=generator(0, "tokens"))
    model = Tied()
    rest = {"w": {"match": "mix.weight", "scheme": "orthogonal"}}
    mf.initialize(model, rest | {"e": {"role": ["tied", "embedding"], "scheme": "tied_embedding"}})
    losses = [F.cross_entropy(model(tokens), tokens.roll(1)).item()]
    mf.initialize(model, rest | {"e": {"role": "tied", "scheme": "normal"}})
    losses.append(F.cross_entropy(model(tokens), tokens.roll(1)).item())
    assert losses[0] == pytest.approx(math.log(1000) + 0.5, abs=0.3) and losses[1] > 20


def test_a_rule_for_values_fills_their_rows_and_no_others():
    attention = nn.MultiheadAttention(8, 2)
    rules = {"w": {"role": "weight", "scheme": "xavier_uniform"}, "v": {"role": "value", "scheme": "zeros"}}
    ledger = mf.initialize(attention, rules)
    whole = nn.MultiheadAttention(8, 2)
    mf.initialize(whole, rules["w"])
    assert torch.equal(attention.in_proj_weight[:16], whole.in_proj_weight[:16])
    assert not attention.in_proj_weight[16:].any() and not attention.in_proj_bias[16:].any()
    row = ledger["in_proj_weight"]
    assert row.scheme == "query, key: xavier_uniform; value: zeros" and row.rule == "query, key: w; value: v"
    assert row.std == pytest.approx(attention.in_proj_weight.std(correction=0).item(), rel=1e-5)
    assert row.expected_std == pytest.approx(math.sqrt(2 / 3 * 2 / 16))


def test_blocks_that_no_rule_is_for_keep_what_their_author_wrote():
    cell = nn.LSTM(4, 6)
    rules = {"all": {"match": "*", "scheme": "default"}, "f": {"role": "forget_gate", "scheme": "constant", "val": 2.0}}
    mf.initialize(cell, rules, seed=3)
    plain = nn.LSTM(4, 6)
    mf.initialize(plain, rules["all"], seed=3)
    for name, value in cell.named_parameters():
        kept = plain.get_parameter(name)
        assert torch.equal(value[:6], kept[:6]) and torch.equal(value[12:], kept[12:]) and bool((value[6:12] == 2).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rows_of_a_packed_parameter_are_the_same_in_any_type(dtype):
    attention = nn.MultiheadAttention(8, 2).to(dtype)
    rules = {"all": {"match": "*", "scheme": "default"}, "k": {"role": "key", "scheme": "normal", "std": 0.5}}
    mf.initialize(attention, rules)
    twin = nn.MultiheadAttention(8, 2)
    mf.initialize(twin, rules)
    assert torch.equal(attention.in_proj_weight, twin.in_proj_weight.to(dtype))


def test_packed_projections_of_timm_are_three_squares():
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=3)
    ledger = mf.initialize(model, {"w": {"role": "weight", "scheme": "xavier_uniform"}, "b": {"role": "query", "scheme": "zeros"}})
    row = ledger["blocks.0.attn.qkv.weight"]
    assert (row.fan_in, row.fan_out) == (192, 192) and row.scheme == "query: zeros; key, value: xavier_uniform"
    assert not model.blocks[0].attn.qkv.weight[:192].any() and not model.blocks[0].attn.qkv.bias[:192].any()
    assert model.blocks[0].attn.qkv.weight[192:].std().item() == pytest.approx(math.sqrt(1 / 192), rel=0.02)


def test_critical_weights_and_biases_keep_the_variance_of_pre_activations():
    cfg = mf.compose("init=critical", "model=deep_mlp", "model.depth=20", "model.width=400", "activation=tanh")
    model, seen = mf.build(cfg), []
    for layer in model.hidden.children():
        layer.fc.register_forward_hook(lambda _m, _i, out: seen.append(out.var(correction=0).item()))
    model(torch.randn(200, 1, 8, 8, generator=generator(0, "x")))
    assert seen[-1] == pytest.approx(1.0, rel=0.15)


def test_siren_tells_the_first_layer_from_the_others():
    ledger = mf.plan(mf.compose("init=siren", "model.width=48")).ledger
    assert ledger["fc1.weight"].expected_std == pytest.approx(1 / (64 * 3**0.5))
    assert ledger["fc2.weight"].expected_std == pytest.approx((2 / 48) ** 0.5 / 30)


def test_small_init_has_the_width_of_the_residual_stream_everywhere():
    ledger = planned(torchs("vit_b_32", image_size=32), "small_init")
    assert {round(row.expected_std or 0, 6) for row in ledger if row.scheme == "small_init"} == {round((2 / (5 * 768)) ** 0.5, 6)}


def test_every_recipe_has_a_weight_rule_or_is_its_authors():
    assert all(recipe(name) is not None for name in recipe_names()) and recipe("nothing") is None


def test_what_a_model_lacks_is_told():
    with pytest.raises(mf.ConfigError, match="no residual branch of this model ends in a norm layer"):
        mf.initialize(nn.TransformerEncoderLayer(8, 2), {"n": {"role": "residual_norm", "scheme": "zeros"}})
    with pytest.raises(mf.ConfigError, match="GRU has none"):
        mf.initialize(nn.GRU(4, 4), {"f": {"role": "gate", "scheme": "forget_bias"}})
    with pytest.raises(mf.ConfigError, match="pick residual layers by role"):
        mf.initialize(torchvision.models.resnet18(), {"f": {"match": "conv1.weight", "scheme": "fixup"}})
    with pytest.raises(mf.ConfigError, match="its one layer is the last, which is 0"):
        mf.initialize(
            nn.Sequential(nn.Linear(2, 2), mf.Residual({"fc": nn.Linear(2, 2)})), {"f": {"role": "residual", "scheme": "fixup"}}
        )


def test_fixup_on_a_net_with_norms_and_a_calibration_to_come_are_told():
    text = " ".join(str(mf.plan(mf.compose("init=fixup", "model=resnet", "model.blocks=1"))).split())
    assert "fixup is for nets without norm layers, and there are 8 (norm, ...)" in text
    text = " ".join(str(mf.plan(mf.compose("init=lsuv", "model=deep_mlp", "model.depth=2"))).split())
    assert "lsuv scales the weights on the data's first batch; this is how they are before it" in text
