"""The maximal update parametrisation: variances and learning rates by width, and what they are for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import modelfactory as mf
from modelfactory.api.run import check
from modelfactory.config.compose import to_plain
from modelfactory.training.optimizer import build_optimizer
from modelfactory.training.training_spec import training_spec


def config(width: int, *more: str) -> dict:
    return to_plain(mf.compose(f"model.width={width}", "init=mup", "optimizer=adam_mup", *more))


def lrs(width: int) -> dict[str, float]:
    cfg = config(width)
    model = mf.build(cfg)
    optimizer = build_optimizer(training_spec(cfg["optimizer"]).optimizer, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}


def test_learning_rates_of_hidden_and_output_weights_go_down_with_the_width_and_others_do_not():
    found = lrs(256)
    assert found == pytest.approx(
        {"fc1.weight": 1e-3, "fc1.bias": 1e-3, "fc2.weight": 1e-3 / 4, "fc2.bias": 1e-3, "head.weight": 1e-3 / 4, "head.bias": 1e-3}
    )
    assert set(lrs(64).values()) == {1e-3}


def test_groups_are_told_in_the_ledger():
    ledger = mf.plan(config(256)).ledger
    assert {row.name: row.group for row in ledger} | {"fc1.bias": "default"} == {
        "fc1.weight": "default",
        "fc1.bias": "default",
        "fc2.weight": "hidden.width256",
        "fc2.bias": "default",
        "head.weight": "head.width256",
        "head.bias": "head",
    }


def test_widths_and_learning_rates_are_those_of_the_package_mup():
    package = pytest.importorskip("mup")

    def net(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), package.MuReadout(width, 10))

    model = net(256)
    package.set_base_shapes(model, net(64), delta=net(128))
    optimizer = package.MuAdam(model.parameters(), lr=1e-3)
    theirs = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    ours = lrs(256)
    assert ours["fc1.weight"] == pytest.approx(theirs[id(model[0].weight)])
    assert ours["fc2.weight"] == pytest.approx(theirs[id(model[2].weight)])
    # MuReadout divides its input by m and has weights that do not know the width: their quotient is what we draw
    plan = mf.plan(config(256))
    assert plan.ledger["head.weight"].expected_std == pytest.approx(64**-0.5 / model[4].width_mult())


def moved(width: int, init: str, optimizer: str) -> float:
    """The rms change of the logits in four steps on one batch, for a fixed learning rate."""
    cfg = to_plain(mf.compose(f"model.width={width}", f"init={init}", f"optimizer={optimizer}", "optimizer.lr=0.01"))
    model = mf.build(cfg)
    x, y = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10
    before = copy.deepcopy(model)(x).detach()
    steps = build_optimizer(training_spec(cfg["optimizer"]).optimizer, model)
    for _ in range(4):
        steps.zero_grad()
        F.cross_entropy(model(x), y).backward()
        steps.step()
    return (model(x).detach() - before).square().mean().sqrt().item()


def test_a_step_moves_the_logits_alike_at_any_width_and_does_not_without_it():
    """The coordinate check of Yang et al. 2022."""
    narrow, wide = 64, 1024
    assert moved(wide, "mup", "adam_mup") / moved(narrow, "mup", "adam_mup") < 2
    assert moved(wide, "kaiming_normal", "adam") / moved(narrow, "kaiming_normal", "adam") > 4


@pytest.mark.parametrize("value", [0, -3, "64"])
def test_a_base_width_is_a_number_above_0(value):
    cfg = config(64)
    cfg["optimizer"]["groups"]["hidden"]["base_width"] = value
    with pytest.raises(mf.ConfigError, match="optimizer.groups.hidden.base_width: "):
        check(cfg)
