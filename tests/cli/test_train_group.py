"""Jobs that are trained together leave what each would have left alone."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import modelfactory as mf
from modelfactory.cli.train_group import train_group
from modelfactory.cli.train_job import DONE, FAILED, train_job
from modelfactory.config.compose import to_plain
from modelfactory.model.weights.tensor_file import read_tensors
from modelfactory.sweeping.group import NOT_TOGETHER, ONE_BY_ONE
from modelfactory.sweeping.parts import POSSIBLE
from modelfactory.sweeping.process import Server
from modelfactory.training.at_once import AtOnce

WORDS = (
    *("model.width=8", "data.batch_size=64", "trainer.device=cpu", "trainer.progress=none"),
    *("trainer.limit_batches=2", "trainer.max_epochs=2"),
)


@functools.cache
def base(*words: str) -> dict[str, Any]:
    config = to_plain(mf.compose(*WORDS, *words))
    config.pop("sweep")
    return config


def member(tmp_path: Path, number: int, *words: str) -> dict[str, Any]:
    return {"number": number, "folder": str(tmp_path / str(number)), "config": {**base(*words), "seed": number}}


def result(member: dict[str, Any]) -> dict[str, Any]:
    return json.loads((Path(member["folder"]) / "result.json").read_text())


def files(folder: str | Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def test_each_job_leaves_what_it_leaves_alone(tmp_path: Path):
    members = [member(tmp_path, number, *words) for number, words in enumerate([(), ("init=zeros",), ("optimizer=sgd",)])]
    assert train_group(members, at_once=3) == DONE
    for each in members:
        alone = {**each, "folder": str(tmp_path / f"alone-{each['number']}")}
        assert train_job(alone["config"], alone["folder"]) == DONE
        assert files(each["folder"]) == files(alone["folder"])
        for name in ("config.yaml", "ledger.csv", "signal.csv"):
            assert (Path(each["folder"]) / name).read_bytes() == (Path(alone["folder"]) / name).read_bytes()
        ours, own = result(each), result(alone)
        for name in ("final", "best"):
            assert ours[name] == pytest.approx(own[name], rel=1e-5)
        for name in ("status", "config_hash", "init_hash", "warnings", "hints", "error"):
            assert ours[name] == own[name]


def test_the_checkpoint_of_a_job_is_one_that_a_training_resumes(tmp_path: Path):
    members = [member(tmp_path, number) for number in range(2)]
    train_group(members, at_once=2)
    longer = {**members[1]["config"], "trainer": {**members[1]["config"]["trainer"], "max_epochs": 3, "resume": members[1]["folder"]}}
    resumed = mf.train(longer, tmp_path / "resumed")
    whole = mf.train({**longer, "trainer": {**longer["trainer"], "resume": None}}, tmp_path / "whole")
    assert [row["epoch"] for row in resumed.history] == [1, 2, 3]
    assert resumed.final == pytest.approx(whole.final, rel=1e-4)


def test_a_group_goes_on_where_its_jobs_were_and_has_the_bits_of_one_that_was_not_stopped(tmp_path: Path):
    whole = [member(tmp_path / "whole", number) for number in range(2)]
    train_group(whole, at_once=2)
    members = [member(tmp_path, number) for number in range(2)]
    shorter = [{**each, "config": {**each["config"], "trainer": {**each["config"]["trainer"], "max_epochs": 1}}} for each in members]
    train_group(shorter, at_once=2)
    for each in members:
        each["config"] = {**each["config"], "trainer": {**each["config"]["trainer"], "resume": each["folder"]}}
    assert train_group(members, at_once=2) == DONE
    for each, other in zip(members, whole, strict=True):
        ours, own = (read_tensors(Path(one["folder"]) / "checkpoint" / "last.safetensors")[0] for one in (each, other))
        assert ours.keys() == own.keys() and all(ours[name].equal(own[name]) for name in ours)


def test_a_job_that_fails_or_diverges_harms_no_other(tmp_path: Path):
    members = [member(tmp_path, number) for number in range(3)]
    members[0]["config"] = {**members[0]["config"], "optimizer": {"_target_": "torch.optim.SGD", "lr": -1}}
    members[1]["config"] = {**members[1]["config"], "optimizer": {"_target_": "torch.optim.SGD", "lr": 1e30}}
    assert train_group(members, at_once=3) == FAILED
    assert [result(each)["status"] for each in members] == ["failed", "diverged", "completed"]
    assert "optimizer.lr: -1 is too small" in result(members[0])["error"]
    assert "the loss is" in result(members[1])["error"]


def test_more_jobs_than_at_once_are_trained_one_part_after_another(tmp_path: Path):
    members = [member(tmp_path, number) for number in range(3)]
    assert train_group(members, at_once=2) == DONE
    assert [result(each)["status"] for each in members] == ["completed"] * 3


def test_a_job_has_the_same_bits_by_itself_as_with_others(tmp_path: Path):
    members = [member(tmp_path, number) for number in range(2)]
    train_group(members, at_once=2)
    single = member(tmp_path / "single", 1)
    assert train_group([single]) == DONE
    ours, own = (read_tensors(Path(one["folder"]) / "checkpoint" / "last.safetensors")[0] for one in (single, members[1]))
    assert ours.keys() == own.keys() and all(ours[name].equal(own[name]) for name in ours)


def test_where_several_at_once_would_be_slower_no_job_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("modelfactory.cli.train_group.choose_number", lambda *_: AtOnce(1, "it is slower"))
    assert train_group([member(tmp_path, number) for number in range(2)]) == ONE_BY_ONE
    assert not list(tmp_path.iterdir())


def test_jobs_that_turn_out_not_to_stack_are_left_to_be_trained_alone(tmp_path: Path):
    members = [member(tmp_path, number, *(("model.width=9",) if number else ())) for number in range(2)]
    assert train_group(members, at_once=2) == NOT_TOGETHER
    assert all("different architectures cannot be stacked" in result(each)["error"] for each in members)


@pytest.mark.skipif(not POSSIBLE, reason="a process that has imported torch is forked on Linux alone")
def test_a_process_for_each_core_leaves_the_bits_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    apart, whole = ([member(tmp_path / name, number) for number in range(3)] for name in ("apart", "whole"))
    Path(apart[0]["folder"]).mkdir(parents=True)
    log = {"class": "logging.FileHandler", "filename": str(Path(apart[0]["folder"]) / "train.log")}
    configured = {"version": 1, "disable_existing_loggers": False, "handlers": {"file": log}}
    configured["root"] = {"level": "INFO", "handlers": ["file"]}
    request = {"function": "modelfactory.cli.train_group.train_group", "cwd": str(tmp_path), "path": sys.path}
    request["arguments"] = {"members": apart, "at_once": 3, "own_process": True}
    request["logging"] = {"config": configured, "folder": str(tmp_path), "trusted": []}
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    server = Server()
    assert server.call({**request, "environment": dict(os.environ)}) == DONE
    server.close()
    train_group(whole, at_once=3)
    for each, other in zip(apart, whole, strict=True):
        ours, own = (read_tensors(Path(one["folder"]) / "checkpoint" / "last.safetensors")[0] for one in (each, other))
        assert ours.keys() == own.keys() and all(ours[name].equal(own[name]) for name in ours)
        assert result(each)["threads"] == 1
        assert (Path(each["folder"]) / "train.log").read_text().count("parameters") == 1
    assert len({result(each)["pid"] for each in apart}) == 2


def test_each_job_has_its_own_log(tmp_path: Path):
    members = [member(tmp_path, number, *words) for number, words in enumerate([(), ("init=zeros",)])]
    for each in members:
        Path(each["folder"]).mkdir()
    handler = logging.FileHandler(Path(members[0]["folder"]) / "train.log")
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        train_group(members, at_once=2)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
    logs = [(Path(each["folder"]) / "train.log").read_text() for each in members]
    assert all(log.count("parameters") == 1 for log in logs)
    assert "vanishes" in logs[1] and "vanishes" not in logs[0]
