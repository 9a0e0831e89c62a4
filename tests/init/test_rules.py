"""Rules: what they read, which wins, and what is said of those that are wrong."""

import itertools

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.config.errors import ConfigError, Problems
from modelfactory.init.choose import Chooser
from modelfactory.init.rules import read_init, read_scheme
from modelfactory.parameters.layer_rules import Definition
from modelfactory.parameters.roles import describe

AUTHOR = {"match": "*", "scheme": "default"}


def net() -> nn.Module:
    return nn.ModuleDict({"fc": nn.Linear(4, 5), "norm": nn.BatchNorm1d(5), "head": nn.Linear(5, 2)})


def chosen(rules: dict, beside: dict[str, dict] | None = None, model: nn.Module | None = None) -> dict[str, tuple[str, str]]:
    """For each parameter the rule and the scheme that set it."""
    problems = Problems()
    spec = read_init({"rules": rules}, "init", problems)
    problems.raise_if_any()
    definitions = {name: Definition(f"model.layers.{name}", init) for name, init in (beside or {}).items()}
    choices = Chooser(spec.rules, definitions, problems).choose(describe(model or net()))
    problems.raise_if_any()
    return {choice.info.name: (choice.rule, choice.call.name) for choice in choices}


def test_a_later_rule_wins_whatever_it_picks_by():
    kinds = {
        "by_role": {"role": "weight", "scheme": "zeros"},
        "by_module": {"module": "Linear", "scheme": "zeros"},
        "by_name": {"match": "fc.*", "scheme": "zeros"},
    }
    for order in itertools.permutations(kinds):
        rules = {"all": AUTHOR, **{name: kinds[name] for name in order}}
        assert chosen(rules)["fc.weight"][0] == order[-1]


def test_every_criterion_of_a_rule_must_hold():
    rules = {"all": AUTHOR, "one": {"match": ["fc.*", "head.*"], "module": "Linear", "role": "bias", "scheme": "zeros"}}
    assert {name for name, (rule, _) in chosen(rules).items() if rule == "one"} == {"fc.bias", "head.bias"}


def test_a_rule_beside_a_layer_wins_over_kinds_and_yields_to_names():
    beside = {"head": {"weight": "ones"}}
    rules = {"all": AUTHOR, "role": {"role": "weight", "scheme": "zeros"}, "module": {"module": "Linear", "scheme": "zeros"}}
    assert chosen(rules, beside)["head.weight"] == ("model.layers.head.init.weight", "ones")
    assert chosen(rules, beside)["head.bias"][0] == "module"
    named = {**rules, "mine": {"match": "h*.weight", "scheme": "eye"}}
    assert chosen(named, beside)["head.weight"] == ("mine", "eye")
    assert chosen({**named, "late": {"role": "weight", "scheme": "zeros"}}, beside)["head.weight"][1] == "ones"


def test_of_nested_definitions_the_inner_wins():
    model = nn.Sequential()
    model.add_module("part", nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)}))
    beside = {"part": {"*.weight": "ones", "*.bias": "ones"}, "part.b": {"weight": "eye"}}
    assert {name: scheme for name, (_, scheme) in chosen({"all": AUTHOR}, beside, model).items()} == {
        "part.a.weight": "ones",
        "part.a.bias": "ones",
        "part.b.weight": "eye",
        "part.b.bias": "ones",
    }


def test_of_two_globs_beside_a_layer_the_later_wins():
    assert chosen({"all": AUTHOR}, {"fc": {"*": "ones", "weight": "zeros"}})["fc.weight"][1] == "zeros"


def test_a_scheme_for_matrices_leaves_the_vectors_beside_them_to_the_rule_before():
    rules = {"all": AUTHOR, "biases": {"role": "bias", "scheme": "ones"}, "fc": {"match": "fc.*", "scheme": "orthogonal"}}
    assert chosen(rules)["fc.bias"] == ("biases", "ones") and chosen(rules)["fc.weight"] == ("fc", "orthogonal")
    alone = {"norms": {"role": "norm", "scheme": "default"}, "linear": {"module": "Linear", "scheme": "orthogonal"}}
    assert chosen(alone)["fc.bias"] == ("biases", "zeros")


def test_a_rule_of_null_is_taken_out_and_an_optional_one_may_pick_nothing():
    rules = {"all": AUTHOR, "gone": None, "maybe": {"role": "embedding", "scheme": "zeros", "optional": True}}
    assert {rule for rule, _ in chosen(rules).values()} == {"all"}


