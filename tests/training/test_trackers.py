"""Trackers: each epoch's numbers arrive, once, also of a run that is gone on with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import modelfactory as mf
from modelfactory.config.errors import ConfigError, Problems
from modelfactory.training.trackers import check_tracker

QUICK = ("trainer=debug", "trainer.progress=none", "model.width=8")


def train_in_two_parts(folder: Path, tracker: str):
    """Two epochs, then one more of the same run."""
    mf.train(mf.compose(*QUICK, f"trainer.tracker={tracker}", "trainer.max_epochs=2"), run_dir=folder)
    more = mf.compose(*QUICK, f"trainer.tracker={tracker}", "trainer.max_epochs=3")
    return mf.train(more, run_dir=folder, resume=folder).history


def test_tensorboard_has_every_epoch(tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = train_in_two_parts(tmp_path / "run", "tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    scalars = events.Scalars("val_loss")
    assert [event.step for event in scalars] == [row["step"] for row in history]
    assert [event.value for event in scalars] == pytest.approx([row["val_loss"] for row in history])
    assert {"train_loss", "val_accuracy", "lr"} <= set(events.Tags()["scalars"])


@pytest.mark.filterwarnings("ignore")  # what its store of files says of itself
def test_mlflow_has_one_run_with_every_epoch_and_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    library = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    history = train_in_two_parts(tmp_path / "run", "mlflow")
    client = library.MlflowClient()
    (run,) = client.search_runs(["0"])
    assert [metric.value for metric in client.get_metric_history(run.info.run_id, "val_loss")] == [row["val_loss"] for row in history]
    assert run.data.params["model.width"] == "8" and run.info.run_name == "run"


def test_a_tracker_that_is_not_installed_is_an_error(monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "wandb" else find(name, *rest))
    problems = Problems()
    check_tracker("wandb", "trainer.tracker", problems)
    with pytest.raises(ConfigError, match=r"trainer.tracker: 'wandb' is not installed; pip install 'modelfactory\[wandb\]'"):
        problems.raise_if_any()


def test_without_a_folder_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    mf.train(mf.compose(*QUICK, "trainer.tracker=tensorboard"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_goes_on_with_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train_in_two_parts(tmp_path / "run", "wandb")
    run_id = (tmp_path / "run" / "wandb.txt").read_text()
    assert len(list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))) >= 1
