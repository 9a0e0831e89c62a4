"""Groups of jobs in a sweep: the plan is told, a crash costs a retry alone, and launchers run groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelfactory.sweeping.records import read_sweep
from tests.sweeping.conftest import QUICK, TROUBLE, results


def test_a_group_is_one_task_and_each_of_its_jobs_is_told(sweep, tmp_path: Path):
    words = ("seed=0,1,2", "data.batch_size=32,64", *QUICK, "sweep.batch=3")
    status, out, err = sweep(*words)
    assert status == 0, err
    assert "6 jobs are trained in 2 groups: 0, 2, 4; 1, 3, 5" in out and "6 of 6 jobs completed" in err + out
    records = results(tmp_path / "sweep")
    assert len({record["pid"] for record in records.values()}) == 2
    for number in range(6):
        names = {path.name for path in (tmp_path / "sweep" / str(number)).iterdir()}
        assert {".hydra", "train.log", "config.yaml", "ledger.csv", "metrics.csv", "model.safetensors", "checkpoint"} <= names
        assert f"seed={number // 2}" in (tmp_path / "sweep" / str(number) / ".hydra" / "overrides.yaml").read_text()
    status, out, _ = sweep(*words, "sweep.resume=sweep")
    assert status == 0 and results(tmp_path / "sweep") == records


def test_a_crash_costs_the_jobs_of_a_group_one_retry_alone_and_each_is_named(sweep, tmp_path: Path):
    once = f"+data.once={tmp_path / 'once'}"
    status, out, err = sweep("seed=0,1", "+data.how=kill", once, *TROUBLE, *QUICK, "sweep.batch=2")
    assert status == 0, err
    assert "jobs 0-1: its process was killed by SIGKILL; each of 0-1 is run once more, alone" in out
    assert [job.status for job in read_sweep("sweep").jobs] == ["completed"] * 2
    assert len({record["pid"] for record in results(tmp_path / "sweep").values()}) == 2


def test_a_crash_that_comes_again_is_that_of_each_job(sweep):
    status, _, err = sweep("seed=0,1", "+data.how=kill", *TROUBLE, *QUICK, "sweep.batch=2")
    assert status == 1
    for job in read_sweep("sweep").jobs:
        assert (job.status, job.reason) == ("killed", "its process was killed by SIGKILL")
        assert f"error: job {job.number} (seed={job.number}): killed" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("sweep.batch=off",), ""),
        (("sweep.on_error=stop",), "jobs 0-1 are trained alone: sweep.on_error is stop"),
        (("trainer.precision=bf16",), "jobs 0-1 are trained alone: trainer.precision is bf16"),
        (("model=cnn", "~model.layers.head"), "jobs 0-1 are trained alone: no layer with parameters is one that stacks: conv1 (Conv2d)"),
    ],
    ids=str,
)
@pytest.mark.slow
def test_what_is_not_trained_together_is_told(sweep, words: tuple[str, ...], told: str):
    _, out, _ = sweep("seed=0,1", *QUICK, "sweep.batch=2", *words)
    assert told in out and "trained together" not in out


@pytest.mark.slow
def test_a_launcher_that_runs_jobs_side_by_side_runs_groups(sweep, tmp_path: Path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    status, out, err = sweep("seed=range(4)", *QUICK, "sweep.batch=4", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert status == 0, err
    assert "4 jobs are trained in 2 groups: 0-1; 2-3" in out
    assert len({record["pid"] for record in results(tmp_path / "sweep").values()}) == 2


def test_without_processes_of_their_own_groups_train_all_the_same(sweep):
    status, out, err = sweep("seed=0,1", *QUICK, "sweep.batch=2", "sweep.isolate=false")
    assert status == 0, err
    assert "jobs 0-1 are trained together" in out


@pytest.mark.parametrize("value", ["0", "-1", "atuo", "true", "1.5"])
def test_a_wrong_number_of_jobs_is_an_error(sweep, tmp_path: Path, value: str):
    status, _, err = sweep("seed=0,1", *QUICK, f"sweep.batch={value}")
    assert (status, list(tmp_path.iterdir())) == (2, []) and "sweep.batch:" in err
