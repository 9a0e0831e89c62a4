"""Arguments of a model that are objects themselves, such as the settings of a model of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import modelfactory as mf

HERE = "tests.model.test_object_arguments"
LLAMA = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
VIT = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@dataclass
class Settings:
    width: int = 4
    act: Any = None


class Both(NamedTuple):
    features: torch.Tensor
    logits: torch.Tensor


class Net(nn.Module):
    def __init__(self, settings: Settings):
        super().__init__()
        self.body, self.act, self.head = nn.Linear(3, settings.width), settings.act or nn.ReLU(), nn.Linear(settings.width, 2)

    def forward(self, x: torch.Tensor) -> Both:
        features = self.act(self.body(x))
        return Both(features, self.head(features))


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODELFACTORY_TRUST", f"{HERE},transformers")


def config(settings: Any, output: Any = "logits", **model: Any) -> dict[str, Any]:
    layers = {"net": {"_target_": f"{HERE}.Net", "settings": settings, "output": output, **model}}
    return {"model": {"layers": layers}, "data": {"input_shape": [3]}, "init": "xavier_normal"}


def settings(**arguments: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.Settings", **arguments}


def test_an_object_of_a_trusted_package_is_made_for_each_model_and_may_hold_modules():
    model = mf.build(config(settings(width=7, act={"_target_": "torch.nn.Tanh"})))
    assert model.net.head.in_features == 7 and isinstance(model.net.act, nn.Tanh)
    assert model(torch.zeros(5, 3)).shape == (5, 2)


@pytest.mark.parametrize(("output", "size"), [("logits", 2), ("features", 4), (0, 4), (-1, 2)])
def test_a_part_goes_on_by_its_name_or_place(output: Any, size: int):
    assert mf.build(config(settings(), output))(torch.zeros(5, 3)).shape == (5, size)


WRONG = {
    "model.layers.net.settings.widht: not an argument of Settings; did you mean 'width'?": config(settings(widht=3)),
    "model.layers.net.output: the layer returns no 'logit'; did you mean 'logits'?": config(settings(), "logit"),
    "model.layers.net.output: 2 is outside of the 2 parts that the layer returns": config(settings(), 2),
    "model.layers.net.output: 1.5 is a number; give a whole number": config(settings(), 1.5),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_is_told_with_its_place(message: str):
    with pytest.raises(mf.ConfigError) as caught:
        mf.build(WRONG[message])
    assert str(caught.value) == message


@pytest.mark.parametrize("target", ["os.system", "builtins.open", "torch.load", "collections.OrderedDict", "modelfactory.trust"])
def test_what_is_not_trusted_is_refused(target: str):
    with pytest.raises(mf.ConfigError, match=r"^model\.layers\.net\.settings\._target_: '.*' is "):
        mf.build(config({"_target_": target}))


def test_a_language_model_of_transformers_takes_token_ids_and_gives_logits():
    pytest.importorskip("transformers")
    made = {"_target_": "transformers.LlamaConfig", **LLAMA}
    layers = {"lm": {"_target_": "transformers.LlamaForCausalLM", "config": made, "output": "logits"}}
    cfg = {"model": {"layers": layers}, "data": {"input_shape": [8], "input_dtype": "int64"}, "init": "gpt2"}
    built = mf.plan(cfg).materialize()
    assert built.model(torch.zeros(2, 8, dtype=torch.long)).shape == (2, 8, 50)
    rows = {row.name: row for row in built.ledger}
    assert rows["lm.model.layers.1.mlp.down_proj.weight"].expected_std == pytest.approx(0.02 / 4**0.5)
    assert rows["lm.model.layers.1.mlp.up_proj.weight"].std == pytest.approx(0.02, rel=0.1)
    alone = {**cfg, "model": {"_target_": "transformers.LlamaForCausalLM", "config": made}}
    assert "LlamaDecoderLayer" in str(mf.plan(alone))


def test_settings_that_a_constructor_takes_beyond_its_signature():
    pytest.importorskip("transformers")
    made = {"_target_": "transformers.ViTConfig", "num_labels": 7, **VIT}
    layers = {"net": {"_target_": "transformers.ViTForImageClassification", "config": made, "output": "logits"}}
    model = mf.build({"model": {"layers": layers}, "data": {"input_shape": [3, 16, 16]}})
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 7)
