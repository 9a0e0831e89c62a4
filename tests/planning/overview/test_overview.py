"""What a plan shows: sums that are those of the model built, lines that are few, and a page that is no wider than asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.training.optimizer import build_optimizer
from modelfactory.training.training_spec import training_spec


def compose(*overrides: str):
    """A config with kaiming_normal where no initialisation is named."""
    named = any(override.startswith("init=") for override in overrides)
    return mf.compose(*([] if named else ["init=kaiming_normal"]), *overrides)


def layer(name: str, **arguments) -> dict:
    return {"_target_": name if "." in name else f"torch.nn.{name}", **arguments}


def torchvision(name: str, **more) -> dict:
    return {"model": layer(f"torchvision.models.{name}"), "data": {"input_shape": [3, 64, 64]}, "init": "kaiming_normal", **more}


@pytest.mark.parametrize("overrides", [("model=cnn",), ("model=vit", "model.depth=2"), ("model=lstm",), ("model=resnet",)], ids=str)
def test_the_sums_are_those_of_the_model_built(overrides: tuple[str, ...]):
    plan = mf.plan(compose(*overrides))
    totals, model = plan.overview.totals, plan.build()
    assert totals.parameters == totals.trainable == sum(parameter.numel() for parameter in model.parameters())
    assert totals.weights == totals.gradients == sum(parameter.nbytes for parameter in model.parameters())
    assert totals.buffers == sum(buffer.nbytes for buffer in model.buffers())
    assert sum(one.parameters for one in plan.overview.layers) == totals.parameters
    assert sum(one.memory for one in plan.overview.layers) == totals.weights + totals.buffers
    assert sum(rule.numbers for rule in plan.overview.rules) == totals.parameters


def test_output_shapes_are_those_of_a_real_forward():
    config = compose("model=resnet", "model.blocks=1")
    plan, shapes = mf.plan(config), {}
    model = plan.build()
    for name, module in model.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: shapes.__setitem__(name, ["N", *output.shape[1:]]))
    model(torch.zeros(2, 1, 8, 8))
    assert {one.name: one.output for one in plan.overview.layers} == {one.name: shapes[one.name] for one in plan.overview.layers}


OPTIMIZERS = {
    "AdamW": {"amsgrad": True},
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "Adafactor": {},
    "ASGD": {},
    "RMSprop": {"centered": True},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizers_state_is_what_it_has_after_a_step(name: str):
    groups = {"plain": {"match": "conv1.*", "weight_decay": 0.1}, "still": {"match": "conv2.weight", "lr_scale": 0.0}}
    optimizer = {"_target_": f"torch.optim.{name}", **OPTIMIZERS[name], "groups": groups}
    frozen = {"rules": {"a": {"match": "norm1.*"}}}
    config = {**compose("model=cnn"), "init": "default", "freeze": frozen, "optimizer": optimizer}
    plan = mf.plan(config)
    model = plan.build()
    real = build_optimizer(training_spec(optimizer).optimizer, model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    real.step()
    state = [value for values in real.state.values() for value in values.values() if isinstance(value, torch.Tensor)]
    assert plan.overview.totals.optimizer == sum(value.nbytes for value in state)
    assert plan.overview.totals.trainable < plan.overview.totals.parameters


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("overrides", [("model=vit",), ("model=resnet",), ("model=lstm", "init=sparse")], ids=str)
def test_no_line_is_wider_than_the_page(overrides: tuple[str, ...], width: int):
    text = mf.plan(compose(*overrides, "+init.rules.rest={match: '*', scheme: default}")).overview.text(width=width)
    assert max(map(len, text.splitlines())) <= width or width < 110  # the sums are sentences, of at most 110 columns
    assert max(len(line) for block in text.split("\n\n")[:1] for line in block.splitlines()) <= width


def deep(depth: int) -> dict:
    body = {"fc": layer("Linear", out_features=6), "act": layer("ReLU")}
    layers = {"hidden": {"repeat": depth, "layers": body}, "head": layer("Linear", out_features=2)}
    return {"model": {"layers": layers}, "data": {"input_shape": [6]}, "init": "kaiming_normal"}


def test_a_thousand_layers_that_are_alike_are_shown_once_and_all_of_them_on_demand():
    plan = mf.plan(deep(1000))
    text = str(plan)
    assert len(text.splitlines()) < 100
    assert "hidden.0-999  x 1,000" in text
    every = plan.overview.text(every=True)
    assert len(every.splitlines()) > 4000 and "  999" in every and ".bias" in every
    assert f"{1000 * 42 + 14:,} in 2,002 tensors" in text


def test_what_alternates_is_shown_once_and_what_differs_is_not():
    plan = mf.plan({**deep(1), "model": {"_target_": "tests.planning.overview.test_overview.Alternating"}})
    lines = [line.split("  ")[0] for line in str(plan).split("\n\n")[0].splitlines()]
    assert lines == ["layer", "0,2,..,10", "1,3,..,11", "12", "13"]


class Alternating(nn.Sequential):
    def __init__(self):
        super().__init__(*[part for _ in range(6) for part in (nn.Linear(6, 6), nn.ReLU())], nn.Linear(6, 4), nn.Linear(4, 4))


@pytest.fixture(autouse=True)
def trusting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MODELFACTORY_TRUST", "tests")


class Choosing(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.before(x)
        return self.after(x if x.sum() > 0 else -x)


def test_a_forward_that_needs_values_can_be_planned_and_what_is_not_known_is_said():
    config = {**deep(1), "model": {"_target_": "tests.planning.overview.test_overview.Choosing"}}
    plan = mf.plan(config)
    text = str(plan)
    assert "the forward cannot be followed without values" in text and "at least 72 forward" in text
    assert [(one.name, one.flops) for one in plan.overview.layers] == [("before", 72), ("after", None)]
    assert plan.build()(torch.ones(2, 6)).shape == (2, 2)
    inside = {"model": {"layers": {"own": config["model"], "head": layer("Linear", in_features=2, out_features=3)}}}
    assert mf.plan({**config, **inside}).overview.totals.parameters == 65


def test_without_an_input_shape_costs_are_not_known_and_it_is_said():
    config = {"model": {"layers": {"fc": layer("Linear", in_features=3, out_features=2)}}, "init": "default"}
    overview = mf.plan(config).overview
    assert overview.totals.flops is None and "no data.input_shape" in str(overview) and "?" in str(overview)


def test_attention_is_one_layer_with_all_of_its_projections():
    plan = mf.plan({"model": layer("torchvision.models.vit_b_32"), "data": {"input_shape": [3, 224, 224]}, "init": "xavier_normal"})
    (attention,) = (one for one in plan.overview.layers if one.name == "encoder.layers.encoder_layer_3.self_attention")
    assert [row.name.rpartition("self_attention.")[2] for row in attention.rows] == [
        "in_proj_weight",
        "in_proj_bias",
        "out_proj.weight",
        "out_proj.bias",
    ]
    assert attention.flops == 2 * 50 * 768 * 768 * 4 + 2 * 2 * 50 * 50 * 768


def test_the_json_has_what_is_documented_and_every_parameter():
    plan = mf.plan(compose("model=cnn"))
    text = json.dumps(plan.to_dict(), allow_nan=False)
    found = json.loads(text)
    assert list(found) == ["schema", "layers", "parameters", "rules", "totals", "signal", "signal_verdict", "unknown", "notes", "warnings"]
    assert [row["name"] for row in found["parameters"]] == [name for name, _ in plan.build().named_parameters()]
    first = found["layers"][0]
    assert first["name"] == "conv1" and first["output_shape"] == ["N", 32, 8, 8] and first["flops"] == 2 * 9 * 32 * 64


SEVEN_BILLION = (
    "model=vit",
    "data=fake",
    "data.input_shape=[3,224,224]",
    "model.patch=14",
    "model.width=4096",
    "model.heads=32",
    "model.depth=35",
    "model.layers.blocks.layers.mlp.layers.fc1.out_features=16384",
)


# the peak of this process alone (ru_maxrss holds that of the process that started it, too), without the pages of torch's
# library files, of which the system keeps more or fewer in memory
PEAK = """
import pathlib, resource
status_file = pathlib.Path("/proc/self/status")
lines = status_file.read_text().splitlines() if status_file.exists() else []
sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmHWM", "RssFile"))}
peak = sizes["VmHWM"] - sizes["RssFile"] if len(sizes) == 2 else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(sizes)
"""


def test_a_plan_of_seven_billion_parameters_stays_under_a_gibibyte():
    code = f"import sys\nfrom modelfactory.cli.main import main\nstatus = main(['plan', *{SEVEN_BILLION!r}])\n{PEAK}\n"
    code += "print(status, 'torch._dynamo' in sys.modules, peak)"
    page = {**os.environ, "COLUMNS": "120"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=page)
    status, dynamo, kibibytes = done.stdout.splitlines()[-1].split()
    assert (status, dynamo) == ("0", "False") and int(kibibytes) < 2**20, done.stdout[-300:]
    (parameters,) = (line for line in done.stdout.splitlines() if line.startswith("parameters "))
    assert int(parameters.split()[1].replace(",", "")) > 7e9
    assert len(done.stdout.splitlines()) < 110


def test_a_rule_that_later_ones_take_everything_from_is_named_with_them():
    plan = mf.plan(compose("+init.rules.late={match: ['fc*.weight', head.weight], scheme: orthogonal}"))
    (warning,) = plan.overview.warnings
    assert "init.rules.weights sets nothing: init.rules.late wins over it for all that it picks (fc1.weight and 2 more)" in warning
    assert warning.mend == "~init.rules.weights" and warning.mend in str(plan)
    mended = mf.plan(compose("+init.rules.late={match: ['fc*.weight', head.weight], scheme: orthogonal}", warning.mend))
    assert not mended.overview.warnings
    assert not mf.plan(compose()).overview.warnings  # `author` is optional: it may set nothing


def test_a_signal_that_vanishes_is_told_with_an_init_by_which_it_does_not():
    words = ("model=deep_mlp", "model.depth=30", "model.width=64")
    plan = mf.plan(compose(*words, "init=xavier_normal", "init.rules.weights.gain=1"))
    assert plan.overview.signal.verdict == "vanishing"
    (warning,) = plan.overview.warnings
    assert "the signal vanishes" in warning
    assert warning.mend == "init.rules.weights.gain=auto"
    mended = mf.plan(compose(*words, "init=xavier_normal", warning.mend))
    assert mended.overview.signal.verdict not in ("vanishing", "exploding") and not mended.overview.warnings
    rows = {row["layer"]: row for row in plan.to_dict()["signal"]}
    assert rows["hidden.20.fc"]["forward"] < 1e-2 < rows["hidden.0.fc"]["forward"]
    assert len(str(plan).split("predicted signal")[1].splitlines()) < 32  # a part of the 61 rows
    assert len(plan.overview.text(every=True).split("predicted signal")[1].splitlines()) > 61


def test_where_no_gain_is_given_another_init_is_named_that_is_predicted_to_mend():
    words = ("model=deep_mlp", "model.depth=30", "model.width=64")
    (warning,) = mf.plan(compose(*words, "init=normal")).overview.warnings
    assert warning.mend == "init=auto"
    assert not mf.plan(compose(*words, warning.mend)).overview.warnings


def test_a_builders_norms_are_predicted_in_the_mode_that_they_train_in():
    config = {"model": {"_target_": "torchvision.models.resnet18"}, "data": {"input_shape": [3, 64, 64]}, "init": "kaiming_normal"}
    plan = mf.plan(config)
    norms = [row for row in plan.overview.signal.rows if row.label == "BatchNorm2d"]
    assert len(norms) == 20
    assert all(row.predicted.forward == pytest.approx(1, rel=1e-3) for row in norms)
