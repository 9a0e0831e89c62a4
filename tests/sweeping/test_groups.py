"""Groups of jobs in a sweep: the plan is told, a crash costs a retry alone, and launchers run groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from modelfactory.config.hydra_patches import OF_1_4
from modelfactory.sweeping import process
from modelfactory.sweeping.parts import POSSIBLE
from modelfactory.sweeping.records import read_sweep
from tests.sweeping.conftest import QUICK, TROUBLE, results


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs of a group are in one process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_group_is_one_task_and_each_of_its_jobs_is_told(sweep, tmp_path: Path, one_core: None):
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


def test_a_crash_costs_the_jobs_of_a_group_one_retry_alone_and_each_is_named(sweep, tmp_path: Path, one_core: None):
    once = f"+data.once={tmp_path / 'once'}"
    status, out, err = sweep("seed=0,1", "+data.how=kill", once, *TROUBLE, *QUICK, "sweep.batch=2")
    assert status == 0, err
    assert "jobs 0-1: its process was killed by SIGKILL; each of 0-1 is run once more, alone" in out
    assert [job.status for job in read_sweep("sweep").jobs] == ["completed"] * 2
    assert len({record["pid"] for record in results(tmp_path / "sweep").values()}) == 2


@pytest.mark.skipif(not POSSIBLE or (os.cpu_count() or 1) < 2, reason="there is one core")
def test_a_process_on_each_core_trains_a_part_of_a_group(sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And what crashes takes the others of its part alone with it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(process, "_server", None)  # one that was started under other variables has other threads
    once = f"+data.once={tmp_path / 'once'}"
    status, out, err = sweep("seed=0,1,2,3", "+data.how=kill", once, *TROUBLE, *QUICK, "sweep.batch=4")
    assert status == 0, err
    assert "in 2 processes side by side" in (tmp_path / "sweep" / "0" / "train.log").read_text()
    parts = ("0-1", "2-3")
    assert any(f"jobs 0-3: its process was killed by SIGKILL; each of {part} is run once more, alone" in out for part in parts)
    assert [job.status for job in read_sweep("sweep").jobs] == ["completed"] * 4
    assert len({record["pid"] for record in results(tmp_path / "sweep").values()}) == 3


def test_the_folder_that_hydra_leaves_of_a_job_is_that_of_a_job_alone(sweep, tmp_path: Path):
    found = []
    for batch in ("sweep.batch=2", "sweep.batch=off"):
        status, _, err = sweep("seed=0,1", "hydra.sweep.subdir=${hydra.job.override_dirname}", "data.split_seed=1", *QUICK, batch)
        assert status == 0, err
        files = {}
        for name in ("config", "hydra", "overrides"):
            for number in range(2):
                (file,) = (tmp_path / "sweep").glob(f"*,seed={number},*/.hydra/{name}.yaml")
                files[name, number] = yaml.safe_load(file.read_text())
        for number in range(2):
            del files["config", number]["sweep"]  # which has the word that differs
            words = files["hydra", number]["hydra"]["overrides"]["hydra"]
            words[:] = [word for word in words if not word.startswith("hydra.sweep.dir=")]  # which is told twice where Hydra composes
        found.append(files)
    assert found[0] == found[1]


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
        pytest.param(
            ("+hydra.callbacks.x._target_=hydra.experimental.callbacks.PickleJobInfoCallback",),
            "jobs 0-1 are trained alone: hydra.callbacks: PickleJobInfoCallback is called as each job begins and ends",
            marks=pytest.mark.skipif(OF_1_4, reason="Hydra 1.4 has no callback of its own that is called for each job"),
        ),
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
