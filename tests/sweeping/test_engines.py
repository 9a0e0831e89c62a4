"""Sweeps on every engine: the same jobs, numbers and records whichever of Hydra's launchers runs them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelfactory.sweeping.records import read_sweep
from tests.sweeping.conftest import HERE, QUICK, ROOT, TROUBLE, results

JOBS = ("+data.how=none,kill,none", *TROUBLE, *QUICK)


def ends_as_serial_does(process: subprocess.Popen, folder: Path) -> None:
    """Three jobs of which the second is killed; the numbers are those of a run alone."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    jobs = read_sweep(folder / "sweep").jobs
    assert [(job.number, job.status) for job in jobs] == [(0, "completed"), (1, "killed"), (2, "completed")], out + err
    assert "error: job 1 (data.how=kill): killed: its process was killed by SIGKILL\n" in err
    assert jobs[0].final == jobs[2].final
    assert "2 of 3 jobs completed" in out


def plugin(name: str):
    found = importlib.util.find_spec("hydra_plugins") is not None and importlib.util.find_spec(f"hydra_plugins.{name}") is not None
    return pytest.mark.skipif(not found, reason=f"{name} is not installed")


@plugin("hydra_joblib_launcher")
def test_joblib_runs_jobs_on_the_cores_of_one_machine(start, tmp_path: Path):
    ends_as_serial_does(start("-m", *JOBS, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"), tmp_path)


@pytest.mark.slow
@plugin("hydra_submitit_launcher")
def test_submitit_runs_jobs_as_processes_of_their_own(start, tmp_path: Path):
    ends_as_serial_does(start("-m", *JOBS, "hydra/launcher=submitit_local"), tmp_path)


@pytest.mark.slow
@plugin("hydra_submitit_launcher")
def test_slurm_gets_an_array_of_jobs_for_a_device_that_is_not_here(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With commands in place of Slurm's; what a job does with trainer.device=cuda is for the machine that it gets."""
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "srun", "sacct"):
        (tmp_path / "bin" / name).write_text(f"#!{sys.executable}\n{(HERE / 'slurm.py').read_text()}")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    slurm = ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu")
    ends_as_serial_does(start("-m", *JOBS, *slurm), tmp_path)


@pytest.mark.slow
@plugin("hydra_ray_launcher")
@pytest.mark.parametrize("address", [None, "auto"])
def test_ray_runs_jobs_here_and_on_a_cluster_that_runs(start, tmp_path: Path, address: str | None, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONWARNINGS", "default")  # Ray's own
    if address is None:
        arguments = ("hydra/launcher=ray", "+hydra.launcher.ray.init.include_dashboard=false")
        ends_as_serial_does(start("-m", *JOBS, *arguments), tmp_path)
        return
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    head = ["start", "--head", "--port=0", "--include-dashboard=false", "--num-cpus=2", "--disable-usage-stats"]
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{HERE}")  # what is installed is for who starts the cluster to say
    subprocess.run([*ray, *head], check=True, capture_output=True, timeout=120)
    try:
        ends_as_serial_does(start("-m", *JOBS, "hydra/launcher=ray_cluster"), tmp_path)
    finally:
        subprocess.run([*ray, "stop"], check=True, capture_output=True, timeout=120)


def test_jobs_take_turns_on_gpus_by_their_numbers(sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,2,7")
    status, _, _ = sweep("seed=0,1,2", f"+data.note={tmp_path}/gpu", *TROUBLE, *QUICK, "sweep.gpus=2", "sweep.batch=off")
    assert status == 0
    assert (tmp_path / "gpu").read_text().split() == ["4", "2", "4"]
    assert len(results(tmp_path / "sweep")) == 3
