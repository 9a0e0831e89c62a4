"""What a project adds of its own, without touching the package: each kind is one file of code and at most one of YAML.

A table of what is written, and a test for each that uses it; `docs/architecture.md` names the same kinds.
"""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import modelfactory as mf

ROOT = Path(mf.__file__).parents[1]
QUICK = ("trainer=debug", "trainer.device=cpu", "trainer.progress=none", "trainer.signal=none", "model.width=8")


@dataclass(frozen=True)
class Addition:
    """The files of one kind of addition: one of code, and one of YAML or none."""

    file: str
    code: str
    yaml: str = ""
    text: str = ""

    @property
    def lines(self) -> int:
        return sum(bool(line.strip()) for line in [*self.code.splitlines(), *self.text.splitlines()])


ADDITIONS = {
    "scheme": Addition(
        "added/fills.py",
        """
import torch

def triangle_(tensor, half_width=0.1, generator=None):
    one, other = (torch.rand(tensor.shape, generator=generator) for _ in range(2))
    return tensor.copy_(half_width * (one - other))
""",
        "init/triangle.yaml",
        """
rules:
  weights: {role: weight, scheme: added.fills.triangle_, half_width: 0.2}
  biases: {role: bias, scheme: zeros}
  norms: {role: norm, scheme: ones, optional: true}
""",
    ),
    "role": Addition(
        "added/mixer.py",
        """
from torch import nn

class Mixer(nn.Module):
    modelfactory_roles = {"modulation": "turn"}

    def __init__(self, features=6):
        super().__init__()
        self.turn, self.out = nn.Linear(features, features), nn.Linear(features, 3)

    def forward(self, x):
        return self.out(x * self.turn(x))
""",
    ),
    "propagation rule": Addition(
        "added/turning.py",
        """
from modelfactory.signal_propagation.rules.base import PropagationRule
from modelfactory.signal_propagation.rules.reshape import same_backward, same_forward
from modelfactory.signal_propagation.rules.table import RULES
RULES["rot90"] = PropagationRule(same_forward, same_backward)
""",
    ),
    "backbone library": Addition(
        "added/zoo.py",
        """
from torch import nn

def create(name, features=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, features), {"zoo_relu": nn.ReLU, "zoo_tanh": nn.Tanh}[name]())
""",
        "backbone/zoo.yaml",
        """
layers:
  net: {_target_: added.zoo.create, name: zoo_relu}
""",
    ),
    "data set": Addition(
        "added/waves.py",
        """
import torch
from torch.utils.data import TensorDataset

def waves(samples=64):
    x = torch.sin(torch.arange(samples * 10.0)).view(samples, 10)
    y = (x[:, 0] > 0).long()
    return TensorDataset(x[8:], y[8:]), TensorDataset(x[:8], y[:8])
""",
        "data/waves.yaml",
        """
_target_: added.waves.waves
input_shape: [10]
num_classes: 2
batch_size: 16
seed: 0
""",
    ),
    "launcher": Addition(
        "hydra_plugins/noisy_launcher.py",
        """
from hydra._internal.core_plugins.basic_launcher import BasicLauncher

class Noisy(BasicLauncher):
    def launch(self, job_overrides, initial_job_idx):
        print(f"launching {len(job_overrides)} jobs")
        return super().launch(job_overrides, initial_job_idx)
""",
        "hydra/launcher/noisy.yaml",
        """
_target_: hydra_plugins.noisy_launcher.Noisy
""",
    ),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with all additions in the package `added`, which is trusted, and their YAML in conf/."""
    for addition in ADDITIONS.values():
        for place, text in ((addition.file, addition.code), (f"conf/{addition.yaml}", addition.text)):
            if text:
                (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / place).write_text(text.lstrip())
    (tmp_path / "added" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MODELFACTORY_TRUST", "added,hydra_plugins.noisy_launcher")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "added"]:
        del sys.modules[name]


def compose(project: Path, *words: str) -> Any:
    return mf.compose(*words, config_dir=project / "conf")


def test_every_addition_is_short():
    assert {name: addition.lines < 15 for name, addition in ADDITIONS.items()} == dict.fromkeys(ADDITIONS, True)
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert [name for name in ADDITIONS if f"| a {name} |" not in page] == []


def test_a_scheme_fills_the_weights(project: Path):
    built = mf.plan(compose(project, "init=triangle", "model.width=256")).materialize()
    row = built.ledger["fc1.weight"]
    assert row.scheme == "added.fills.triangle_" and row.std == pytest.approx(0.2 / 6**0.5, rel=0.05)


def test_a_role_is_picked_by_rules(project: Path):
    rules = {"a": {"match": "*", "scheme": "normal", "std": 0.1}, "m": {"role": "modulation", "scheme": "zeros"}}
    config = {"model": {"_target_": "added.mixer.Mixer"}, "data": {"input_shape": [6]}, "init": {"rules": rules}}
    model = mf.build(config)
    assert not model.turn.weight.any() and model.out.weight.all()


class Turning(torch.nn.Sequential):
    """Turns pictures upside down between two convolutions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[1](torch.rot90(self[0](x), 2, (2, 3)))


def test_a_propagation_rule_predicts_a_call(project: Path):
    from modelfactory.signal_propagation.rules.table import RULES

    net = Turning(*(torch.nn.Conv2d(units, 64, 1) for units in (3, 64)))
    mf.initialize(net, "lecun_normal")
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert math.isnan(row_of(net, x, "0").predicted.gradient)
    try:
        importlib.import_module("added.turning")
        row = row_of(net, x, "0")
        assert row.predicted.gradient == pytest.approx(row.measured.gradient, rel=0.1)
    finally:
        RULES.pop("rot90", None)


def row_of(net: torch.nn.Module, x: torch.Tensor, layer: str) -> Any:
    return next(row for row in mf.signal(net, x).rows if row.layer == layer)


def test_a_backbone_of_another_library_stands_before_the_head(project: Path):
    model = mf.build(compose(project, "model=linear_head", "backbone=zoo", "init=kaiming_normal"))
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_data_set_trains(project: Path):
    assert mf.train(compose(project, "data=waves", *QUICK)).final["epoch"] == 1


def test_a_launcher_launches_a_sweep(project: Path):
    words = ("-m", "-cd", "conf", "hydra/launcher=noisy", "seed=0,1", "hydra.sweep.dir=sweep", "sweep.batch=off", *QUICK)
    variables = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{project}"}
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), *words], cwd=project, env=variables, capture_output=True, text=True)
    assert done.returncode == 0 and "launching 2 jobs" in done.stdout and "2 of 2 jobs completed" in done.stdout, done.stdout + done.stderr
