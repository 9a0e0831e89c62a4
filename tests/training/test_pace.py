"""Trainings that take turns write their files more seldom, and leave what they would have left."""

from __future__ import annotations

from pathlib import Path

import pytest

import modelfactory as mf
from modelfactory.api.run import training_of
from modelfactory.config.errors import TrainingError
from modelfactory.training import trainer
from modelfactory.training.checkpoint import PackedFile, read_state
from modelfactory.training.pace import Pace
from modelfactory.training.requests import alone
from modelfactory.training.status import CHECKPOINT
from tests.training.test_resume import SGD, config, contents, resumed


class Never(Pace):
    """Nothing is due but the end."""

    def is_due(self, since: float) -> bool:
        return False


@pytest.fixture
def saved(monkeypatch):
    """Names of the tensor files that are written, in their order."""
    found: list[str] = []
    save = PackedFile.save

    def watched(self, path):
        found.append(Path(path).name)
        save(self, path)

    monkeypatch.setattr(PackedFile, "save", watched)
    return found


def given(lr: float, **trainer):
    return config(4, optimizer=SGD | {"lr": lr}, trainer=trainer)


BEST_LAST = given(0.01)
BEST_FIRST = given(1e-9, monitor="val_accuracy")  # which does not change after the first epoch
THREE = ["last.safetensors", "model.safetensors", "last.safetensors"]  # never weights before their checkpoint


@pytest.mark.parametrize(
    ("settings", "writes"),
    [
        (BEST_LAST, ["last.safetensors", "model.safetensors"]),
        (BEST_FIRST, THREE),
        (given(0.01, save={"keep": {"epochs": 2}}), None),
        (given(1e-9, monitor="val_accuracy", save={"keep": {"epochs": 3}}), None),
        (given(1e-9, monitor="val_accuracy", save={"every": {"epochs": None}}), THREE),
    ],
    ids=["the last epoch is the best", "the first is", "some stay", "some stay beside the best", "few are due"],
)
def test_what_is_left_at_the_end_is_what_is_left_epoch_by_epoch(tmp_path, saved, settings, writes):
    mf.train(settings, run_dir=tmp_path / "each")
    num_each, _ = len(saved), saved.clear()
    alone(training_of)(settings, tmp_path / "seldom", pace=Never(members=2))
    assert contents(tmp_path / "each") == contents(tmp_path / "seldom")
    assert saved == writes if writes else len(saved) < num_each


def test_a_training_that_fails_leaves_the_epochs_that_it_did(tmp_path, monkeypatch):
    """With the weights of then, and not those of the epoch that failed."""
    settings = config(3, optimizer=SGD | {"lr": 0.01})
    score, seen = trainer._score_epoch, []

    def fails(run, model, at, best, stop):
        if at["epoch"] == 3:
            raise TrainingError("the loss is nan")
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return (yield from score(run, model, at, best, stop))

    monkeypatch.setattr(trainer, "_score_epoch", fails)
    with pytest.raises(TrainingError):
        alone(training_of)(settings, tmp_path / "seldom", pace=Never(members=2))
    state = read_state(tmp_path / "seldom" / CHECKPOINT)
    assert len(state["history"]) == 2 and all(state["model"][name].equal(tensor) for name, tensor in seen[1].items())
    assert len((tmp_path / "seldom" / "metrics.csv").read_text().splitlines()) == 3
    monkeypatch.undo()
    whole = mf.train(settings, run_dir=tmp_path / "whole")
    assert [row["val_loss"] for row in resumed(settings, tmp_path / "seldom").history] == [row["val_loss"] for row in whole.history]


def test_what_would_fill_the_memory_is_written_at_once(tmp_path, saved):
    alone(training_of)(config(3, optimizer=SGD | {"lr": 0.01}), tmp_path, pace=Never(members=2**40))
    assert saved == ["last.safetensors", "model.safetensors"] * 3
