"""The folders of a sweep's jobs: one each, under the names that are recorded, and clean where a sweep begins anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelfactory.reporting.papers import outcome
from modelfactory.reporting.report import FILES
from modelfactory.sweeping.folders import quoted
from modelfactory.sweeping.records import REPORTS, read_sweep
from tests.sweeping.conftest import QUICK, TROUBLE, results

SUBDIR = "hydra.sweep.subdir=${hydra:job.override_dirname}"
SHORT = ("hydra.job.config.override_dirname.exclude_keys=[trainer,trainer.progress,model.width,sweep.on_error]",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("seed=4,5", "hydra.sweep.subdir=one"), "jobs 0 (seed=4) and 1 (seed=5) would both train into"),
        (("seed=4,5,6", "hydra.sweep.subdir=a/../one"), "jobs 0 (seed=4) and 1 (seed=5) and 1 more would all train into"),
        (("seed=4,5", SUBDIR, "hydra.job.config.override_dirname.exclude_keys=[seed]"), "jobs 0 (seed=4) and 1 (seed=5)"),
        (("init=zeros,ones", "seed=1,2", "hydra.sweep.subdir=${seed}"), "jobs 0 (init=zeros seed=1) and 2 (init=ones seed=1)"),
        (("seed=4,5", "hydra.sweep.subdir='" + "a" * 256 + "${seed}'"), "the folder of job 0 has a name of 257 bytes"),
    ],
    ids=["fixed", "by another way", "excluded", "two of four", "long"],
)
def test_jobs_that_cannot_have_a_folder_each_are_refused_before_anything_is_made(
    sweep, tmp_path: Path, words: tuple[str, ...], message: str
):
    status, _, err = sweep(*words, *QUICK)
    assert (status, list(tmp_path.iterdir())) == (2, [])
    assert f"hydra.sweep.subdir: {message}" in err


@pytest.mark.slow
def test_a_job_that_is_added_does_not_meet_an_older_one(sweep, tmp_path: Path):
    assert sweep("seed=4", *QUICK, "hydra.sweep.subdir=one")[0] == 0
    before = results_of(tmp_path / "sweep" / "one")
    status, _, err = sweep("seed=4,5", *QUICK[:-1], "sweep.resume=sweep", "hydra.sweep.subdir='${seed}'")
    assert status == 0, err
    status, _, err = sweep("seed=6,7", *QUICK[:-1], "sweep.resume=sweep", "hydra.sweep.subdir='one'")
    assert status == 2 and "jobs 0 (seed=6) and 1 (seed=7)" in err
    status, _, err = sweep("seed=6", *QUICK[:-1], "sweep.resume=sweep", "hydra.sweep.subdir=one")
    assert status == 2 and "jobs 0 (seed=4) and 2 (seed=6) would both train into" in err
    assert results_of(tmp_path / "sweep" / "one") == before


def results_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    "words",
    [("sweep.on_error=stop",), pytest.param(("sweep.isolate=false", "++sweep.on_error=continue"), marks=pytest.mark.slow)],
    ids=str,
)
def test_folders_are_recorded_as_they_are_with_words_of_the_sweep_too(sweep, tmp_path: Path, words: tuple[str, ...]):
    status, _, err = sweep("seed=4,5", *QUICK, SUBDIR, *SHORT, *words)
    assert status == 0, err
    assert [job.folder.name for job in read_sweep("sweep").jobs] == ["seed=4", "seed=5"]
    assert all((job.folder / "model.safetensors").is_file() for job in read_sweep("sweep").jobs)


def test_a_job_goes_on_in_the_folder_that_is_recorded_whatever_the_names_are_now(sweep, tmp_path: Path):
    arguments = ("+data.how=none,raise", f"+data.once={tmp_path / 'once'}", *TROUBLE, *QUICK)
    (tmp_path / "once").touch()
    (tmp_path / "once").unlink()
    sweep(*arguments, "hydra.sweep.subdir=a${hydra.job.num}")
    folders = [job.folder.name for job in read_sweep("sweep").jobs]
    status, _, err = sweep(*arguments, "hydra.sweep.subdir=b${hydra.job.num}")
    assert status == 0, err
    assert [job.folder.name for job in read_sweep("sweep").jobs] == folders == ["a0", "a1"]
    assert [job.status for job in read_sweep("sweep").jobs] == ["completed", "completed"]
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == ["a0", "a1"]


def test_what_a_used_folder_had_is_cleared_where_a_sweep_begins_anew(sweep, tmp_path: Path):
    sweep("seed=0,1", *QUICK)
    (tmp_path / "sweep" / "paper.csv").write_text("of an older experiment")
    status, _, _ = sweep("+data.how=raise", "seed=2,3", *TROUBLE, *QUICK, "sweep.on_error=stop")
    assert status == 1
    left = {path.name for path in (tmp_path / "sweep" / "1").iterdir()}
    assert not left & {"result.json", "model.safetensors", "metrics.csv", "checkpoint", "config.yaml"}
    assert not (tmp_path / "sweep" / "0" / "model.safetensors").exists() and not (tmp_path / "sweep" / "paper.csv").exists()
    assert [job.status for job in read_sweep("sweep").jobs] == ["failed", "pending"]


def test_a_checkpoint_of_another_config_is_never_gone_on_with(sweep, tmp_path: Path):
    """A job that was interrupted before its first epoch ended, in a folder with an older run's checkpoint."""
    sweep("seed=0,1", *QUICK, "optimizer=sgd", "optimizer.lr=0.01")
    folder = tmp_path / "sweep" / "1"
    old = {name: (folder / name).read_bytes() for name in ("checkpoint/last.safetensors", "metrics.csv")}
    sweep("seed=0,1", *QUICK, "optimizer=sgd", "optimizer.lr=0.5")
    expected = results(tmp_path / "sweep")[1]
    killed = expected | {"status": "killed", "error": "interrupted", "final": {}, "best": {}}
    (folder / "result.json").write_text(json.dumps(killed))
    for name, content in old.items():
        (folder / name).unlink()
        (folder / name).write_bytes(content)
    assert sweep("seed=0,1", *QUICK, "optimizer=sgd", "optimizer.lr=0.5")[0] == 0
    assert results(tmp_path / "sweep")[1]["final"] == expected["final"]


