"""CompleteP: initial values, learning rates, decay and eps by width and depth, and that what training changes follows neither."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import modelfactory as mf
from modelfactory.config.compose import to_plain

BASE = ("data=bytes", "data.context=16", "data.batch_size=8", "trainer.device=cpu", "init=completep")
GPT = ("model=gpt", "model.layers.head.tie=null", "model.width=128", "model.hidden=512", "model.depth=4", *BASE)
SMALL = ("model=gpt", "model.layers.head.tie=null", "model.width=32", "model.hidden=128", "model.heads=2", *BASE)
KEY = "optimizer.completep={base_width: 64, base_branches: 4}"


def numbers(model: nn.Module, cfg: object) -> dict[str, tuple[float, ...]]:
    """Learning rate, weight decay and eps of each parameter, each in exactly one group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, tuple[float, ...]] = {}
    for group in mf.build_optimizer(model, cfg).param_groups:
        for parameter in group["params"]:
            assert names[id(parameter)] not in found
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"], group.get("eps", 0.0))
    assert set(found) == set(names.values())
    return found


def test_a_gpt_of_twice_the_width_and_depth_has_the_numbers_of_the_table():
    cfg = mf.compose(*GPT, "optimizer=adamw_completep", "optimizer.lr=1", "optimizer.weight_decay=1", "optimizer.eps=1")
    found = numbers(mf.build(cfg), cfg)
    block = {name.removeprefix("blocks.3."): value for name, value in found.items() if name.startswith("blocks.3.")}
    inside, wide = (1 / 2, 2.0, 1 / 4), (1, 0, 1 / 4)  # m = m_N = m_L = 2; norms and biases have no decay
    assert block == {
        **{f"attention.self.{name}.weight": inside for name in ("query", "key", "value")},
        **{f"attention.self.{name}.bias": wide for name in ("query", "key", "value")},
        "attention.self.out.weight": (1 / 4, 4, 1 / 2),
        "attention.self.out.bias": (1 / 2, 0, 1 / 2),
        "mlp.fc1.weight": inside,
        "mlp.fc1.bias": wide,
        "mlp.fc2.weight": (1 / 16, 16, 1 / 2),  # of 512 inputs, which is 8 times the base width
        "mlp.fc2.bias": (1 / 2, 0, 1 / 2),
        **{f"{part}.norm.{name}": wide for part in ("attention", "mlp") for name in ("weight", "bias")},
    }
    assert {name: value for name, value in found.items() if not name.startswith("blocks")} == {
        "tokens.weight": (1, 1, 1 / 2),
        "positions.position_embedding": (1, 1, 1 / 2),
        "norm.weight": (1, 0, 1 / 2),
        "norm.bias": (1, 0, 1 / 2),
        "head.weight": (1 / 2, 2, 1),
    }


def test_a_container_that_divides_leaves_what_ends_a_branch_as_the_paper_has_it():
    cfg = mf.compose(*GPT, "model.base_branches=4", "optimizer=adamw_completep", "optimizer.lr=1", "optimizer.eps=1")
    model = mf.build(cfg)
    assert {block.attention.scale for block in model.blocks} == {block.mlp.scale for block in model.blocks} == {0.5}  # pyright: ignore
    found = numbers(model, cfg)
    assert found["blocks.0.attention.self.out.weight"] == found["blocks.0.attention.self.query.weight"] == (1 / 2, 0.2, 1 / 4)
    assert found["blocks.0.attention.self.out.bias"] == (1, 0, 1 / 4)
    assert mf.plan(cfg).ledger["blocks.0.attention.self.out.weight"].expected_std == pytest.approx(128**-0.5)


def test_initial_values_follow_from_width_and_depth():
    ledger = mf.plan(mf.compose(*GPT, "optimizer=adamw_completep")).ledger
    expected = {"tokens": 1, "blocks.0.attention.self.key": 128**-0.5, "blocks.0.attention.self.out": 128**-0.5 / 2}
    expected |= {"blocks.0.mlp.fc2": 512**-0.5 / 2, "head": 64**0.5 / 128}
    assert {name: ledger[f"{name}.weight"].expected_std for name in expected} == pytest.approx(expected)
    assert ledger["blocks.2.mlp.fc2.weight"].group == "default.end.from512.to128"


def losses(cfg: object, steps: int = 6) -> list[float]:
    model = mf.build(cfg)
    optimizer = mf.build_optimizer(model, cfg)
    ids = torch.randint(0, 256, (4, 16), generator=torch.Generator().manual_seed(0))
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(ids).flatten(0, 1), ids.roll(-1, 1).flatten())
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize(
    "optimizer",
    [
        ("optimizer=adamw_completep", "optimizer.lr=0.02", "optimizer.eps=0.003", "optimizer.weight_decay=3"),
        ("optimizer=adam", KEY, "optimizer.lr=0.02", "optimizer.eps=0.003"),
        ("optimizer=sgd", KEY, "optimizer.lr=0.2", "optimizer.weight_decay=0.1"),
        ("optimizer=muon", KEY, "optimizer.lr=0.02", "optimizer.weight_decay=3"),
    ],
    ids=["adamw", "adam", "sgd", "muon"],
)
def test_the_multiplier_trains_alike_in_the_container_and_in_the_weights(optimizer: Sequence[str]):
    words = (*SMALL, "model.depth=6", *optimizer)
    inside, outside = losses(mf.compose(*words)), losses(mf.compose(*words, "model.base_branches=4"))
    assert inside == pytest.approx(outside, rel=2e-4)
    assert inside[-1] < inside[0] - 0.3, "so that the steps are not too small to tell"


