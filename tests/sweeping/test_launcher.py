"""Sweeps: a job that ends badly harms no other, wrong ones are found before any runs, and what is done is not done again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelfactory.sweeping.records import read_sweep
from modelfactory.training.status import RESULT
from tests.sweeping.conftest import QUICK, TROUBLE, results


def statuses(root: Path) -> list[str]:
    return [job.status for job in read_sweep(root).jobs]


def test_a_job_harms_no_other_however_it_ends(sweep, tmp_path: Path):
    status, _, err = sweep("+data.how=raise,kill,none,exit,memory", *TROUBLE, *QUICK, "optimizer=sgd", "optimizer.lr=0.1,1e30")
    assert status == 1, err
    expected = {"raise": "failed", "kill": "killed", "none": None, "exit": "failed", "memory": "out_of_memory"}
    reasons = {
        "raise": "OSError: the disk is on fire",
        "kill": "its process was killed by SIGKILL",
        "exit": "its process ended with status 0",
        "memory": "MemoryError: no room",
    }
    jobs = read_sweep("sweep").jobs
    assert len(jobs) == 10
    for job in jobs:
        how, lr = read_sweep("sweep").values(job).values()
        wanted = expected[how] or {"0.1": "completed", "1e+30": "diverged"}[lr]
        assert job.status == wanted, job
        if wanted == "completed":
            assert job.reason is None and job.best["val_loss"] > 0
        else:
            assert (job.reason or "").startswith(reasons.get(how, "TrainingError: the loss is"))
            assert f"error: job {job.number} (data.how={how} optimizer.lr={lr}): {wanted}: {job.reason}\n" in err
    assert "Traceback" not in err
    assert "in trouble\n    raise OSError" in (tmp_path / "sweep" / "0" / "error.txt").read_text()


def test_all_jobs_are_listed_before_the_first_starts(sweep, tmp_path: Path):
    sweep("+data.how=kill,none", "seed=0,1", *TROUBLE, *QUICK, "sweep.on_error=stop")
    listed = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"]
    assert [job["number"] for job in listed] == [0, 1, 2, 3]
    assert listed[3]["overrides"][:2] == ["+data.how=none", "seed=1"] and listed[3]["config"]["seed"] == 1
    assert len({job["config_hash"] for job in listed}) == 4


def test_stop_starts_no_job_after_one_that_failed_and_says_so(sweep):
    arguments = ("+data.how=none,raise", "seed=0,1", *TROUBLE, *QUICK)
    status, _, err = sweep(*arguments, "sweep.on_error=stop")
    assert (status, statuses(Path("sweep"))) == (1, ["completed", "completed", "failed", "pending"])
    assert "error: 1 job did not end; the same command goes on with it" in err
    status, _, _ = sweep(*arguments)
    assert (status, statuses(Path("sweep"))) == (1, ["completed", "completed", "failed", "failed"])


def test_the_configs_of_all_jobs_are_checked_before_anything_is_made(sweep, tmp_path: Path):
    status, _, err = sweep("seed=0,1", "optimizer.lr=0.1,-1,-2", "trainer.max_epochs=0", *QUICK)
    assert (status, list(tmp_path.iterdir())) == (2, [])
    assert "optimizer.lr: -1 is too small; give a number >= 0 (in 2 of 6 jobs, the first: seed=0 optimizer.lr=-1)" in err
    assert "optimizer.lr: -2 is too small; give a number >= 0 (in 2 of 6 jobs, the first: seed=0 optimizer.lr=-2)" in err
    assert "\n  trainer.max_epochs: 0 is too small; give a whole number >= 1\n" in err


def test_configs_that_do_not_compose_are_told_all_at_once(sweep, tmp_path: Path):
    status, _, err = sweep("init=nope,zeros,neither", "seed=0,-1", *QUICK)
    assert (status, list(tmp_path.iterdir())) == (2, [])
    for told in ("init: 'nope' is not", "init: 'neither' is not", "seed: -1 is too small"):
        assert told in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("init=glob(nothing*)",), "init: 'glob(nothing*)' finds nothing"),
        (("seed=range(3,3)",), "seed: 'range(3,3)' finds nothing"),
        (("init=glob(nothing*)", "hydra.sweeper.max_batch_size=2"), "init: 'glob(nothing*)' finds nothing"),
        (("seed=0,1", "sweep.resume=nowhere"), "sweep.resume: 'nowhere' has no sweep.json"),
        (("seed=0,1", "sweep.on_error=halt"), "sweep.on_error: 'halt' is not a choice; choose one of continue, stop"),
        (("seed=0,1", "+sweep.gpu=1"), "sweep.gpu: not a key of sweep; did you mean 'gpus'?"),
        (("seed=0,1", "sweep.gpus=0"), "sweep.gpus: 0 is too small"),
        (("seed=0,1", "sweep.gpus=1", "sweep.isolate=false"), "sweep.gpus: needs sweep.isolate=true"),
    ],
    ids=str,
)
def test_a_wrong_sweep_is_an_error_that_leaves_nothing(sweep, tmp_path: Path, arguments: tuple[str, ...], message: str):
    status, _, err = sweep(*arguments, *QUICK)
    assert (status, list(tmp_path.iterdir())) == (2, [])
    assert message in err


@pytest.mark.slow
def test_batches_of_a_sweeper_go_on_after_one_that_failed(sweep):
    status, _, _ = sweep("+data.how=raise,none", "seed=0,1", *TROUBLE, *QUICK, "hydra.sweeper.max_batch_size=1")
    assert (status, statuses(Path("sweep"))) == (1, ["failed", "failed", "completed", "completed"])


def test_what_is_done_is_not_done_again_and_what_failed_is(sweep, tmp_path: Path):
    arguments = ("+data.how=none,raise", f"+data.once={tmp_path / 'once'}", "seed=0,1", *TROUBLE, *QUICK)
    (tmp_path / "once").touch()
    (tmp_path / "once").unlink()
    status, _, _ = sweep(*arguments, "optimizer=sgd", "optimizer.lr=1e30,0.1")
    assert status == 1
    first = results(tmp_path / "sweep")
    (tmp_path / "sweep" / "0" / RESULT).unlink()
    sweep(*arguments, "optimizer=sgd", "optimizer.lr=1e30,0.1")
    again = results(tmp_path / "sweep")
    assert again[0]["started"] and again[0]["pid"] != first[0]["pid"]
    for number, record in first.items():
        redone = record["status"] not in ("completed", "diverged") or number == 0
        assert (again[number]["pid"] != record["pid"]) == redone


def test_a_sweep_that_grows_keeps_what_it_has_and_numbers_the_rest_anew(sweep, tmp_path: Path):
    sweep("seed=1,2", *QUICK)
    first = results(tmp_path / "sweep")
    status, _, _ = sweep("seed=0,2,1,3", *QUICK[:-1], "sweep.resume=sweep")
    assert status == 0
    again = results(tmp_path / "sweep")
    assert {number: again[number] for number in first} == first
    seeds = {job.number: job.config["seed"] for job in read_sweep("sweep").jobs}
    assert seeds == {0: 1, 1: 2, 2: 0, 3: 3}
    assert [job.folder.name for job in read_sweep("sweep").jobs] == ["0", "1", "2", "3"]


@pytest.mark.slow
def test_the_same_command_goes_on_with_a_sweep_that_was_interrupted_where_ever_it_is(sweep, tmp_path: Path):
    where = "hydra.sweep.dir='runs/${now:%H-%M-%S-%f}'"
    arguments = ("seed=0,1", *QUICK[:-1], where)
    sweep(*arguments)
    (folder,) = (tmp_path / "runs").iterdir()
    sweep(*arguments)  # it was done, so this is another
    assert len(list((tmp_path / "runs").iterdir())) == 2
    (folder / "1" / RESULT).unlink()
    sweep(*arguments)
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert statuses(folder) == ["completed", "completed"]
    (folder / "1" / RESULT).unlink()
    sweep(*arguments, "sweep.resume=null")
    sweep("seed=0,2", *arguments[1:])
    assert len(list((tmp_path / "runs").iterdir())) == 4


@pytest.mark.slow
def test_beginning_anew_in_an_old_folder_counts_nothing_that_was_there(sweep, tmp_path: Path):
    sweep("seed=0,1", *QUICK)
    first = results(tmp_path / "sweep")
    sweep("seed=0,1", *QUICK, "sweep.resume=null")
    again = results(tmp_path / "sweep")
    assert all(again[number]["pid"] != first[number]["pid"] for number in first)


def test_jobs_can_run_in_the_process_itself(sweep, tmp_path: Path):
    import os

    status, _, _ = sweep("+data.how=raise,none", *TROUBLE, *QUICK, "sweep.isolate=false")
    assert (status, statuses(Path("sweep"))) == (1, ["failed", "completed"])
    assert {record["pid"] for record in results(tmp_path / "sweep").values()} == {os.getpid()}


@pytest.mark.parametrize(("batch", "accuracy"), [("off", 0), ("2", 1e-5)])
def test_each_job_has_its_log_and_the_numbers_of_a_run_alone(sweep, tmp_path: Path, batch: str, accuracy: float):
    import modelfactory as mf

    sweep("seed=3,4", *QUICK, f"sweep.batch={batch}")
    alone = mf.train(mf.compose(*QUICK[:-1], "seed=4"))
    record = results(tmp_path / "sweep")[1]
    assert record["final"] == pytest.approx(alone.final, rel=accuracy, abs=0)
    assert "model: " in (tmp_path / "sweep" / "1" / "train.log").read_text()
    assert "sweep" not in (tmp_path / "sweep" / "1" / "config.yaml").read_text()


def test_seed_decides_the_init_and_data_seed_the_order(sweep, tmp_path: Path):
    sweep("seed=0,1", "data.seed=0,1", *QUICK, "trainer.limit_batches=1", "trainer.max_epochs=1")
    ledgers = [(tmp_path / "sweep" / str(number) / "ledger.csv").read_text() for number in range(4)]
    losses = [record["final"]["train_loss"] for record in results(tmp_path / "sweep").values()]
    assert ledgers[0] == ledgers[1] and ledgers[2] == ledgers[3] and ledgers[0] != ledgers[2]
    assert len(set(losses)) == 4
    assert read_sweep("sweep").axes == ("seed", "data.seed")


def test_a_key_that_all_swept_options_have_needs_no_plus(sweep):
    status, out, err = sweep("optimizer=sgd,rmsprop", "optimizer.momentum=0.5", *QUICK)  # which the default, adamw, has not
    assert status == 0 and "2 of 2 jobs completed" in out, err
    assert {job.config["optimizer"]["momentum"] for job in read_sweep("sweep").jobs} == {0.5}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "sgd,adamw",
            "optimizer.momentum: there is no such key, and in other jobs there is; ++optimizer.momentum=... sets it in every job "
            "(in 1 of 2 jobs, the first: optimizer=adamw)",
        ),
        ("adam,adamw", "optimizer.momentum: there is no such key; choose one of"),
    ],
)
def test_a_key_that_some_swept_options_lack_is_told_with_what_would_do(sweep, tmp_path, options, message):
    status, _, err = sweep(f"optimizer={options}", "optimizer.momentum=0.5", "optimizer.lrr=1", *QUICK)
    assert (status, list(tmp_path.iterdir())) == (2, [])
    assert message in err and "optimizer.lrr: there is no such key; did you mean 'lr'?" in err and err.count("momentum: ") == 1


def test_a_launcher_that_is_named_in_what_is_swept_is_not_ignored(sweep, tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "one.yaml").write_text("# @package _global_\ndefaults: [override /hydra/launcher: joblib]\n")
    (folder / "two.yaml").write_text("# @package _global_\nseed: 5\n")
    status, _, err = sweep("-cd", str(tmp_path / "conf"), "experiment=one,two", *QUICK)
    assert status == 2 and not Path("sweep").exists()
    message = "hydra.launcher: 'joblib' is named in what is swept, and a sweep has one launcher, chosen before its jobs"
    assert f"{message}; give hydra/launcher=joblib on the command line (in 1 of 2 jobs, the first: experiment=one)" in err
    assert sweep("-cd", str(tmp_path / "conf"), "experiment=one,two", "hydra/launcher=basic", *QUICK)[0] == 0
