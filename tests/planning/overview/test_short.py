"""`modelfactory plan --short`: any model on one screen."""

from __future__ import annotations

import pytest

import modelfactory as mf
from modelfactory.cli.main import main

MODELS = {
    "resnet18": ("backbone=resnet18", "model=linear_head", "data=fake"),
    "densenet121": ("backbone=densenet121", "model=linear_head", "data=fake"),
    "timm": ("backbone=timm", "backbone.name=timm/convnext_atto", "model=linear_head", "data=fake"),
    "gpt": ("model=gpt", "data=bytes"),
    "deep": ("model=deep_mlp", "model.depth=40"),
    "small": ("model=mlp",),
}
SLOW = ("densenet121", "timm")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MODELS])
def test_a_plan_of_any_model_is_on_one_screen(name: str):
    plan = mf.plan(*MODELS[name])
    lines = plan.overview.short(width=120).splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 120
    total = next(line for line in lines if line.startswith("total "))
    assert f"{plan.overview.totals.parameters:,} parameters" in total
    assert any(line.startswith("signal  ok") for line in lines)
    head = lines[0].index("parameters") + len("parameters")
    numbers = [line[:head].split()[-1].replace(",", "") for line in lines[1 : lines.index("")]]
    assert sum(int(number) for number in numbers if number.isdigit()) == plan.overview.totals.parameters


def test_repeats_are_folded():
    text = mf.plan(*MODELS["deep"]).overview.short(width=120)
    assert "hidden.1-39.fc  x 39" in text


def test_a_long_chain_shows_its_beginning_and_its_end():
    widths = {f"fc{'abcdefghijklmnopqrstuvwxyz'[index]}": index + 1 for index in range(26)}
    layers = {name: {"_target_": "torch.nn.Linear", "out_features": size} for name, size in widths.items()}
    lines = mf.plan({"model": {"layers": layers}, "data": {"input_shape": [3]}, "init": "auto"}).overview.short(120).splitlines()
    assert len(lines) <= 24 and "... 9 more" in lines
    assert lines[1].startswith("fca ") and lines[lines.index("") - 1].startswith("fcz ")


def test_the_verdict_and_what_mends_it_have_a_line_each(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "experiment=deep_relu", "init=xavier_normal", "--short"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("signal  vanishing: ") for line in lines)
    assert "fix     init.rules.weights.gain=auto" in lines and "1 warning, told without --short" in lines


def test_without_an_input_it_says_so():
    layers = {"fc": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}}
    assert "signal  not predicted: the config has no data.input_shape" in mf.plan({"model": {"layers": layers}}).overview.short(80)


def test_it_is_of_one_config_and_not_of_all(capsys: pytest.CaptureFixture[str]):
    assert main(["plan", "--short", "--against", "model=cnn"]) == 2
    assert "--short: is of one config" in capsys.readouterr().err
    assert main(["plan", "--short", "--all"]) == 2
    assert "argument --all: not allowed with argument --short" in capsys.readouterr().err
