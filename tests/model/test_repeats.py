"""Repeats that no machine could build are told; those that a person would write are built."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import modelfactory as mf
from modelfactory.config.errors import ConfigError
from modelfactory.model.repeats import MAX_LAYERS, count_layers
from modelfactory.model.weights.files import CONFIG_KEY

FC = {"_target_": "torch.nn.Linear", "out_features": 6}
HUGE = {
    "a block": ({"r": {"repeat": 10**9, "layers": {"fc": FC}}}, "model.layers.r.repeat"),
    "a class": ({"r": {"repeat": MAX_LAYERS + 1, **FC}}, "model.layers.r.repeat"),
    "nested": ({"r": {"repeat": 999, "layers": {"q": {"repeat": 999, "layers": {"fc": FC}}}}}, "model.layers.r.repeat"),
    "thrice": (
        {"r": {"repeat": 60, "layers": {"q": {"repeat": 60, "layers": {"p": {"repeat": 60, "layers": {"fc": FC}}}}}}},
        "model.layers.r.repeat",
    ),
    "in a residual": (
        {"b": {"_target_": "modelfactory.Residual", "layers": {"r": {"repeat": 10**12, "layers": {"fc": FC}}}}},
        "model.layers.b.layers.r.repeat",
    ),
    "a shortcut": (
        {"b": {"_target_": "modelfactory.Residual", "layers": {"fc": FC}, "shortcut": {"repeat": 10**9, "layers": {"fc": FC}}}},
        "model.layers.b.shortcut.repeat",
    ),
    "beyond 64 bits": ({"r": {"repeat": 2**70, "layers": {"fc": FC}}}, "model.layers.r.repeat"),
}


def config(layers: dict[str, Any], **groups: Any) -> dict[str, Any]:
    return {"data": {"input_shape": [6], "num_classes": 3}, "model": {"layers": layers}, **groups}


@pytest.mark.parametrize("what", HUGE)
def test_a_repeat_that_cannot_be_built_is_refused_at_once(what: str):
    layers, path = HUGE[what]
    began = time.process_time()
    with pytest.raises(ConfigError, match=rf"^{path}: [\d,]+ makes [\d,]+ layers; at most {MAX_LAYERS:,} are made of one repeat"):
        mf.plan(config(layers))
    assert time.process_time() - began < 1


def test_it_is_refused_where_no_shape_is_known_too_and_in_a_backbone():
    layers = HUGE["nested"][0]
    began = time.process_time()
    with pytest.raises(ConfigError, match=r"^model\.layers\.r\.repeat: 999 makes"):
        mf.plan({"model": {"layers": layers}})
    with pytest.raises(ConfigError, match=r"^backbone\.layers\.r\.repeat: 999 makes"):
        mf.plan(config({"fc": FC}, backbone={"layers": layers}))
    assert time.process_time() - began < 2


def test_what_is_wrong_inside_of_it_is_told_too():
    layers = {"r": {"repeat": 10**9, "layers": {"fc": {"_target_": "torch.nn.Linaer"}, "q": {"repeat": 0, **FC}}}}
    with pytest.raises(ConfigError) as caught:
        mf.plan(config(layers))
    assert [problem.path for problem in caught.value.problems] == [
        "model.layers.r.repeat",
        "model.layers.r.layers.fc._target_",
        "model.layers.r.layers.q.repeat",
    ]


def test_it_is_refused_in_a_file_of_weights_too(tmp_path):
    told = json.dumps(config(HUGE["a block"][0]))
    save_file({"fc.weight": torch.zeros(1)}, tmp_path / "model.safetensors", {CONFIG_KEY: told})
    began = time.process_time()
    with pytest.raises(ConfigError, match=r"^model\.layers\.r\.repeat: 1,000,000,000 makes"):
        mf.load(tmp_path)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("kind", ["LSTM", "TransformerEncoder"])
def test_a_stack_that_torch_would_construct_without_end_is_refused(kind: str):
    encoder = {"encoder_layer": {"_target_": "torch.nn.TransformerEncoderLayer", "d_model": 6, "nhead": 2}}
    own = {"LSTM": {"hidden_size": 6, "output": 0}, "TransformerEncoder": encoder}[kind]
    layers = {"stack": {"_target_": f"torch.nn.{kind}", "num_layers": 10**9, **own}}
    with pytest.raises(ConfigError, match=r"^model\.layers\.stack\.num_layers: 1000000000 is too large; give a whole number <= 10000"):
        mf.plan({**config(layers), "data": {"input_shape": [5, 6]}})


def test_ten_thousand_repeats_are_planned():
    plan = mf.plan(config({"r": {"repeat": 10_000, **FC}}))
    assert len(plan.ledger) == 20_000


def test_layers_are_counted_as_they_are_built():
    layers = {
        "r": {"repeat": 3, "layers": {"fc": FC, "q": {"repeat": 2, **FC}}},
        "b": {"_target_": "modelfactory.Residual", "layers": {"fc": FC}},
    }
    model = mf.build(config(layers))
    assert count_layers({"layers": layers}) == len(list(model.modules()))
