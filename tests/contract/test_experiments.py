"""Experiments tell what the papers tell: shortened, and each by the command that a person types."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

import modelfactory as mf
from modelfactory.api.run import check
from modelfactory.cli.main import main
from modelfactory.config.errors import TrainingError
from modelfactory.reporting.papers.auto_tasks import Task, verdicts
from modelfactory.reporting.papers.conclude import conclude
from modelfactory.reporting.papers.outcome import PaperFinding
from modelfactory.reporting.stats import Sample
from modelfactory.sweeping.experiment import FIGURES

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("trainer.progress=none", "trainer.device=cpu", "sweep.isolate=false")


def numbers(name: str, folder: Path, *overrides: str) -> dict[str, float]:
    """What the experiment's paper.csv has, by what it is; NaN for "never"."""
    assert main(["train", f"experiment={name}", f"hydra.sweep.dir={folder}", *SHORT, *overrides]) == 0
    assert (folder / "paper.png").read_bytes().startswith(b"\x89PNG")
    rows = list(csv.DictReader((folder / "paper.csv").read_text().splitlines()))
    assert rows and list(rows[0]) == ["what", "reference", "found"]
    return {row["what"]: math.nan if row["found"] == "never" else float(row["found"]) for row in rows}


@pytest.mark.slow
def test_thirty_layers_of_rectifiers_learn_by_he_and_not_by_glorot(tmp_path):
    found = numbers("he2015_30_layers", tmp_path / "sweep", "model.depth=30", "seed=0", "trainer.max_epochs=8")
    assert found["30 layers, kaiming_normal: training loss at the end"] < 2.1
    assert found["30 layers, kaiming_normal: validation accuracy, best"] > 0.25
    assert found["30 layers, xavier_normal: training loss at the end"] == pytest.approx(math.log(10), abs=0.005)
    assert found["30 layers, xavier_normal: validation accuracy, best"] < 0.2


@pytest.mark.slow
def test_signal_and_gradient_spread_as_glorot_and_bengio_saw(tmp_path):
    found = numbers("glorot2010", tmp_path / "sweep", "trainer.max_epochs=1", "trainer.limit_batches=1")
    for scheme, expected in (("fan_in_uniform", (0.46, 0.05, 0.083)), ("xavier_uniform", (0.63, 0.32, 0.41))):
        what = ("activation std, layer 1", "activation std, layer 5", "gradient std, layer 1 over layer 5")
        assert [found[f"{scheme}: {each}"] for each in what] == pytest.approx(expected, rel=0.08)


@pytest.mark.slow
def test_a_deep_linear_net_that_starts_orthogonal_takes_as_long_at_any_depth(tmp_path):
    nets = "model={depth:2,learning_rate:1.333},{depth:29,learning_rate:0.1333}"
    found = numbers("saxe2014", tmp_path / "sweep", nets, "trainer.max_epochs=30")
    steps = {
        (name, depth): found[f"{name}, depth {depth}: steps to 0.01 of the variance"]
        for name in ("orthogonal", "Gaussian, 1/n_in")
        for depth in (3, 30)
    }
    assert 5 <= steps["orthogonal", 3] <= 11 and abs(steps["orthogonal", 30] - steps["orthogonal", 3]) <= 3
    assert steps["Gaussian, 1/n_in", 3] > steps["orthogonal", 3] and math.isnan(steps["Gaussian, 1/n_in", 30])


@pytest.mark.slow
def test_a_hundred_tanh_convolutions_learn_by_delta_orthogonal_and_not_by_gaussian(tmp_path):
    found = numbers("xiao2018", tmp_path / "sweep", "seed=1", "trainer.max_epochs=2")
    assert found["delta_orthogonal: training loss at the end"] < 2.0
    assert found["Gaussian of the same variance: training loss at the end"] > 2.15  # ln 10 = 2.303


@pytest.mark.slow
def test_residual_nets_without_norms_learn_by_fixup_at_any_depth(tmp_path):
    found = numbers("fixup2019", tmp_path / "sweep", "model.depth=20", "trainer.max_epochs=3")
    assert found["40 layers in branches, fixup: validation accuracy, best"] > 0.8
    assert found["40 layers in branches, kaiming_normal: training loss at the end"] > 100


@pytest.mark.slow
def test_what_a_step_changes_grows_with_the_width_unless_muP_sets_values_and_rates(tmp_path):
    found = numbers("mup2022", tmp_path / "sweep", "init=mup", "model.width=64,512")
    assert abs(found["muP: largest exponent of the width, over layers"]) < 0.1
    assert found["muP's initial values alone: largest exponent of the width, over layers"] > 0.3


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")))
def test_every_experiments_config_is_right(name):
    check(mf.compose(f"experiment={name}"))


def test_every_figure_has_an_experiment_that_asks_for_it():
    asked = {
        mf.compose(f"experiment={path.stem}").get("experiment", {}).get("figure") for path in (ROOT / "conf" / "experiment").glob("*.yaml")
    }
    assert set(FIGURES) == asked - {None}


def test_a_run_that_asks_for_no_figure_gets_none(tmp_path):
    mf.train(mf.compose("trainer=debug", "trainer.device=cpu", "trainer.progress=none"), run_dir=tmp_path)
    assert conclude(tmp_path) is None
    assert not (tmp_path / "paper.png").exists()


def test_runs_that_are_not_all_there_are_not_compared(tmp_path):
    cfg = mf.compose("trainer=debug", "trainer.device=cpu", "trainer.progress=none", "+experiment.figure=he2015")
    mf.train(cfg, run_dir=tmp_path)
    result = tmp_path / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"status": "failed", "error": "out of luck"}))
    with pytest.raises(TrainingError, match=r"not all there: job 0 is failed \(out of luck\)"):
        conclude(tmp_path)


def test_a_figure_that_is_not_for_such_runs_says_why(tmp_path, capsys):
    cfg = mf.compose("trainer=debug", "trainer.device=cpu", "trainer.progress=none", "model=mlp", "+experiment.figure=he2015")
    mf.train(cfg, run_dir=tmp_path)
    assert main(["report", str(tmp_path)]) == 1
    assert "tells runs apart by model.depth, which a run's config does not have" in capsys.readouterr().err
    assert not (tmp_path / "paper.png").exists()


def test_what_is_never_reached_says_so():
    assert PaperFinding("steps", "12", None).cell == "never" and PaperFinding("steps", "12", 0.0).cell == "0"


def test_auto_is_compared_task_by_task(tmp_path):
    words = ("model=mlp", "model.width=32", "optimizer.lr=0.01,0.02", "init=auto,zeros", "trainer.max_epochs=1")
    found = numbers("auto_tasks", tmp_path / "sweep", *words)
    assert [what.partition(":")[0] for what in found] == ["optimizer.lr=0.01", "optimizer.lr=0.02"]
    assert all("better against the best, zeros" in what for what in found), found


def test_one_test_of_many_tasks_is_corrected():
    pairs = [Sample(8, -1.0, 1.1), Sample(8, 0.9, 0.5), Sample(8, 0.0, 1.0), Sample(1, 1.0, math.nan)]
    assert verdicts([Task(str(index), {}, "x", pair) for index, pair in enumerate(pairs)]) == ["not told", "worse", "not told", "not told"]
    assert verdicts([Task("alone", {}, "x", pairs[0])]) == ["better"]
