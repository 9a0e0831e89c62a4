"""What is declared stands over what a run shows, and what neither tells is said."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.config.target import trust
from modelfactory.parameters.roles import describe

DEFAULT = {"match": "*", "scheme": "default"}
LECUN = {"author": DEFAULT, "weights": {"role": "weight", "scheme": "lecun_normal"}}


class Blind(nn.Module):
    """A matrix that is multiplied in a way that nothing sees: in numpy."""

    def __init__(self):
        super().__init__()
        self.kernel, self.head = nn.Parameter(torch.randn(64, 16)), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(torch.from_numpy(x.detach().numpy() @ self.kernel.detach().numpy()))


class Packed(nn.Module):
    """Three matrices in one, of which the run uses two."""

    def __init__(self):
        super().__init__()
        self.both, self.head = nn.Linear(16, 24, bias=False), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.both(x)[..., :8].tanh())


def planned(name: str, width: int, **declared):
    trust("tests.parameters.test_facts")
    model = {"_target_": f"tests.parameters.test_facts.{name}", **declared}
    data = {"data": {"input_shape": [width]}} if name == "Packed" else {}  # with one, a model has to run on the meta device
    return mf.plan({"model": model, **data, "init": {"rules": LECUN}})


def test_declared_fans_decide_where_no_run_shows_them():
    plan = planned("Blind", 64, fans={"kernel": {"in": [0], "out": [1]}})
    row = plan.ledger["kernel"]
    assert (row.fan_in, row.fan_out, row.role.split()[0], row.expected_std) == (64, 16, "weight", 1 / 8)


def test_fans_that_nothing_tells_are_an_error_that_says_how_to_declare_them():
    with pytest.raises(mf.ConfigError, match=r"kernel of shape \(64, 16\).*declare it beside the layer by fans: \{in: \[1\], out: \[0\]\}"):
        planned("Blind", 64, roles={"weight": "kernel"})


def test_what_nothing_tells_is_said():
    plan = planned("Blind", 64)
    assert any("what kernel is there for is not known" in warning for warning in plan.warnings)


def test_declared_blocks_have_the_fans_of_each():
    row = planned("Packed", 16, blocks={"both.weight": ["query", "key", "value"]}).ledger["both.weight"]
    assert (row.fan_in, row.fan_out) == (16, 8) and {"query", "key", "value"} <= set(row.role.split())
    sized = planned("Packed", 16, blocks={"both.weight": {"query": 16, "key": 4, "value": 4}}).ledger["both.weight"]
    assert sized.fan_out == 16


def test_a_declaration_that_the_run_contradicts_is_told():
    plan = planned("Packed", 16, fans={"both.weight": {"in": [0], "out": [1]}})
    assert plan.ledger["both.weight"].fan_in == 24
    assert any("its fans are declared as in [0], out [1], and its run shows in [1], out [0]" in warning for warning in plan.warnings)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fans", {"in": "0"}, r"model.fans.in: '0' is not a list of axes"),
        ("fans", 3, r"model.fans: 3 is not a mapping"),
        ("blocks", {"both": "query"}, r"model.blocks.both: 'query' is no list of names"),
    ],
)
def test_a_wrong_declaration_is_an_error_with_its_place(key: str, value, message: str):
    with pytest.raises(mf.ConfigError, match=message):
        planned("Packed", 16, **{key: value})


def test_each_copy_of_a_stack_is_orthogonal_by_itself():
    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.head = nn.Parameter(torch.empty(3, 8, 5)), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(torch.einsum("bi,eoi->beo", x, self.weight).sum(1))

    model = Stack()
    mf.initialize(model, {"match": "weight", "scheme": "orthogonal"}, example=torch.zeros(2, 5))
    for matrix in model.weight.detach():
        assert torch.allclose(matrix.T @ matrix, torch.eye(5), atol=1e-5)


def test_roles_are_not_looked_for_before_they_are_asked_for():
    infos = describe(nn.Sequential(nn.Linear(2, 3)))
    assert "reading" not in vars(infos[0].model)
    assert infos[0].roles and "reading" in vars(infos[0].model)
