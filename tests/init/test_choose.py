"""What an author set by hand is left by broad rules, said in a line, and overwritten by rules that name it."""

import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import modelfactory as mf

AUTHOR = {"match": "*", "scheme": "default"}


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELFACTORY_TRUST", __name__)


class Scan(nn.Module):
    """A selective scan's parameters as state-space models set them: steps between .001 and .1, A = -n, D = 1."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.dt = nn.Linear(4, width)
        step = torch.exp(torch.rand(width) * math.log(100) + math.log(0.001)).clamp(min=1e-4)
        self.dt.bias.data = step + torch.log(-torch.expm1(-step))
        self.A_log = nn.Parameter(torch.log(torch.arange(1, 5).float().repeat(width, 1)))
        self.D = nn.Parameter(torch.ones(width))
        self.x, self.head = nn.Linear(width, 8 + 4), nn.Linear(width, 3)

    def forward(self, u: Tensor) -> Tensor:
        low, b, c = self.x(u).split([4, 4, 4], -1)
        step = F.softplus(self.dt(low))
        state = torch.exp(-step[..., None] * self.A_log.exp()) + (step * u)[..., None] * b[..., None, :]
        return self.head((state * c[..., None, :]).sum(-1) + u * self.D)


class Anchors(nn.Module):
    """A detector's two heads; the bias of one is the prior's logit, that of the other 0 as in any broad loop."""

    def __init__(self):
        super().__init__()
        self.body, self.scores, self.boxes = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1), nn.Conv2d(8, 4, 1)
        for layer in (self.body, self.scores, self.boxes):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        self.scores.bias.data.fill_(-math.log((1 - 0.02) / 0.02))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.body(x))
        return torch.cat([self.scores(h), self.boxes(h)], 1).mean((2, 3))


class ZeroHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.head.weight.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(x)))


class Marked(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.fc.weight._no_reinit = True

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(x)))


class Loop(nn.Module):
    """Layers, and a norm of its own, that are initialised in the ordinary way by a loop over them."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm, self.head = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.scale = nn.Parameter(torch.ones(6))
        self.apply(self._init)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.fc(x))
        return self.head(self.scale * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


def planned(kind: type, shape: list[int], rules: Any) -> Any:
    group = rules if isinstance(rules, str) else {"rules": rules}
    return mf.plan({"model": {"_target_": f"{__name__}.{kind.__name__}"}, "data": {"input_shape": shape}, "init": group})


BY_HAND = [
    (Scan, [5, 16], {"dt.bias", "A_log", "D"}),
    (Anchors, [3, 8, 8], {"scores.bias"}),
    (ZeroHead, [6], {"head.weight"}),
    (Marked, [6], {"fc.weight"}),
    (Loop, [6], set()),
]


@pytest.mark.parametrize("kind, shape, by_hand", BY_HAND, ids=[case[0].__name__ for case in BY_HAND])
def test_what_an_author_set_by_hand_has_the_role_authored(kind, shape, by_hand):
    ledger = planned(kind, shape, "kaiming_normal").ledger
    assert {row.name for row in ledger if "authored" in row.role.split()} == by_hand


@pytest.mark.parametrize("kind, shape, by_hand", BY_HAND[:4], ids=[case[0].__name__ for case in BY_HAND[:4]])
@pytest.mark.parametrize("init", ["xavier_normal", "auto", {"all": {"match": "*", "scheme": "zeros"}}], ids=["name", "auto", "all"])
def test_broad_rules_leave_it_and_say_so(kind, shape, by_hand, init):
    author = planned(kind, shape, {"author": AUTHOR}).build()
    plan = planned(kind, shape, init)
    model = plan.build()
    left = {name for name in by_hand if torch.equal(model.get_parameter(name), author.get_parameter(name))}
    assert left == by_hand
    told = {name for name in by_hand if any(f"{name}" in warning and "by hand" in warning for warning in plan.warnings)}
    assert told == (by_hand if isinstance(init, dict) else {name for name in by_hand if name not in ("A_log", "D")})


def test_an_ordinary_init_is_overwritten_whoever_wrote_it():
    plan = planned(Anchors, [3, 8, 8], "kaiming_normal")
    model = plan.build()
    assert float(model.body.weight.detach().std()) == pytest.approx(math.sqrt(2 / 27), rel=0.2)
    assert not planned(Loop, [6], "kaiming_normal").warnings


@pytest.mark.parametrize(
    "rule, told",
    [
        ({"match": "head.weight", "scheme": "ones"}, False),
        ({"match": "head.*", "role": "weight", "scheme": "ones"}, True),
        ({"role": "authored", "scheme": "ones"}, False),
    ],
    ids=["name", "glob", "role"],
)
def test_a_rule_that_names_it_overwrites_it(rule, told):
    plan = planned(ZeroHead, [6], {"author": AUTHOR, "mine": rule, "weights": {"role": "weight", "scheme": "xavier_normal"}})
    assert float(plan.build().head.weight.detach().min()) == 1
    assert any("overwrites head.weight" in warning for warning in plan.warnings) is told


def test_a_rule_beside_the_model_may_name_it():
    target = {"_target_": f"{__name__}.ZeroHead", "init": {"head.weight": "ones"}}
    model = mf.build({"model": target, "data": {"input_shape": [6]}, "init": "xavier_normal"})
    assert float(model.head.weight.detach().min()) == 1


def test_a_model_that_exists_keeps_what_says_no_reinit():
    model = Marked()
    before = model.fc.weight.detach().clone()
    with pytest.warns(UserWarning, match=r"leaves fc\.weight as the author of the model set it by hand"):
        ledger = mf.initialize(model, "xavier_normal")
    assert torch.equal(model.fc.weight, before) and "fc.weight" not in {row.name for row in ledger}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mf.initialize(model, {"match": "fc.weight", "scheme": "zeros"})
    assert not model.fc.weight.any()


def test_the_ledger_promises_what_the_author_writes():
    ledger = planned(Anchors, [3, 8, 8], {"author": AUTHOR}).ledger
    assert (ledger["body.weight"].expected_mean, ledger["body.weight"].expected_std) == (0.0, 0.01)
    assert ledger["scores.bias"].expected_mean == pytest.approx(-math.log(49)) and ledger["scores.bias"].expected_std == 0


class Unwritten(nn.Module):
    """A table that its author forgot to fill, and one of which only some rows are filled."""

    def __init__(self):
        super().__init__()
        self.fc, self.table, self.rows = nn.Linear(6, 3), nn.Parameter(torch.empty(3)), nn.Parameter(torch.empty(4, 3))
        nn.init.normal_(self.rows[:2])

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.table + self.rows.sum(0)


def test_what_nobody_wrote_is_an_error_until_a_rule_fills_it():
    with pytest.raises(mf.ModelFactoryError, match="default leaves table as Unwritten makes it") as error:
        planned(Unwritten, [6], {"author": AUTHOR})
    assert "default leaves rows" in str(error.value)
    rule = {"match": ["table", "rows"], "scheme": "zeros"}
    assert not planned(Unwritten, [6], {"author": AUTHOR, "mine": rule}).build().rows.any()
