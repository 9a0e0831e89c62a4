"""When checkpoints are saved and which stay; a run that goes on with any of them leaves what one leaves that was not stopped."""

import json
import os
import signal
import subprocess
import sys

import pytest

import modelfactory as mf
from modelfactory.config.errors import ConfigError, Problems
from modelfactory.training.checkpoint import PackedFile, read_state
from modelfactory.training.distributed import ALONE
from modelfactory.training.saving import EverySpec, SaveTimes, checkpoint_of, read_save
from modelfactory.training.status import CHECKPOINT
from tests.training.test_resume import SGD, config, contents, same

STEP = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 2, "gamma": 0.1}


def saving(every=None, keep=None, epochs=4, **groups):
    return config(epochs, optimizer=SGD | {"lr": 0.3}, trainer={"save": {"every": every or {}, "keep": keep or {}}}, **groups)


@pytest.fixture
def saved(monkeypatch):
    """The files that are saved, with the epoch and the step within one."""
    found, save = [], PackedFile.save

    def watched(self, path):
        save(self, path)
        if path.parent.name == CHECKPOINT.parent.name:
            state = read_state(path)
            found.append((path.stem, len(state["history"]), state.get("within", {}).get("step")))

    monkeypatch.setattr(PackedFile, "save", watched)
    return found


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ({}, [("last", 1, None), ("last", 2, None), ("last", 3, None)]),
        ({"epochs": 2}, [("last", 1, None), ("last", 2, None), ("last", 3, None)]),
        ({"epochs": None}, [("last", 1, None), ("last", 3, None)]),
        ({"epochs": None, "steps": 8}, [("last", 0, 8), ("last", 1, None), ("last", 1, 16), ("last", 2, 24), ("last", 3, None)]),
    ],
)
def test_a_checkpoint_is_saved_when_it_is_due_after_a_best_epoch_and_at_the_end(tmp_path, saved, every, expected):
    settings = saving(every, epochs=3)
    settings["optimizer"] = SGD | {"lr": 1e-9}
    settings["trainer"]["monitor"] = "val_accuracy"  # which does not change after the first
    mf.train(settings, run_dir=tmp_path)
    assert saved == expected


def test_minutes_are_those_since_the_last_one(monkeypatch):
    now = [50.0]
    monkeypatch.setattr("modelfactory.training.saving.time.monotonic", lambda: now[0])
    times, due = SaveTimes(EverySpec(minutes=2), ALONE, 1), []
    for step in range(1, 7):
        now[0] += 50
        due.append(times.are_due(step))
    assert due == [False, False, True, False, False, True]


def test_any_checkpoint_that_stays_is_gone_on_with_elsewhere_to_the_same_files(tmp_path):
    settings = saving(keep={"best": True, "epochs": 2}, scheduler=STEP)
    straight = mf.train(settings, run_dir=tmp_path / "straight")
    names = ["best.safetensors", "epoch-2.safetensors", "epoch-4.safetensors", "last.safetensors"]
    assert sorted(os.listdir(tmp_path / "straight" / "checkpoint")) == names
    assert len(read_state(tmp_path / "straight" / "checkpoint" / "best.safetensors")["history"]) == straight.best["epoch"]
    done = mf.train(settings, run_dir=tmp_path / "next", resume=tmp_path / "straight" / "checkpoint" / "epoch-2.safetensors")
    assert same(done.model, straight.model) and contents(tmp_path / "next") == contents(tmp_path / "straight")
    with pytest.raises(ConfigError, match="trainer.resume: .*epoch-2.safetensors is older than the run in .*; give the new run another"):
        mf.train(settings, run_dir=tmp_path / "straight", resume=tmp_path / "straight" / "checkpoint" / "epoch-2.safetensors")


def test_a_checkpoint_that_stays_has_the_weights_of_a_best_epoch_before_it(tmp_path):
    settings = saving(keep={"epochs": 3}, epochs=3)
    settings["optimizer"] = SGD | {"lr": 1e-9}
    settings["trainer"]["monitor"] = "val_accuracy"
    straight = mf.train(settings, run_dir=tmp_path / "a")
    assert straight.best["epoch"] == 1
    (tmp_path / "a" / "model.safetensors").write_bytes(b"of a later epoch")
    settings["trainer"]["max_epochs"] = 4
    mf.train(settings, run_dir=tmp_path / "b", resume=tmp_path / "a" / "checkpoint" / "epoch-3.safetensors")
    assert mf.load(tmp_path / "b") is not None


def test_a_run_that_begins_anew_leaves_no_checkpoint_of_an_older_one(tmp_path):
    mf.train(saving(keep={"best": True, "epochs": 1}, epochs=2), run_dir=tmp_path)
    mf.train(config(1), run_dir=tmp_path)
    assert os.listdir(tmp_path / "checkpoint") == ["last.safetensors"]


def test_a_run_killed_within_an_epoch_goes_on_from_its_last_step_that_was_saved(tmp_path):
    settings = saving({"steps": 5}, epochs=2)
    mf.train(settings, run_dir=tmp_path / "straight")
    code = "import json, os, sys, modelfactory as mf\nfrom modelfactory.training.stopping import Stop\n"
    code += "def asked(self, step):\n    if step == 13: os.kill(os.getpid(), 9)\n"
    code += "Stop.asked = asked\nmf.train(json.loads(sys.argv[1]), sys.argv[2])\n"
    done = subprocess.run([sys.executable, "-c", code, json.dumps(settings), tmp_path / "run"], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL and read_state(tmp_path / "run" / CHECKPOINT)["within"]["step"] == 10
    mf.train(settings, run_dir=tmp_path / "run", resume=tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "straight")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"evry": {}}, "trainer.save: {'evry': {}} is not a mapping of every and keep"),
        (5, "trainer.save: 5 is not a mapping of every and keep"),
        ({"every": {"steps": 0}}, "trainer.save.every.steps: 0 is too small; give a whole number >= 1, or null"),
        ({"every": {"minutes": -1}}, "trainer.save.every.minutes: -1 is too small; give a number > 0, or null"),
        ({"keep": {"epoch": 2}}, "trainer.save.keep.epoch: not a key of trainer.save.keep; did you mean 'epochs'?"),
        ({"keep": "best"}, "trainer.save.keep: 'best' is not a mapping; give its keys: best, epochs"),
    ],
)
def test_what_is_wrong_is_told_at_its_key(given, said):
    problems = Problems()
    read_save(given, "trainer.save", problems)
    assert [str(problem) for problem in problems] == [said]


def test_the_source_of_a_resumed_run_may_be_a_file(tmp_path):
    assert checkpoint_of(tmp_path) == tmp_path / CHECKPOINT
    assert checkpoint_of(tmp_path / "checkpoint" / "best.safetensors") == tmp_path / "checkpoint" / "best.safetensors"
