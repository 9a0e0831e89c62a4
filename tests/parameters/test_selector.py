"""The selector language."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn

from modelfactory.config.errors import Problems
from modelfactory.model.layers.containers import Residual
from modelfactory.parameters.roles import describe
from modelfactory.parameters.selector import Selector, nothing_picked, read_selector


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.body = Residual({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}, learn_scale=0.1)
        self.attention = nn.MultiheadAttention(4, 2)
        self.lstm = nn.LSTM(4, 4)
        self.words = nn.Embedding(5, 4)
        self.act = nn.PReLU()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.head = nn.Linear(4, 2)


GATES = ("input_gate", "forget_gate", "cell_gate", "output_gate")
ROLES = {
    "stem.weight": ("weight", "stem"),
    "stem.bias": ("bias", "stem"),
    "norm.weight": ("norm",),
    "norm.bias": ("norm", "bias"),
    "body.scale": ("scale",),
    "body.a.weight": ("weight", "residual", "hidden"),
    "body.b.weight": ("weight", "residual", "residual_out", "residual_end", "hidden"),
    "body.b.bias": ("bias", "residual_out"),
    "attention.in_proj_weight": ("weight", "query", "key", "value", "hidden"),
    "attention.out_proj.weight": ("weight", "hidden"),
    "lstm.weight_ih_l0": ("weight", "gate", *GATES, "hidden"),
    "lstm.weight_hh_l0": ("recurrent", "weight", "gate", *GATES, "hidden"),
    "lstm.bias_ih_l0": ("bias", "gate", *GATES),
    "words.weight": ("embedding",),
    "act.weight": ("activation",),
    "cls_token": ("other",),  # no run shows what is done with it
    "head.weight": ("weight", "head"),
    "head.bias": ("bias", "head"),
}


@pytest.mark.parametrize("name", ROLES)
def test_roles_follow_from_the_modules(name):
    roles = {info.name: info.roles for info in describe(Net())}
    assert roles[name] == ROLES[name]


def picked(**selector) -> list[str]:
    problems = Problems()
    read = read_selector(selector, "x", problems)
    assert read is not None, list(map(str, problems))
    return [info.name for info in read.select(describe(Net()))]


def test_all_that_is_given_must_hold():
    assert picked(match="body.*", role="weight") == ["body.a.weight", "body.b.weight"]
    assert picked(match=["stem.*", "head.*"], module="Linear") == ["head.weight", "head.bias"]
    assert picked(module=["Conv2d", "Embedding"], role=["weight", "embedding"]) == ["stem.weight", "words.weight"]


def test_a_glob_is_over_the_whole_name_and_a_class_takes_its_subclasses():
    assert picked(match="bias") == [] and picked(match="*.bias") != []
    assert picked(module="_BatchNorm") == ["norm.weight", "norm.bias"]
    assert "attention.out_proj.weight" in picked(module="Linear")


def test_tied_parameters_are_picked_by_either_name():
    model = Net()
    model.head.weight = nn.Parameter(torch.zeros(2, 4))
    model.twin = nn.Linear(4, 2)
    model.twin.weight = model.head.weight
    infos = describe(model)
    for glob in ("head.weight", "twin.weight"):
        assert [info.names for info in Selector(match=(glob,)).select(infos)] == [("head.weight", "twin.weight")]


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ({}, "x: picks nothing: give match, module or role, or a layer as before or after"),
        ({"role": "wieght"}, "x.role: 'wieght' is not a role; did you mean 'weight'?"),
        ({"mach": "a"}, "x.mach: not a key of a selector; did you mean 'match'?"),
        ({"match": 3}, "x.match: 3 is not a text; give one, or a list of them"),
        (3, "x: 3 is not a selector; give a glob or a mapping of match, module, role"),
    ],
)
def test_wrong_selectors_are_told(selector, message):
    problems = Problems()
    assert read_selector(selector, "x", problems) is None
    assert message in map(str, problems)


def test_what_picks_nothing_names_the_nearest():
    infos = describe(Net())
    assert "did you mean 'head.weight'?" in nothing_picked(Selector(match=("head.wieght",)), infos)
    assert "did you mean 'Conv2d'?" in nothing_picked(Selector(module=("Conv2",)), infos)
    assert "the roles here are weight, bias" in nothing_picked(Selector(role=("other",)), infos)


def test_the_head_of_torchvisions_models_is_found():
    for name, head in (("resnet18", "fc.weight"), ("vit_b_32", "heads.head.weight"), ("convnext_tiny", "classifier.2.weight")):
        with torch.device("meta"):
            infos = describe(torchvision.models.get_model_builder(name)())
        assert [info.name for info in infos if "head" in info.roles and "weight" in info.roles] == [head]


def nested():
    block = lambda: nn.Sequential(OrderedDict(conv=nn.Conv1d(2, 2, 1), norm=nn.BatchNorm1d(2)))  # noqa: E731
    body = nn.Sequential(OrderedDict(stem=nn.Conv1d(2, 2, 1), layer1=block(), layer2=block(), pool=nn.ReLU()))
    return nn.Sequential(OrderedDict(body=body, head=nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("keys", "picked"),
    [
        ({"before": "layer2"}, ["body.stem.weight", "body.layer1.conv.weight", "body.layer1.norm.weight"]),
        ({"before": "body.layer1"}, ["body.stem.weight"]),
        ({"after": "layer1"}, ["body.layer2.conv.weight", "body.layer2.norm.weight", "head.weight"]),
        ({"after": "stem", "before": "layer2"}, ["body.layer1.conv.weight", "body.layer1.norm.weight"]),
        ({"before": "head", "after": "layer2.conv"}, ["body.layer2.norm.weight"]),
        ({"before": "pool", "after": "layer1", "module": "Conv1d"}, ["body.layer2.conv.weight"]),
        ({"match": "body.*", "after": "layer2"}, []),
    ],
)
def test_layers_bound_what_is_picked_by_the_order_of_the_model(keys, picked):
    problems = Problems()
    selector = Selector.read({**keys, "role": ["weight", "norm"]}, "x", problems)
    assert selector is not None and not problems
    names = [info.name for info in selector.select(describe(nested()))]
    assert [name for name in names if not name.endswith("bias")] == picked


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"before": "layer3"}, "{before: layer3} picks no parameter; there is no layer 'layer3'; did you mean 'layer2'?"),
        ({"after": "hed"}, "there is no layer 'hed'; did you mean 'head'?"),
        ({"before": "conv"}, "several layers are named 'conv': body.layer1.conv, body.layer2.conv; give the whole name of one"),
        ({"before": "stem"}, "{before: stem} picks no parameter (optional: true allows it)"),
    ],
)
def test_a_layer_that_there_is_not_is_told_with_the_nearest(keys, message):
    infos = describe(nested())
    selector = Selector(**keys)
    assert selector.select(infos) == [] and message in nothing_picked(selector, infos)


def test_a_tied_parameter_is_where_it_was_registered_first():
    model = nested()
    model.add_module("twin", nn.Linear(2, 2))
    model.twin.weight = model.head.weight
    assert [info.name for info in Selector(after="head").select(describe(model))] == ["twin.bias"]
