import pytest
import torch
from torch import nn

from modelfactory.config.errors import ConfigError, Problems
from modelfactory.training.optimizer import build_optimizer, read_optimizer
from modelfactory.training.training_spec import training_spec


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def names(model, optimizer):
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    return {group["name"]: [name_of[parameter] for parameter in group["params"]] for group in optimizer.param_groups}


def config(kind="AdamW", **keys):
    return {"_target_": f"torch.optim.{kind}", "lr": 0.1, **keys}


@pytest.mark.parametrize(
    ("kind", "options", "fused"),
    [("SGD", {"momentum": 0.9}, True), ("Adam", {}, True), ("AdamW", {}, True), ("RMSprop", {}, None), ("NAdam", {}, None)],
)
def test_the_fused_kernel_is_used_where_there_is_one_else_foreach(kind, options, fused):
    optimizer = build_optimizer(training_spec(config(kind, **options)).optimizer, net())
    assert type(optimizer) is getattr(torch.optim, kind)
    assert optimizer.defaults.get("fused") is fused and optimizer.defaults["foreach"] is (None if fused else True)


@pytest.mark.parametrize("choice", [{"fused": False}, {"foreach": True}, {"foreach": False}])
def test_the_config_may_choose_the_implementation(choice):
    defaults = build_optimizer(training_spec(config("Adam", **choice)).optimizer, net()).defaults
    assert {key: defaults[key] for key in choice} == choice and not defaults.get("fused")


def test_the_fused_kernel_is_not_used_with_sparse_gradients():
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True))
    optimizer = build_optimizer(training_spec(config("SGD")).optimizer, model)
    model(torch.tensor([1])).sum().backward()
    optimizer.step()


def test_groups_scale_the_learning_rate_and_a_later_one_wins():
    model = net()
    groups = {
        "all": {"match": "*", "lr_scale": 0.5},
        "no_decay": {"role": ["bias", "norm"], "weight_decay": 0.0},
        "head": {"match": "3.*", "lr_scale": 2.0, "betas": [0.5, 0.6]},
    }
    optimizer = build_optimizer(training_spec(config(weight_decay=0.3, groups=groups)).optimizer, model)
    assert names(model, optimizer) == {
        "all": ["0.weight"],
        "no_decay": ["0.bias", "1.weight", "1.bias"],
        "head": ["3.weight", "3.bias"],
    }
    options = {group["name"]: (group["lr"], group["weight_decay"], group["betas"]) for group in optimizer.param_groups}
    assert options == {"all": (0.05, 0.3, (0.9, 0.999)), "no_decay": (0.1, 0.0, (0.9, 0.999)), "head": (0.2, 0.3, (0.5, 0.6))}


def test_a_tied_parameter_is_in_one_group():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    optimizer = build_optimizer(training_spec(config(groups={"second": {"match": "1.*", "lr_scale": 0.1}})).optimizer, model)
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(every) == len(set(every)) == 3
    assert names(model, optimizer) == {"default": ["0.bias"], "second": ["0.weight", "1.bias"]}


def test_frozen_parameters_are_in_no_group_unless_thawed_later():
    model = net()
    model[0].requires_grad_(False)
    rest = ["1.weight", "1.bias", "3.weight", "3.bias"]
    assert names(model, build_optimizer(training_spec(config()).optimizer, model)) == {"default": rest}
    spec = training_spec(config(groups={"body": {"match": "0.*", "lr_scale": 0.1}})).optimizer
    later = build_optimizer(spec, model, thawed_later={"0.weight": 2})
    assert names(model, later)["body.epoch2"] == ["0.weight"]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"body": {"match": "3.weigth"}}, r"optimizer.groups.body: .*did you mean '3.weight'"),
        ({"body": {"match": "0.*"}}, r"optimizer.groups.body: .*picks frozen parameters only"),
    ],
)
def test_a_group_that_picks_nothing_is_an_error(groups, message):
    model = net()
    model[0].requires_grad_(False)
    with pytest.raises(ConfigError, match=message):
        build_optimizer(training_spec(config(groups=groups)).optimizer, model)
    name, group = next(iter(groups.items()))
    build_optimizer(training_spec(config(groups={name: {**group, "optional": True}})).optimizer, model)


def test_a_model_that_is_all_frozen_is_refused():
    with pytest.raises(ConfigError, match="optimizer: there is nothing to train"):
        build_optimizer(training_spec(config()).optimizer, net().requires_grad_(False))


def test_a_model_that_the_optimizer_cannot_take_is_refused():
    with pytest.raises(ConfigError, match="optimizer: Muon refuses this model: Muon only supports 2D"):
        build_optimizer(training_spec({"_target_": "torch.optim.Muon"}).optimizer, net())


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("adam", "optimizer: 'adam' is not a mapping"),
        ({}, "optimizer._target_: None"),
        ({"_target_": "torch.optim.AdamV"}, "optimizer._target_: .*did you mean 'torch.optim.Adam"),
        ({"_target_": "torch.nn.Linear"}, "optimizer._target_: 'torch.nn.Linear' is refused"),
        ({"_target_": "torch.optim.LBFGS"}, "optimizer._target_: 'torch.optim.LBFGS' needs a closure"),
        (config(lr=float("nan")), "optimizer.lr: nan is not finite"),
        (config(lr=-0.1), "optimizer.lr: -0.1 is too small"),
        (config(lr="1e-3"), "optimizer.lr: '1e-3' is a text; .*write 0.001"),
        (config(lr=None), "optimizer.lr: None"),
        (config(lr=True), "optimizer.lr: True is true or false"),
        (config(weight_decay=-1.0), "optimizer.weight_decay: -1.0 is too small"),
        (config(momentum=0.9), "optimizer.momentum: not an argument of AdamW"),
        (config(lrr=0.9), "optimizer.lrr: .*did you mean 'lr'"),
        (config(betas=[0.9, 1.0]), "optimizer.betas: 1.0 is not in"),
        (config(betas=0.9), "optimizer.betas"),
        (config(params=[1]), "optimizer.params: not a key here"),
        (config("SGD", nesterov=True), "optimizer: SGD refuses it: Nesterov momentum requires"),
        (config(fused=True, foreach=True), "optimizer: AdamW refuses it"),
        (config(groups=[1]), "optimizer.groups: .* is not a mapping"),
        (config(groups={"a": 1}), "optimizer.groups.a: 1 is not a mapping"),
        (config(groups={"a": {"lr_scale": 1.0}}), "optimizer.groups.a: picks nothing"),
        (config(groups={"a": {"match": "*", "lr_scale": -1.0}}), "optimizer.groups.a.lr_scale: -1.0 is too small"),
        (config(groups={"a": {"match": "*", "lr_scale": 1.0, "lr": 1.0}}), "optimizer.groups.a.lr_scale: .*give one"),
        (
            config(groups={"a": {"match": "*", "weight_decai": 1.0}}),
            "optimizer.groups.a.weight_decai: .*did you mean 'weight_decay'",
        ),
        (config(groups={"a": {"match": "*", "lr": float("inf")}}), "optimizer.groups.a.lr: inf is not finite"),
        (config(groups={"a": {"role": "wieght"}}), "optimizer.groups.a.role: .*did you mean 'weight'"),
    ],
)
def test_a_wrong_optimizer_config_says_what_is_wrong(mapping, message):
    problems = Problems()
    assert read_optimizer(mapping, problems) is None
    with pytest.raises(ConfigError, match=message):
        problems.raise_if_any()


def test_a_group_that_the_command_line_took_out_is_none():
    assert len(build_optimizer(training_spec(config(groups={"body": None})).optimizer, net()).param_groups) == 1
