"""What a sweep's folder says of its jobs: those that wait, run, are done, or were killed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import modelfactory as mf
from modelfactory.config.errors import ConfigError
from modelfactory.sweeping.records import Job, read_sweep, write_sweep
from modelfactory.training.status import STALE_SECONDS, STATUSES, config_hash

RUNNING = {"status": "running", "host": socket.gethostname(), "pid": os.getpid(), "final": {"epoch": 2}, "seconds": 1.5}


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def sweep_of(root: Path, *records: dict | None):
    """A sweep whose job N has the result.json of the N-th record."""
    config = {"seed": 0}
    jobs = []
    for number, record in enumerate(records):
        overrides = ("model=cnn", f"init={'ab'[number % 2]}", f"++seed={number}")
        jobs.append(Job(number, root / str(number), overrides, config=config, config_hash=config_hash(config)))
        if record is not None:
            (root / str(number)).mkdir(parents=True)
            (root / str(number) / "result.json").write_text(json.dumps({"config_hash": config_hash(config), **record}))
    write_sweep(root, jobs)
    return read_sweep(root)


def test_each_job_has_the_status_of_its_folder(tmp_path: Path):
    diverged = {"status": "diverged", "error": "TrainingError: the loss is nan"}
    sweep = sweep_of(tmp_path, {"status": "completed", "best": {"val_loss": 0.5}}, RUNNING, diverged, None)
    assert [job.status for job in sweep.jobs] == ["completed", "running", "diverged", "pending"]
    assert {job.status for job in sweep.jobs} <= set(STATUSES)
    assert [job.reason for job in sweep.jobs] == [None, None, "TrainingError: the loss is nan", None]
    assert sweep.jobs[0].best == {"val_loss": 0.5} and sweep.jobs[1].final == {"epoch": 2} and sweep.jobs[1].seconds == 1.5
    assert sweep.jobs[3].config == {"seed": 0} and sweep.jobs[3].folder == tmp_path / "3"


@pytest.mark.parametrize(
    ("record", "age", "status"),
    [
        ({}, 0, "running"),
        ({}, 2 * STALE_SECONDS, "killed"),  # no sign of life: the number is another process's
        ({"pid": None}, 0, "killed"),
        ({"host": "elsewhere", "pid": None}, 0, "running"),  # what lives there cannot be seen, but its signs of life can
        ({"host": "elsewhere"}, 2 * STALE_SECONDS, "killed"),
    ],
)
def test_a_job_whose_process_is_gone_was_killed(tmp_path: Path, record: dict, age: float, status: str):
    if "pid" in record:
        record["pid"] = dead_pid()
    sweep_of(tmp_path, {**RUNNING, **record})
    file = tmp_path / "0" / "result.json"
    os.utime(file, (file.stat().st_mtime - age, file.stat().st_mtime - age))
    (job,) = read_sweep(tmp_path).jobs
    assert job.status == status
    assert (job.reason is None) == (status == "running")


def test_what_differs_between_the_jobs_are_its_axes(tmp_path: Path):
    sweep = sweep_of(tmp_path, None, None, None)
    assert sweep.axes == ("init", "seed") and sweep.overrides == ("model=cnn",)
    assert sweep.values(sweep.jobs[1]) == {"init": "b", "seed": "1"}
    assert sweep.title(sweep.jobs[2]) == "init=a seed=2"


def test_a_result_of_another_config_does_not_count(tmp_path: Path):
    (job,) = sweep_of(tmp_path, {"status": "completed", "config_hash": "of what was there before"}).jobs
    assert job.status == "pending"


def test_a_run_is_a_sweep_of_one_and_a_folder_of_runs_a_sweep(tmp_path: Path):
    cfg = mf.compose("trainer=debug", "trainer.progress=none", "model.width=8", "seed=7")
    for name in ("10", "9"):
        mf.train(cfg, run_dir=tmp_path / name)
    (job,) = read_sweep(tmp_path / "9").jobs
    assert (job.number, job.folder, job.status, job.overrides) == (0, tmp_path / "9", "completed", ())
    assert job.config["seed"] == 7 and job.final["epoch"] == 1
    assert [job.folder.name for job in read_sweep(tmp_path).jobs] == ["9", "10"]


def test_a_folder_without_a_run_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="holds no run and no sweep; give a folder with sweep.json or result.json"):
        read_sweep(tmp_path)