def test_what_a_norm_ends_is_divided_by_the_scale_of_that_norm():
    branch = {"fc": {"_target_": "torch.nn.Linear", "out_features": 8}, "act": {"_target_": "torch.nn.ReLU"}}
    branch |= {"out": {"_target_": "torch.nn.Linear", "out_features": 8}, "norm": {"_target_": "torch.nn.LayerNorm"}}
    blocks = {"repeat": 8, "layers": {"body": {"_target_": "modelfactory.Residual", "layers": branch}}}
    layers = {"stem": {"_target_": "torch.nn.Linear", "out_features": 8}, "blocks": blocks}
    layers["head"] = {"_target_": "torch.nn.Linear", "out_features": 2}
    cfg = {**to_plain(mf.compose("init=completep", "optimizer=adamw_completep", "optimizer.lr=1")), "model": {"layers": layers}}
    cfg |= {"data": {"input_shape": [5]}}
    model = mf.build(cfg)
    assert model.blocks[0].body.norm.weight.tolist() == [0.5] * 8  # pyright: ignore
    found = numbers(model, cfg)
    ends, inner = found["blocks.0.body.norm.weight"], found["blocks.0.body.out.weight"]
    assert (ends[0], found["blocks.0.body.norm.bias"][0], inner[0]) == (1 / 2, 1 / 2, 8.0)


@pytest.mark.parametrize("model", ["llama", "vit", "resnet"])
def test_each_parameter_of_any_model_is_in_one_group(model: str):
    more = ("data=bytes", "data.context=16") if model == "llama" else ()
    cfg = mf.compose(f"model={model}", *more, "init=completep", "optimizer=adamw_completep")
    found = numbers(mf.build(cfg), cfg)
    assert found["head.weight"][2] == 1e-8 and len(set(found.values())) > 3


def test_a_model_of_transformers_has_the_same_numbers():
    transformers = pytest.importorskip("transformers")
    sizes = {"n_embd": 128, "n_layer": 4, "n_head": 4, "vocab_size": 60, "n_positions": 16, "tie_word_embeddings": False}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    cfg = to_plain(mf.compose("optimizer=adamw_completep", "optimizer.lr=1", "optimizer.eps=1"))
    found = numbers(model, {"optimizer": cfg["optimizer"]})
    names = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight", "ln_1.weight")
    assert [found[f"transformer.h.1.{name}"][0] for name in names] == [1 / 2, 1 / 4, 1 / 2, 1 / 16, 1]
    assert found["transformer.h.1.ln_1.weight"][2] == 1 / 4
    assert [found[name][0] for name in ("transformer.wte.weight", "transformer.ln_f.weight", "lm_head.weight")] == [1, 1, 1 / 2]
    mf.initialize(model, "completep", example=torch.zeros(1, 8, dtype=torch.long))
    assert model.transformer.h[1].mlp.c_proj.weight.std().item() == pytest.approx(512**-0.5 / 2, rel=0.02)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer=rmsprop", "+" + KEY], r"optimizer.completep: is not known of RMSprop; give AdamW, Adam, SGD or modelfactory.Muon"),
        (["optimizer=adam", "+optimizer.weight_decay=0.1", KEY], r"optimizer.completep: has no rule for the weight decay of Adam"),
        (["optimizer=adam_mup", "+" + KEY], r"optimizer.groups.hidden.base_width: 64 and optimizer.completep are both given"),
        (["optimizer=adamw", "optimizer.completep={base_width: 0, base_branches: 4}"], "optimizer.completep.base_width: 0 is too small"),
        (["optimizer=adamw", "optimizer.completep={base_width: 64}"], "optimizer.completep.base_branches: missing"),
    ],
)
def test_what_is_wrong_is_told(words: list[str], message: str):
    with pytest.raises(mf.ConfigError, match=message):
        mf.build_optimizer(nn.Linear(2, 2), mf.compose("model=mlp", *words))


def test_a_head_that_is_the_embedding_is_refused():
    cfg = mf.compose("model=gpt", "data=bytes", "data.context=16", "model.depth=1", "init=completep", "optimizer=adamw_completep")
    with pytest.raises(mf.ConfigError, match=r"optimizer.completep: the head is the embedding tokens.weight.*model.layers.head.tie=null"):
        mf.build_optimizer(mf.build(cfg), cfg)


def axes(*words: str, **sizes: Sequence[int]) -> dict[str, bool]:
    given = {"widths": (32, 64, 256), "depths": (2, 8), **sizes}
    size = ("model.width=64", "model.hidden=256", "model.heads=4", "model.depth=2", "data.context=32", "data.batch_size=16")
    found = mf.coordcheck(*SMALL, *size, *words, steps=4, seeds=1, **given)
    return {axis.name: axis.stays for axis in found.axes}


@pytest.mark.slow
def test_what_steps_change_stays_over_widths_and_depths_but_by_the_standard_parametrisation():
    lr = "optimizer.lr=0.003"
    assert axes("optimizer=adamw_completep", lr) == {"width": True, "depth": True}
    assert axes("init=gpt2", "optimizer=adamw", lr) == {"width": False, "depth": False}
    assert axes("init=mup", "optimizer=adam_mup", lr, widths=()) == {"depth": False}


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_so_it_does_with_other_optimizers(optimizer: str):
    lr = {"sgd": 0.1, "muon": 0.003}[optimizer]
    assert axes(f"optimizer={optimizer}", KEY, f"optimizer.lr={lr}") == {"width": True, "depth": True}
