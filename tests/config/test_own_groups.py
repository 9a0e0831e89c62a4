"""Groups of this package in a config of another project: at the root, under a package, in a part of it."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from modelfactory.config.errors import ConfigError, Problem
from modelfactory.config.own_groups import read_groups

GROUPS = ("seed", "data", "activation", "model", "init", "freeze")
RELU, TANH = {"_target_": "torch.nn.ReLU"}, {"_target_": "torch.nn.Tanh"}
FC = {"_target_": "torch.nn.Linear", "out_features": "${width}"}


def both(config: dict[str, Any]) -> list[Any]:
    return [config, OmegaConf.create(config)]


@pytest.mark.parametrize(
    "theirs",
    [{"lr": "???"}, {"path": "${oc.env:NO_SUCH}"}, {"a": "${nowhere}"}, {"a": "${b}", "b": "${a}"}, {"trainer": {"_target_": "x.Y"}}],
    ids=str,
)
def test_what_is_not_ours_is_neither_resolved_nor_checked(theirs: dict[str, Any]):
    for cfg in both({**theirs, "model": {"layers": {"fc": FC}}, "width": 3}):
        assert read_groups(cfg, GROUPS).config == {"model": {"layers": {"fc": {**FC, "out_features": 3}}}}


def test_objects_and_names_that_a_config_cannot_have_are_left_alone():
    cfg = {"callback": object(), 1: 2, "map": {(1, 2): 3}, "model": {"layers": {"fc": FC}}, "width": 3}
    assert read_groups(cfg, GROUPS).config["model"]["layers"]["fc"]["out_features"] == 3


# a config, at, what the groups are, and where they are
PLACES: list[tuple[dict[str, Any], str | None, dict[str, Any], dict[str, str]]] = [
    ({"net": {"model": {"layers": {"a": RELU}}, "seed": 3}}, "net", {"model": {"layers": {"a": RELU}}, "seed": 3}, {"seed": "net.seed"}),
    ({"net": {"layers": {"a": RELU}}, "seed": 3}, "net", {"model": {"layers": {"a": RELU}}, "seed": 3}, {"model": "net", "seed": "seed"}),
    (
        {"net": {"layers": {"a": RELU}, "init": {"rules": {}}, "seed": 2}, "seed": 3, "init": "zeros"},
        "net",
        {"model": {"layers": {"a": RELU}}, "seed": 2, "init": {"rules": {}}},
        {"init": "net.init"},
    ),
    # what a model says of itself is not the group
    (
        {"net": {**RELU, "init": {"weight": "zeros"}, "freeze": True, "seed": 9}, "init": "ones"},
        "net",
        {"model": {**RELU, "init": {"weight": "zeros"}, "freeze": True, "seed": 9}, "init": "ones"},
        {},
    ),
    ({"a": {"b": {"model": RELU}, "seed": 1}, "seed": 2}, "a.b", {"model": RELU, "seed": 1}, {"model": "a.b.model", "seed": "a.seed"}),
    ({"nets": [{"model": RELU}, {"model": TANH}]}, "nets.1", {"model": TANH}, {"model": "nets.1.model"}),
    ({"net": "${nets.small}", "nets": {"small": {"model": TANH}}}, "net", {"model": TANH}, {"model": "nets.small.model"}),
    ({"layers": {"a": RELU}, "lr": 3}, None, {"model": {"layers": {"a": RELU}, "lr": 3}}, {}),
]


@pytest.mark.parametrize(("config", "at", "expected", "places"), PLACES)
def test_groups_are_found_where_they_are(config: dict[str, Any], at: str | None, expected: dict[str, Any], places: dict[str, str]):
    for cfg in both(config):
        found = read_groups(cfg, GROUPS, at)
        assert found.config == expected
        assert {name: ".".join(map(str, found.paths[name])) for name in places} == places


def test_a_part_of_a_config_is_read_as_by_its_path():
    cfg = OmegaConf.create({"a": {"b": {"layers": {"x": "${activation}"}}}, "activation": TANH, "seed": 4})
    assert read_groups(cfg.a.b, GROUPS).config == read_groups(cfg, GROUPS, "a.b").config == {
        "model": {"layers": {"x": TANH}},
        "activation": TANH,
        "seed": 4,
    }


# what an interpolation of net.model.layers.x means, in a config that has these keys besides
NEAREST: list[tuple[str, dict[str, Any], dict[str, Any], Any]] = [
    ("${activation}", {"activation": TANH}, {}, TANH),  # nowhere at the root
    ("${activation}", {"activation": TANH}, {"activation": RELU}, RELU),  # what it means to OmegaConf counts
    ("${...activation}", {"activation": TANH}, {"activation": RELU}, TANH),
    ("${...activation}", {}, {"activation": RELU}, RELU),  # not beside the model
    ("${....data.size}", {"data": {"size": 2}}, {}, 2),  # one level too many, and there is one of its name
    ("${model.width}", {}, {}, 8),
    ("${...seed}", {}, {}, 0),  # the seed where none is given
    ("n=${...seed}", {}, {"seed": 5}, "n=5"),
]


@pytest.mark.parametrize(("text", "beside", "root", "expected"), NEAREST)
def test_what_leads_nowhere_in_a_package_means_the_nearest_of_its_name(text: str, beside: Any, root: Any, expected: Any):
    config = {**root, "net": {**beside, "model": {"width": 8, "layers": {"x": text}}}}
    for cfg in both(config):
        assert read_groups(cfg, GROUPS, "net").config["model"]["layers"]["x"] == expected


def test_a_model_that_is_the_package_itself_is_beside_the_groups_in_it():
    config = {"net": {"layers": {"x": "${...activation}"}, "activation": TANH}, "activation": RELU}
    for cfg in both(config):
        assert read_groups(cfg, GROUPS, "net").config["model"] == {"layers": {"x": TANH}}


def test_a_group_that_leads_to_its_namesake_is_no_circle():
    for cfg in both({"net": {"activation": "${activation}", "layers": {"x": "${...activation}"}}, "activation": TANH}):
        assert read_groups(cfg, GROUPS, "net").config["model"] == {"layers": {"x": TANH}}


@pytest.mark.parametrize(
    ("config", "at", "message"),
    [
        ({"net": {}}, "nett", r"^nett: there is nothing there; give at= the path of a mapping with model \(net\)$"),
        ({"net": {"x": 3}}, "net.x", r"^net.x: 3 is not a mapping"),
        ({"net": {"model": {"layers": {"x": "${widht}"}}}}, "net", r"^net.model.layers.x: '\$\{widht\}' does not resolve: "),
        ({"net": {"model": {"layers": {"x": "???"}}}}, "net", r"^net.model.layers.x: is missing"),
        (3, None, r"^3 is not a config"),
    ],
)
def test_what_is_not_there_is_told_with_its_path(config: Any, at: str | None, message: str):
    with pytest.raises(ConfigError, match=message):
        read_groups(config, GROUPS, at)


def test_errors_have_the_paths_of_the_config_that_was_given():
    found = read_groups({"net": {"layers": {"x": RELU}}, "seed": 1}, GROUPS, "net")
    with pytest.raises(ConfigError, match=r"^net.layers.x: wrong\nseed: too\nnet: whole$"), found.told():
        raise ConfigError([Problem("model.layers.x", "wrong"), Problem("seed", "too"), Problem("model", "whole")])
