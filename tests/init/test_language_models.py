"""Initialisations of language models, each against the distribution that its reference gives: of our models and of others' alike."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

import modelfactory as mf

WIDTH, HIDDEN, DEPTH, VOCABULARY = 48, 96, 3, 128
OURS = {"attention.self.out": "o", "gated.down": "down", "gated.up": "up"}
THEIRS = {"self_attn.o_proj": "o", "mlp.down_proj": "down", "mlp.up_proj": "up"}


def ours() -> tuple[torch.nn.Module, dict[str, str]]:
    sizes = (f"model.width={WIDTH}", f"model.hidden={HIDDEN}", f"model.depth={DEPTH}", "data.context=8")
    return mf.build("model=llama", "data=bytes", *sizes, "init=default"), OURS


def theirs() -> tuple[torch.nn.Module, dict[str, str]]:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=DEPTH,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.LlamaForCausalLM(config), THEIRS


def truncated(std: float):
    return stats.truncnorm(-3, 3, 0, std)


def expected(init: str, name: str, shape: torch.Size, kind: str) -> object:
    """The distribution of a tensor, as OLMo-core's and nanochat's functions draw it; None for zeros."""
    layer = next((int(part) for part in name.split(".") if part.isdigit()), 0)
    if init == "olmo2":
        return truncated(0.02)
    if kind == "embedding":
        return stats.norm(0, 1)
    if init == "nanochat":
        return None if kind in ("head", "o", "down") else stats.norm(0, min(1, math.sqrt(shape[0] / shape[1])) / math.sqrt(shape[1]))
    if kind == "head":
        return truncated(WIDTH**-0.5)
    return truncated(0.02 / math.sqrt(2 * (layer + 1)) if kind in ("o", "down", "up") else 0.02)


def kind_of(name: str, ends: dict[str, str]) -> str:
    if "head" in name:
        return "head"
    if "tok" in name:
        return "embedding"
    return next((kind for end, kind in ends.items() if end in name), "inside")


@pytest.mark.parametrize("make", [ours, theirs])
@pytest.mark.parametrize("init", ["llama", "olmo2", "nanochat"])
def test_every_matrix_has_the_distribution_of_the_reference(init, make):
    model, ends = make()
    ids = torch.randint(100, (2, 8))
    mf.initialize(model, init, seed=7, example=ids)
    seen, worst = set(), 1.0
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
            continue
        kind = kind_of(name, ends)
        seen.add(kind)
        law = expected(init, name, parameter.shape, kind)
        if law is None:
            assert not parameter.any(), name
            continue
        values = parameter.detach().flatten().double().numpy()
        worst = min(worst, stats.kstest(values, law.cdf).pvalue)
    assert seen == {"head", "embedding", "inside", "o", "down", "up"} and worst > 1e-4


def test_a_later_layer_writes_less():
    sizes = (f"model.width={WIDTH}", f"model.hidden={HIDDEN}", f"model.depth={DEPTH}", "data.context=8")
    ledger = mf.plan("model=llama", "data=bytes", *sizes, "init=llama").ledger
    stds = [ledger[f"blocks.{layer}.mlp.gated.down.weight"].expected_std for layer in range(DEPTH)]
    assert stds == pytest.approx([0.02 * 0.98658 / math.sqrt(2 * (layer + 1)) for layer in range(DEPTH)], rel=1e-4)


def test_the_layers_of_a_post_norm_encoder_are_counted_too():
    layer = {"_target_": "torch.nn.TransformerEncoderLayer", "d_model": 16, "nhead": 2, "dim_feedforward": 32}
    rules = {"all": {"match": "*", "scheme": "default"}, "ends": {"role": "residual_out", "scheme": "depth_trunc_normal"}}
    model = {"layers": {"a": layer, "b": layer}}
    ledger = mf.plan({"model": model, "data": {"input_shape": [5, 16]}, "init": {"rules": rules}}).ledger
    for index, name in enumerate("ab"):
        for end in ("self_attn.out_proj", "linear2"):
            sigma = 0.02 / math.sqrt(2 * (index + 1))
            assert ledger[f"{name}.{end}.weight"].expected_std == pytest.approx(sigma * 0.98658, rel=1e-4)


def test_where_there_are_no_branches_it_says_so():
    with pytest.raises(mf.ConfigError, match="no residual branch is known"):
        mf.plan("model=mlp", "init=llama").ledger  # noqa: B018
