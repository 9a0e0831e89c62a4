"""The scheme `copy`: a teacher begins as its student, whatever rule, file or calibration sets that."""

import copy

import pytest
import torch
from torch import Tensor, nn

import modelfactory as mf

AUTHOR = {"match": "*", "scheme": "default"}
COPY = {"match": "net.teacher.*", "scheme": "copy", "of": "net.student"}


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELFACTORY_TRUST", __name__)


class Pair(nn.Module):
    def __init__(self, loaded: bool = False, width: int = 12):
        super().__init__()
        student = nn.Sequential(nn.Linear(width, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4))
        self.net = nn.ModuleDict({"student": student, "teacher": copy.deepcopy(student).requires_grad_(False)})
        if loaded:
            self.net["teacher"].load_state_dict(student.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.net["student"](x.flatten(1))


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.Linear(6, 6)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return x


def planned(rules: dict, kind: type = Pair, width: int = 12, **more):
    model = {"_target_": f"{__name__}.{kind.__name__}", **more}
    return mf.plan({"model": model, "data": {"input_shape": [width]}, "init": {"rules": {"author": AUTHOR, **rules}}})


def are_equal(model: nn.Module) -> bool:
    return all(map(torch.equal, model.net["student"].parameters(), model.net["teacher"].parameters()))


@pytest.mark.parametrize("rules", [{}, {"w": {"role": "weight", "scheme": "xavier_normal"}}], ids=["default", "drawn"])
@pytest.mark.parametrize("loaded", [False, True], ids=["deepcopy", "load_state_dict"])
def test_a_copy_is_equal_and_without_the_rule_that_is_told(rules, loaded):
    plan = planned({**rules, "teacher": COPY}, loaded=loaded)
    built = plan.materialize()
    assert are_equal(built.model) and not built.warnings
    row = built.ledger["net.teacher.0.weight"]
    assert (row.scheme, row.origin, row.rule, row.std) == ("copy", "rule", "teacher", built.ledger["net.student.0.weight"].std)
    assert built.ledger.digests["net.teacher.0.weight"] == built.ledger.digests["net.student.0.weight"]
    apart = planned(rules, loaded=loaded)
    told = [warning for warning in apart.warnings if "net.teacher is made as a copy of net.student" in warning]
    assert bool(told) is not are_equal(apart.build())


def test_the_line_tells_the_rule_that_works():
    told = planned({"w": {"role": "weight", "scheme": "xavier_normal"}}).warnings[0]
    assert told.mend == '+init.rules.teacher={match: "net.teacher.*", scheme: copy, of: net.student}'


def test_layers_of_a_stack_are_drawn_apart_without_a_word():
    plan = planned({}, Stack, 6)
    model = plan.build()
    assert not plan.warnings and not torch.equal(model.get_parameter("layers.0.weight"), model.get_parameter("layers.1.weight"))


def test_a_copy_follows_a_calibration_and_another_copy():
    rules = {"w": {"role": "weight", "scheme": "orthogonal"}, "teacher": COPY}
    config = {
        "model": {"_target_": f"{__name__}.Pair", "width": 64},
        "data": {"_target_": "modelfactory.data.digits", "input_shape": [1, 8, 8], "num_classes": 10},
        "init": {"rules": {"author": AUTHOR, **rules}, "calibrate": "lsuv"},
    }
    assert are_equal(mf.build(config))
    chain = {"match": "layers.2.*", "scheme": "copy", "of": "layers.1"}
    model = planned({"a": chain, "b": {"match": "layers.1.*", "scheme": "copy", "of": "layers.0"}}, Stack, 6).build()
    assert torch.equal(model.layers[0].weight, model.layers[2].weight)


def test_a_model_that_exists_is_copied_as_it_is():
    model = Pair()
    nn.init.normal_(model.net["student"][0].weight)
    mf.initialize(model, COPY)
    assert are_equal(model)


WRONG = [
    (
        {"match": "net.teacher.*", "scheme": "copy", "of": "net.studnet"},
        r"init\.rules\.t\.of: 'net\.studnet' .*did you mean 'net\.student'",
    ),
    ({"match": "net.teacher.*", "scheme": "copy"}, r"init\.rules\.t\.of: missing"),
    ({"match": "net.teacher.*", "scheme": "copy", "of": "net.student", "std": 1}, r"init\.rules\.t\.std: not an argument of copy"),
    ({"match": "net.teacher.3.weight", "scheme": "copy", "of": "net.student.0.weight"}, r"the shape \(4, 12\)"),
    ({"match": ["net.student.*"], "scheme": "copy", "of": "net.student"}, r"'net\.student' has no parameter for net\.student\.0\.weight"),
]


@pytest.mark.parametrize("rule, message", WRONG, ids=["misspelt", "missing", "argument", "shape", "itself"])
def test_a_copy_of_nothing_that_fits_is_an_error(rule, message):
    with pytest.raises(mf.ModelFactoryError, match=message):
        planned({"t": rule})


def test_copies_of_each_other_are_an_error():
    back = {"match": "net.student.*", "scheme": "copy", "of": "net.teacher"}
    with pytest.raises(mf.ModelFactoryError, match="are copies of each other"):
        planned({"a": COPY, "b": back})
