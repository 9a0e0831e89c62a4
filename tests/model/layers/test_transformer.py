"""The layers of language models, against what one would write by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import modelfactory as mf
from modelfactory.model.layers.transformer import Attention, GatedMLP, SinusoidalPositions, rotate

X = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))
VARIANTS = {
    "full": {},
    "causal": {"causal": True},
    "grouped": {"causal": True, "kv_heads": 2},
    "multi_query": {"kv_heads": 1, "rotary": 10000.0},
    "llama": {"causal": True, "kv_heads": 2, "rotary": 500.0, "qk_norm": True},
    "wide_heads": {"head_dim": 6, "bias": True, "causal": True},
}


def by_hand(layer: Attention, x: torch.Tensor) -> torch.Tensor:
    """Attention written out: softmax of scores, position by position."""
    heads, shared = layer.num_heads, layer.num_heads // layer.kv_heads
    parts = [part(x).reshape(*x.shape[:2], -1, layer.head_dim) for part in (layer.query, layer.key, layer.value)]
    query, key, value = (part.transpose(1, 2) for part in parts)
    if layer.query_norm is not None and layer.key_norm is not None:
        query, key = layer.query_norm(query), layer.key_norm(key)
    if layer.rotary is not None:
        query, key = by_angles(query, layer.rotary), by_angles(key, layer.rotary)
    out = torch.empty(x.shape[0], heads, x.shape[1], layer.head_dim)
    for head in range(heads):
        scores = query[:, head] @ key[:, head // shared].transpose(1, 2) / math.sqrt(layer.head_dim)
        if layer.causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
        out[:, head] = scores.softmax(-1) @ value[:, head // shared]
    return layer.out(out.transpose(1, 2).reshape(*x.shape[:2], -1))


def by_angles(heads: torch.Tensor, base: float) -> torch.Tensor:
    """Rotary positions as products of complex numbers."""
    half = heads.shape[-1] // 2
    angle = torch.arange(heads.shape[2])[:, None] * base ** (-torch.arange(half) / half)
    turned = torch.complex(heads[..., :half], heads[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([turned.real, turned.imag], -1)


@pytest.mark.parametrize("name", VARIANTS)
def test_attention_is_what_its_formula_says(name):
    torch.manual_seed(0)
    layer = Attention(16, 4, **VARIANTS[name])
    assert torch.allclose(layer(X), by_hand(layer, X), atol=1e-5)


@pytest.mark.parametrize("name", [name for name, options in VARIANTS.items() if options.get("causal")])
def test_no_position_sees_those_after_it(name):
    layer = Attention(16, 4, **VARIANTS[name])
    other = X.clone()
    other[:, 4:] += 1
    assert torch.equal(layer(X)[:, :4], layer(other)[:, :4]) and not torch.allclose(layer(X)[:, 4:], layer(other)[:, 4:])


def test_rotary_scores_depend_on_the_distance_alone():
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8).expand(2, 1, 1, 9, 8)
    scores = rotate(query) @ rotate(key).transpose(2, 3)
    for distance in range(-8, 9):
        along = scores[0, 0].diagonal(distance)
        assert torch.allclose(along, along[:1].expand_as(along), atol=1e-5)


def test_the_gated_layer_is_swiglu_unless_told():
    layer = GatedMLP(16, 24, bias=True)
    assert torch.allclose(layer(X), layer.down(F.silu(layer.gate(X)) * layer.up(X)))
    geglu = GatedMLP(16, 24, nn.GELU())
    assert torch.allclose(geglu(X), geglu.down(F.gelu(geglu.gate(X)) * geglu.up(X)))


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoids_are_those_of_the_paper(width):
    found = SinusoidalPositions()(torch.zeros(1, 5, width))[0]
    for t in range(5):
        for unit in range(width):
            angle = t / 10000 ** (2 * (unit // 2) / width)
            assert found[t, unit].item() == pytest.approx(math.cos(angle) if unit % 2 else math.sin(angle), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"num_heads": 3}, "embed_dim 16 is no multiple of num_heads 3"),
        ({"num_heads": 4, "kv_heads": 3}, "4 heads of queries cannot share 3 of keys"),
        ({"num_heads": 4, "head_dim": 5, "rotary": 10.0}, "give an even head_dim"),
        ({"num_heads": 4, "dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_what_does_not_go_together_is_refused(options, why):
    with pytest.raises(ValueError, match=why):
        Attention(16, **options)
    layer = {"_target_": "modelfactory.Attention", **options}
    with pytest.raises(mf.ConfigError, match=why):
        mf.plan({"model": {"layers": {"self": layer}}, "data": {"input_shape": [7, 16]}, "init": "default"})


SMALL = {
    "gpt": ("model.width=16", "model.hidden=32", "model.depth=2", "data.context=12"),
    "llama": ("model.width=16", "model.hidden=24", "model.depth=2", "data.context=12"),
}
ENDS = {"gpt": "mlp.fc2", "llama": "mlp.gated.down"}


@pytest.fixture(scope="module", params=SMALL)
def text_model(request):
    name = request.param
    return name, mf.build(f"model={name}", "data=bytes", "init=auto", *SMALL[name]).eval()


def test_a_causal_model_does_not_see_the_future(text_model):
    model = text_model[1]
    x = torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, -1] = (x[:, -1] + 1) % 256
    assert torch.equal(model(x)[:, :-1], model(changed)[:, :-1]) and not torch.equal(model(x)[:, -1], model(changed)[:, -1])


def test_the_ends_of_its_branches_are_known_by_what_it_computes(text_model):
    name, _ = text_model
    rules = {"all": {"match": "*", "scheme": "default"}, "ends": {"role": "residual_out", "scheme": "zeros"}}
    cfg = mf.compose(f"model={name}", "data=bytes", *SMALL[name])
    ledger = mf.plan({"model": cfg.model, "data": cfg.data, "init": {"rules": rules}, "activation": cfg.activation}).ledger
    expected = {f"blocks.{block}.{end}.weight" for block in range(2) for end in ("attention.self.out", ENDS[name])}
    assert {row.name for row in ledger if row.scheme == "zeros" and row.name.endswith("weight")} == expected


def test_its_signal_is_predicted_from_the_config(text_model):
    """Masks, positions and tables of sines are known without a model's numbers."""
    name, model = text_model
    assert "not predicted" not in str(mf.plan(f"model={name}", "data=bytes", "init=auto", *SMALL[name]))
    rows = [row for row in mf.signal(model, torch.randint(256, (16, 12))) if row.measured.forward > 0]
    off = [math.log(row.predicted.forward / row.measured.forward) for row in rows]
    assert len(rows) > 20 and sorted(map(abs, off))[len(off) // 2] < 0.1 and max(map(abs, off)) < 0.5
