"""A search with Optuna: what is swept becomes trials, the sweep is the study, and it goes on where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from modelfactory.sweeping.records import read_sweep
from modelfactory.training.status import RESULT
from tests.sweeping.conftest import QUICK, TROUBLE, results

optuna = pytest.importorskip("optuna")
SPACE = ("optimizer.lr=tag(log,interval(0.001,0.1))", "init=orthogonal,xavier_normal", "init.rules.weights.gain=interval(0.5,2)")
SEARCH = (*SPACE, *QUICK, "hydra/sweeper=optuna")


def tried(root: Path) -> list[tuple[str, ...]]:
    return [job.overrides for job in read_sweep(root).jobs]


def test_a_search_goes_on_where_it_was(sweep, tmp_path: Path):
    status, out, _ = sweep(*SEARCH, "hydra.sweeper.n_trials=3")
    assert status == 0
    first, told = results(tmp_path / "sweep"), tried(tmp_path / "sweep")
    assert len(set(told)) == 3
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    assert best["best_value"] == min(record["best"]["val_loss"] for record in first.values())
    assert set(best["best_params"]) == {"optimizer.lr", "init", "init.rules.weights.gain"}
    (tmp_path / "sweep" / "2" / RESULT).unlink()  # as if it had been interrupted there
    status, _, _ = sweep(*SEARCH, "hydra.sweeper.n_trials=4", "sweep.resume=sweep")
    again = results(tmp_path / "sweep")
    assert status == 0 and list(again) == [0, 1, 2, 3]
    assert tried(tmp_path / "sweep")[:3] == told
    assert [again[number] for number in (0, 1)] == [first[number] for number in (0, 1)]


def test_a_trial_that_fails_ends_no_search(sweep, tmp_path: Path):
    search = ("optimizer.lr=interval(0.01,0.1)", f"+data.once={tmp_path}/once", "+data.how=kill", *TROUBLE, *QUICK)
    status, _, _ = sweep(*search, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler=random")
    assert (status, [job.status for job in read_sweep("sweep").jobs]) == (1, ["killed", "completed"])


def test_a_sampler_that_there_is_not_is_an_error(sweep, tmp_path: Path):
    status, _, err = sweep(*SEARCH, "hydra.sweeper.sampler=tp")
    assert (status, list(tmp_path.iterdir())) == (2, [])
    assert "hydra.sweeper.sampler: 'tp' is not a sampler; did you mean 'tpe'?" in err