def test_a_damaged_checkpoint_is_the_reason_of_its_job(sweep, tmp_path: Path):
    sweep("seed=0,1", *QUICK)
    folder = tmp_path / "sweep" / "1"
    (folder / "result.json").write_text(json.dumps(results_of(folder) | {"status": "killed", "error": "interrupted"}))
    file = folder / "checkpoint" / "last.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.unlink()
    file.write_bytes(content)
    status, _, err = sweep("seed=0,1", *QUICK)
    assert status == 1 and "last.safetensors is damaged" in err
    job = read_sweep("sweep").jobs[1]
    assert job.status == "failed" and "last.safetensors is damaged" in (job.reason or "")


@pytest.mark.slow
def test_jobs_that_resume_other_runs_are_told_apart_by_them(sweep, tmp_path: Path):
    """They record the config without where they were resumed from, and are found again by it all the same."""
    sweep("seed=0", "trainer.max_epochs=1,2", *QUICK[:-1], "hydra.sweep.dir=source")
    arguments = ("seed=0", "trainer.resume=source/0,source/1", "trainer.max_epochs=3", *QUICK)
    status, _, err = sweep(*arguments)
    assert status == 0, err
    first = results(tmp_path / "sweep")
    assert [record["final"]["epoch"] for record in first.values()] == [3, 3]
    (tmp_path / "sweep" / "1" / "result.json").unlink()
    assert sweep(*arguments)[0] == 0
    again = results(tmp_path / "sweep")
    assert again[0] == first[0] and again[1]["final"] == first[1]["final"]


@pytest.mark.parametrize("isolate", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_relative_paths_are_those_of_the_command_where_jobs_have_their_own_folder(sweep, tmp_path: Path, isolate: str):
    assert sweep("seed=0", *QUICK[:-1], "hydra.sweep.dir=source")[0] == 0
    words = ("hydra.job.chdir=true", "trainer.resume=source/0", "trainer.max_epochs=2,3", f"sweep.isolate={isolate}")
    status, _, err = sweep(*words, *QUICK)
    assert status == 0, err
    assert [job.final["epoch"] for job in read_sweep("sweep").jobs] == [2, 3]


def test_every_report_of_a_sweep_is_cleared():
    assert {*FILES, *outcome.FILES} <= set(REPORTS)


def test_a_name_may_have_any_letters():
    assert [quoted(text) for text in ("a b", "a'b", "a\\b", "${x}")] == ["'a b'", "'a\\'b'", "'a\\\\b'", "'\\${x}'"]