ERRORS = [
    ({"w": {"role": "weight", "scheme": "zeros"}}, "init.rules: no rule picks fc.bias (bias, of Linear); add one, such as biases: {"),
    ({"all": AUTHOR, "x": {"match": "fc.wieght", "scheme": "zeros"}}, "init.rules.x: {match: fc.wieght} picks no parameter; did you mean"),
    ({"all": AUTHOR, "x": {"module": "Linaer", "scheme": "zeros"}}, "picks no parameter; did you mean 'Linear'"),
    ({"all": AUTHOR, "x": {"role": "embedding", "scheme": "zeros"}}, "the roles here are weight, bias, norm, stem, head (optional"),
    ({"x": {"role": "wieght", "scheme": "zeros"}}, "init.rules.x.role: 'wieght' is not a role; did you mean 'weight'?"),
    ({"x": {"scheme": "zeros"}}, "init.rules.x: picks nothing: give match, module or role, or a layer as before or after"),
    ({"x": {"match": "*"}}, "init.rules.x.scheme: missing; give default, or one of"),
    ({"x": {"match": "*", "scheme": "xavier_norml"}}, "init.rules.x.scheme: 'xavier_norml' is not a scheme; did you mean 'xavier_normal'?"),
    ({"x": {"match": "*", "scheme": "normal", "std": "1e-3"}}, "init.rules.x.std: '1e-3' is a text; give a number"),
    ({"x": {"match": "*", "scheme": "default", "std": 1.0}}, "init.rules.x.std: not an argument of default"),
    ({"x": {"match": "*", "scheme": "xavier_normal", "gain": "rleu"}}, "init.rules.x.gain: 'rleu' is not an activation"),
    ({"x": {"match": "*", "scheme": "xavier_normal", "gain": 0}}, "init.rules.x.gain: 0 is too small; give a number > 0"),
    ({"x": {"match": 3, "scheme": "zeros"}}, "init.rules.x.match: 3 is not a text"),
    ({"x": {"match": [], "scheme": "zeros"}}, "init.rules.x.match: [] is not a text"),
    ({"x": {"match": "*", "scheme": "zeros", "optional": "yes"}}, "init.rules.x.optional: 'yes' is a text; give true or false"),
    ({"x": "zeros"}, "init.rules.x: 'zeros' is not a rule"),
    ({}, "init.rules: is empty"),
    (["zeros"], "init.rules: ['zeros'] is not a mapping"),
    ({"x": {"match": "*", "scheme": "os.system"}}, "init.rules.x.scheme: 'os.system' is refused"),
    ({"x": {"match": "*", "scheme": {"_target_": "torch.load", "f": "x"}}}, "'torch.load' is refused"),
]


@pytest.mark.parametrize(("rules", "message"), ERRORS, ids=lambda value: str(value)[:50])
def test_what_is_wrong_is_told_with_its_path(rules, message):
    with pytest.raises(ConfigError) as caught:
        chosen(rules)
    assert message in str(caught.value)


def test_all_problems_are_told_at_once():
    rules = {"a": {"role": "x", "scheme": "y"}, "b": {"match": "*", "scheme": "normal", "stdd": 1}, "c": 3}
    problems = Problems()
    assert read_init({"rules": rules, "calibrat": 1, "fans": "both"}, "init", problems) is None
    assert {problem.path for problem in problems} == {
        "init.calibrat",
        "init.fans",
        "init.rules.a.role",
        "init.rules.a.scheme",
        "init.rules.b.stdd",
        "init.rules.c",
    }


def test_a_parameter_beside_a_layer_that_it_has_not():
    with pytest.raises(ConfigError, match=r"model.layers.fc.init.wieght: 'wieght' is not a parameter of this layer; did you mean 'weight'"):
        chosen({"all": AUTHOR}, {"fc": {"wieght": "zeros"}})


def test_gains_are_numbers_names_or_auto():
    problems = Problems()
    for given, gain in ((2, 2.0), ("relu", 2**0.5), ("auto", "auto"), ("torch.nn.ReLU", 2**0.5)):
        call = read_scheme("xavier_normal", {"gain": given}, "init.rules.a", problems)
        assert not problems and (call.gain == gain if gain == "auto" else call.gain == pytest.approx(gain))
    assert read_scheme("xavier_normal", {}, "init.rules.a", problems).gain is None


def test_uncovered_parameters_are_named_once_with_all_their_names():
    model = nn.ModuleDict({"a": nn.Linear(3, 3, bias=False), "b": nn.Linear(3, 3)})
    model["b"].weight = model["a"].weight
    with pytest.raises(ConfigError) as caught:
        chosen({"biases": {"role": "bias", "scheme": "zeros"}}, None, model)
    assert [str(problem) for problem in caught.value.problems] == [
        "init.rules: no rule picks a.weight = b.weight (weight, of Linear); "
        "add one, such as weights: {role: weight, scheme: default} for what its author wrote"
    ]
    assert chosen({"all": AUTHOR, "b": {"match": "b.weight", "scheme": "zeros"}}, None, model)["a.weight"] == ("b", "zeros")


def test_beside_a_layer_whole_from_the_config():
    layers = {
        "a": {"_target_": "torch.nn.Linear", "out_features": 3, "init": "eye"},
        "b": {"_target_": "torch.nn.Linear", "out_features": 3, "init": {"weight": {"scheme": "constant", "val": 0.5}, "bias": "ones"}},
        "c": {"repeat": 2, "layers": {"fc": {"_target_": "torch.nn.Linear", "out_features": 3}}, "init": {"0.fc.weight": "zeros"}},
    }
    model = mf.build({"model": {"layers": layers}, "data": {"input_shape": [3]}, "init": "kaiming_normal"})
    assert torch.equal(model.a.weight, torch.eye(3)) and bool((model.b.weight == 0.5).all()) and bool((model.b.bias == 1).all())
    assert not model.c[0].fc.weight.any() and bool(model.c[1].fc.weight.any())
