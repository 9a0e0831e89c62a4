"""Sweeps that are interrupted or killed: no job goes on alone, nothing done is lost, and the same command finishes them."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import modelfactory as mf
from modelfactory.sweeping.records import read_sweep
from modelfactory.training.status import process_is_alive
from tests.sweeping.conftest import QUICK, ROOT, results

EPOCHS = 200
LONG = (*QUICK, f"trainer.max_epochs={EPOCHS}", "optimizer=sgd")


def wait_for(what, seconds: float = 120.0):
    """Waits until `what()` is true, which it gives."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)
    return found


def stop_in_the_second_job(start, folder: Path, number: int) -> tuple[int, str, int]:
    """Starts a sweep of three, each alone, sends the signal once the second job trains; status, stderr, and the process of that job."""
    parent = start("-m", "seed=0,1,2", "sweep.batch=off", *LONG)
    wait_for((folder / "sweep" / "1" / "checkpoint" / "last.safetensors").is_file)
    pid = results(folder / "sweep")[1]["pid"]
    os.kill(parent.pid, number)
    _, err = parent.communicate(timeout=120)
    return parent.returncode, err, pid


@pytest.mark.parametrize(
    ("number", "status", "told"),
    [
        (signal.SIGKILL, -9, ""),
        (signal.SIGINT, 130, "interrupted\n"),
        pytest.param(signal.SIGTERM, 143, "interrupted by SIGTERM\n", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_sweep_is_finished_by_the_same_command(start, tmp_path: Path, number: int, status: int, told: str):
    code, err, pid = stop_in_the_second_job(start, tmp_path, number)
    assert code == status
    assert told in err and "Traceback" not in err
    wait_for(lambda: not process_is_alive(pid))
    jobs = read_sweep(tmp_path / "sweep").jobs
    assert [job.status for job in jobs] == ["completed", "killed", "pending"]
    assert jobs[1].reason and "interrupted by SIGTERM: step " in jobs[1].reason  # the step that it was at is saved
    first = results(tmp_path / "sweep")[0]
    if number != signal.SIGKILL:
        assert "the same command goes on with this sweep" in err
        return
    parent = start("-m", "seed=0,1,2", "sweep.batch=off", *LONG)
    _, err = parent.communicate(timeout=120)
    assert parent.returncode == 0, err
    assert results(tmp_path / "sweep")[0] == first
    alone = mf.train(mf.compose(*LONG[:3], *LONG[4:], "seed=1"))
    assert results(tmp_path / "sweep")[1]["final"] == alone.final


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_group_is_finished_by_the_same_command_with_the_numbers_of_one_that_was_not(start, tmp_path: Path, number: int):
    words = ("-m", "seed=0,1,2", "sweep.batch=3", *QUICK[:-1], "trainer.max_epochs=60")
    parent = start(*words, "hydra.sweep.dir=sweep")
    wait_for((tmp_path / "sweep" / "1" / "checkpoint" / "last.safetensors").is_file)
    pid = results(tmp_path / "sweep")[1]["pid"]
    os.kill(parent.pid, number)
    parent.communicate(timeout=120)
    wait_for(lambda: not process_is_alive(pid))
    assert [job.status for job in read_sweep(tmp_path / "sweep").jobs] == ["killed"] * 3
    for folder in ("sweep", "whole"):
        parent = start(*words, f"hydra.sweep.dir={folder}")
        _, err = parent.communicate(timeout=300)
        assert parent.returncode == 0, err
    resumed, whole = (results(tmp_path / folder) for folder in ("sweep", "whole"))
    assert [resumed[job]["final"] for job in resumed] == [whole[job]["final"] for job in whole]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_run_alone_tells_that_it_was_interrupted(start, tmp_path: Path, number: signal.Signals, status: int):
    parent = start("hydra.run.dir=here", *LONG)
    wait_for((tmp_path / "here" / "checkpoint" / "last.safetensors").is_file)
    parent.send_signal(number)
    _, err = parent.communicate(timeout=120)
    saved = rf"interrupted by {number.name}: step \d+, in epoch \d+, is saved; trainer.resume={tmp_path / 'here'} goes on from there"
    assert parent.returncode == status and re.fullmatch(f"{saved}\n", err)
    (job,) = read_sweep(tmp_path / "here").jobs
    assert job.status == "killed" and re.fullmatch(saved, job.reason or "")


def test_a_signal_that_is_ignored_stays_ignored(tmp_path: Path):
    """As `nohup` ignores that the terminal is closed."""
    command = [sys.executable, str(ROOT / "train.py"), "hydra.run.dir=here", *LONG[:-2], "trainer.max_epochs=40"]
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    ignoring = subprocess.Popen(command, cwd=tmp_path, preexec_fn=ignore, stdout=subprocess.DEVNULL)
    wait_for((tmp_path / "here" / "checkpoint" / "last.safetensors").is_file)
    ignoring.send_signal(signal.SIGHUP)
    assert ignoring.wait(120) == 0


@pytest.mark.slow
def test_a_sweep_whose_terminal_is_closed_is_finished_by_the_same_command(start, tmp_path: Path):
    code, err, pid = stop_in_the_second_job(start, tmp_path, signal.SIGHUP)
    assert code == 129 and "interrupted by SIGHUP\n" in err
    wait_for(lambda: not process_is_alive(pid))
    assert [job.status for job in read_sweep(tmp_path / "sweep").jobs] == ["completed", "killed", "pending"]


@pytest.mark.slow
def test_twelve_schemes_on_two_seeds_killed_half_way_are_finished_and_reported(start, tmp_path: Path):
    schemes = "critical,default,kaiming_normal,kaiming_uniform,lecun_normal,lecun_uniform,normal,orthogonal"
    arguments = ("-m", f"init={schemes},trunc_normal,uniform,xavier_normal,xavier_uniform", "seed=0,1", "hydra.sweep.dir=sweep")
    arguments += ("trainer.max_epochs=5", "trainer.progress=none", "sweep.batch=off")
    parent = start(*arguments)
    wait_for((tmp_path / "sweep" / "12" / "result.json").is_file, 300)
    parent.kill()
    parent.communicate()
    before = results(tmp_path / "sweep")
    assert [job.status for job in read_sweep(tmp_path / "sweep").jobs[13:]] == ["pending"] * 11
    parent = start(*arguments)
    out, err = parent.communicate(timeout=300)
    assert parent.returncode == 0, err
    after = results(tmp_path / "sweep")
    assert len(after) == 24
    assert {number: after[number] for number in range(12)} == {number: before[number] for number in range(12)}
    assert "24 jobs: 24 completed" in out and out.count("kaiming_normal") > 0
    rows = (tmp_path / "sweep" / "summary.csv").read_text().splitlines()
    assert len(rows) == 25
    assert {"curves.png", "report.html"} <= {path.name for path in (tmp_path / "sweep").iterdir()}


@pytest.mark.slow
def test_a_sweep_that_runs_is_not_gone_on_with_by_another(start, tmp_path: Path):
    parent = start("-m", "seed=0,1", *LONG, "trainer.max_epochs=100000")
    wait_for((tmp_path / "sweep" / "0" / "checkpoint" / "last.safetensors").is_file)
    other = start("-m", "seed=0,1", *LONG, "trainer.max_epochs=100000", "sweep.resume=sweep")
    _, err = other.communicate(timeout=120)
    assert other.returncode == 2
    assert f"sweep.resume: the sweep in {tmp_path / 'sweep'} runs: process {parent.pid} on " in err


@pytest.mark.slow
def test_a_server_that_dies_takes_its_job_with_it_and_harms_no_other(start, tmp_path: Path):
    parent = start("-m", "seed=0,1", "sweep.batch=off", *LONG)
    wait_for((tmp_path / "sweep" / "0" / "checkpoint" / "last.safetensors").is_file)
    job = results(tmp_path / "sweep")[0]["pid"]
    (server,) = (int(pid) for pid in subprocess.check_output(["ps", "-o", "ppid=", "-p", str(job)], text=True).split())
    os.kill(server, signal.SIGKILL)
    parent.communicate(timeout=120)
    assert parent.returncode == 1
    assert not process_is_alive(job)
    assert [(job.status, job.reason) for job in read_sweep(tmp_path / "sweep").jobs] == [
        ("killed", "its process was killed by SIGKILL"),
        ("completed", None),
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_a_group_of_which_any_process_is_killed_at_any_moment_ends_with_the_bits_of_one_that_was_left_alone(start, tmp_path: Path):
    """The command, its server, a group's process or that of a core; MODELFACTORY_KILLS says how many sweeps, of up to 3 kills each."""
    words = ("-m", "seed=range(6)", "model.width=16", "trainer.max_epochs=40", "trainer.progress=none", "trainer.signal=none")
    begun = time.monotonic()
    start(*words, "hydra.sweep.dir=whole").communicate(timeout=300)
    took, choices = time.monotonic() - begun, random.Random(0)
    for index in range(int(os.environ.get("MODELFACTORY_KILLS", "2"))):
        place, status = f"hydra.sweep.dir=killed{index}", 1
        for kills in range(5):
            parent = start(*words, place)
            if kills < 3:
                with contextlib.suppress(ProcessLookupError):
                    time.sleep(choices.uniform(2, took))
                    os.kill(choices.choice(descendants(parent.pid)), choices.choice((signal.SIGKILL, signal.SIGTERM)))
            parent.communicate(timeout=300)
            status = parent.returncode
            if status == 0:
                break
            if (tmp_path / f"killed{index}" / "sweep.json").is_file():
                place = f"sweep.resume=killed{index}"
        assert status == 0
        for number in range(6):
            ours, own = (tmp_path / sweep / str(number) for sweep in (f"killed{index}", "whole"))
            for name in ("model.safetensors", "ledger.csv", "config.yaml"):
                assert (ours / name).read_bytes() == (own / name).read_bytes()
            rows = [[line.rpartition(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()] for folder in (ours, own)]
            assert rows[0] == rows[1]  # without their seconds


def descendants(pid: int) -> list[int]:
    """A process and all that come from it."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found.extend(child for child, own in parents.items() if own == parent)
    return found
