"""The selector language."""

import pytest
import torch
import torchvision
from torch import nn

from modelfactory.errors import Problems
from modelfactory.layers import Residual
from modelfactory.select import Selector, describe, nothing_picked, read_selector


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


ROLES = {
    "stem.weight": ("weight",),
    "stem.bias": ("bias",),
    "norm.weight": ("norm",),
    "norm.bias": ("norm", "bias"),
    "body.scale": ("scale",),
    "body.a.weight": ("weight",),
    "body.b.weight": ("weight", "residual_out"),
    "attention.in_proj_weight": ("weight", "query", "key", "value"),
    "attention.out_proj.weight": ("weight",),
    "lstm.weight_ih_l0": ("weight", "gate"),
    "lstm.weight_hh_l0": ("recurrent", "weight", "gate"),
    "lstm.bias_ih_l0": ("bias", "gate"),
    "words.weight": ("embedding",),
    "act.weight": ("activation",),
    "cls_token": ("embedding",),
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
        ({}, "x: picks nothing: give match, module or role"),
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
