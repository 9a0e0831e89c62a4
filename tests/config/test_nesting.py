"""Configs of dicts and lists that have no end, and names that are no texts."""

from __future__ import annotations

import time
from typing import Any

import pytest
import yaml

import modelfactory as mf
from modelfactory.api.run import check
from modelfactory.config.errors import ConfigError, Problems
from modelfactory.config.nesting import MAX_DEPTH, MAX_REPEATED, check_nesting, with_text_names


def config(**groups: Any) -> dict[str, Any]:
    layers = {"fc": {"_target_": "torch.nn.Linear", "out_features": 3}}
    return {"data": {"input_shape": [6], "num_classes": 3}, "model": {"layers": layers}, **groups}


def of_a_dict() -> tuple[dict[str, Any], str]:
    made = config()
    made["model"]["layers"]["fc"]["bias"] = made["model"]["layers"]
    return made, r"model\.layers\.fc\.bias: is model\.layers itself, so the config has no end"


def of_a_list() -> tuple[dict[str, Any], str]:
    sizes: list[Any] = [1]
    sizes.append([sizes])
    return config(init=sizes), r"init\[1\]\[0\]: is init itself, so the config has no end"


def of_the_whole() -> tuple[dict[str, Any], str]:
    made = config()
    made["model"]["again"] = made
    return made, r"model\.again(: is the config|\.model: is model) itself, so the config has no end"


def of_an_interpolated_one() -> tuple[dict[str, Any], str]:
    made = config(seed="${data.num_classes}")
    made["init"] = {"rules": made}
    return made, r"init\.rules(: is the config|\.init: is init) itself"


def of_one_beside_a_composed_one() -> tuple[dict[str, Any], str]:
    made: Any = {**mf.compose(), "init": {}}
    made["init"]["again"] = made["init"]
    return made, r"init\.again: is init itself"


@pytest.mark.parametrize("use", [mf.plan, mf.build, check, mf.train], ids=["plan", "build", "check", "train"])
@pytest.mark.parametrize("circle", [of_a_dict, of_a_list, of_the_whole, of_an_interpolated_one, of_one_beside_a_composed_one])
def test_a_config_inside_of_itself_is_refused_at_once(use: Any, circle: Any):
    made, message = circle()
    began = time.process_time()
    with pytest.raises(ConfigError, match=f"^{message}"):
        use(made)
    assert time.process_time() - began < 20  # where it would not end


def test_a_bomb_of_aliases_that_python_read_is_refused_at_once():
    text = "a: &a [z, z, z, z, z, z, z, z, z, z]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    began = time.process_time()
    with pytest.raises(ConfigError, match=rf"^init\..*they hold more than {MAX_REPEATED:,} values twice"):
        mf.plan(config(init=yaml.safe_load(text)))
    assert time.process_time() - began < 20  # where it would not end


@pytest.mark.parametrize("use", [mf.plan, mf.build], ids=["plan", "build"])
def test_what_has_no_end_among_the_keys_of_others_is_left_alone(use: Any):
    notes: dict[str, Any] = {}
    notes["again"] = notes
    began = time.process_time()
    assert use(config(notes=notes)) is not None
    assert time.process_time() - began < 20


def test_a_dict_that_stands_in_many_places_is_no_circle():
    layer = {"_target_": "torch.nn.Linear", "out_features": 6}
    check_nesting(config(model={"layers": {str(number): layer for number in range(10_000)}}))


@pytest.mark.parametrize("use", [mf.plan, mf.build, check], ids=["plan", "build", "check"])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 5000])
def test_a_config_too_deep_to_be_saved_is_refused(use: Any, depth: int):
    deep: Any = 1
    for _ in range(depth):
        deep = {"layers": deep}
    with pytest.raises(ConfigError, match=f"^model: more than {MAX_DEPTH} mappings and lists are inside of each other$"):
        use(config(model=deep))


def test_names_of_numbers_become_texts_and_all_else_stays_the_same_object():
    rules, layers, arguments = {"a": {}}, {"fc": {}}, {0: 1, "layers": {0: 1}}
    given: dict[str, Any] = {
        "init": {"rules": rules},
        "model": {"layers": layers},
        "backbone": {"layers": {0: {"shortcut": {"layers": {1: {}}}}, "own": {"_target_": "my.Own", "sizes": arguments}}},
        "optimizer": {"groups": {2: {}}},
        "freeze": {"rules": {1.5: {}}},
        "data": {"classes": {0: "a"}},
    }
    problems = Problems()
    named = with_text_names(given, problems)
    assert named["init"]["rules"] is rules and named["model"]["layers"] is layers and named["data"] is given["data"]
    assert list(named["backbone"]["layers"]) == ["0", "own"] and list(given["backbone"]["layers"]) == [0, "own"]
    assert named["backbone"]["layers"]["0"] == {"shortcut": {"layers": {"1": {}}}}
    assert named["backbone"]["layers"]["own"]["sizes"] is arguments
    assert (named["optimizer"], named["freeze"]) == ({"groups": {"2": {}}}, {"rules": {"1.5": {}}})
    assert not problems


NAMES = {
    "boolean": ({False: {}, "a": {}}, "model.layers: False is no name: YAML reads off, no and false as it; put the name in quotes"),
    "true": ({True: {}}, "model.layers: True is no name: YAML reads on, yes and true as it; put the name in quotes, such as 'on'"),
    "null": ({None: {}}, "model.layers: None is no name: YAML reads null and ~ as it"),
    "twice": ({1: {}, "1": {}}, "model.layers.1: '1' names two modules; choose another name"),
}


@pytest.mark.parametrize("what", NAMES)
@pytest.mark.parametrize("use", [mf.plan, mf.train], ids=["plan", "train"])
def test_a_name_that_is_no_text_is_told_before_anything_is_made(use: Any, what: str):
    layers, message = NAMES[what]
    with pytest.raises(ConfigError) as caught:
        use(config(model={"layers": layers}))
    assert str(caught.value).startswith(message)


def test_layers_named_by_numbers_and_texts_train_and_load(tmp_path):
    layers = {
        0: {"_target_": "torch.nn.Flatten"},
        1: {"_target_": "torch.nn.Linear", "out_features": 8},
        "out": {"_target_": "torch.nn.Linear", "out_features": 10},
    }
    cfg = {**mf.compose("trainer=debug", "trainer.device=cpu", "trainer.progress=none", "trainer.signal=none"), "model": {"layers": layers}}
    result = mf.train(cfg, run_dir=tmp_path)
    assert list(mf.load(tmp_path).state_dict()) == list(result.model.state_dict()) == ["1.weight", "1.bias", "out.weight", "out.bias"]
