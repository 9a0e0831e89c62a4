"""A signal within an epoch: the step is done and saved, and the run that is resumed leaves what one leaves that was not stopped."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import torch
from torch.utils.data import Dataset

import modelfactory as mf
from modelfactory.config.errors import ConfigError
from modelfactory.training import trainer as loop
from modelfactory.training.checkpoint import read_state
from modelfactory.training.status import CHECKPOINT
from modelfactory.training.stopping import Stop, Terminated, signals_handled, terminate
from tests.training.test_resume import ADAMW, SGD, STEP, column, config, contents, layers, same

ONE_CYCLE = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.1, "interval": "step"}
PLATEAU = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "patience": 0, "warmup_epochs": 1.5}
BATCH_NORM = {"_target_": "torch.nn.BatchNorm1d"}


@pytest.fixture
def stop_after(monkeypatch):
    """Has a signal come as the n-th step is made, or as the n-th epoch is validated."""

    def set_up(step=None, validation=None, number=signal.SIGTERM):
        asked, validate, counts = Stop.asked, loop._score_epoch, {"steps": 0, "validations": 0}

        def counted(self, index):
            counts["steps"] += not counts.get("validating")
            if counts["steps"] == step and not counts.get("validating"):
                os.kill(os.getpid(), number)
            return asked(self, index)

        def validated(*arguments):
            counts["validating"] = True
            counts["validations"] += 1
            if counts["validations"] == validation:
                os.kill(os.getpid(), number)
            scores = yield from validate(*arguments)
            counts["validating"] = False
            return scores

        monkeypatch.setattr(Stop, "asked", counted)
        monkeypatch.setattr(loop, "_score_epoch", validated)

    return set_up


class Noisy(Dataset):
    """Samples that are drawn anew in each epoch, read by a DataLoader."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return torch.randn(13) + index % 3, index % 3


def noisy(**_):
    return Noisy(70), Noisy(20)


CASES = {
    "momentum": {"optimizer": SGD | {"momentum": 0.9}, "scheduler": STEP},
    "one cycle": {"optimizer": ADAMW, "scheduler": ONE_CYCLE},
    "plateau": {"optimizer": SGD, "scheduler": PLATEAU},
    "accumulated": {"optimizer": ADAMW, "trainer": {"accumulate": 2, "clip_norm": 0.5}},
    "batch norm": {"model": {"layers": layers(b=BATCH_NORM)}},
    "small updates": {"optimizer": SGD | {"lr": 1e-6}},
    "half": {"trainer": {"precision": "fp16"}},
    "thawed": {"freeze": {"rules": {"a": {"match": "a.*", "until": {"epoch": 2}}}}},
    "on disk": {"data": {"_target_": f"{__name__}.noisy", "num_workers": 0}},
}


PLACES = [{"step": 1}, {"step": 3}, {"step": 9}, {"step": 14}, {"validation": 1}, {"validation": 2}]
QUICK = [("momentum", at) for at in PLACES] + [(case, {"step": 14}) for case in CASES if case != "momentum"]
SLOW = [(case, at) for case in CASES for at in ({"step": 1}, {"validation": 2}) if (case, at) not in QUICK]
PAIRS = [pytest.param(c, at, id=f"{c}-{at}", marks=marks) for pairs, marks in ((QUICK, []), (SLOW, pytest.mark.slow)) for c, at in pairs]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder and the model of a run that was not stopped, by its case."""
    mf.trust(__name__)
    done = {}

    def run(case):
        if case not in done:
            folder = tmp_path_factory.mktemp("straight")
            done[case] = folder, mf.train(config(3, **CASES[case]), run_dir=folder).model
        return done[case]

    return run


@pytest.mark.parametrize(("case", "at"), PAIRS)
def test_the_run_that_is_resumed_leaves_what_one_leaves_that_was_not_stopped(tmp_path, stop_after, monkeypatch, straight, case, at):
    folder, model = straight(case)
    settings = config(3, **CASES[case])
    stop_after(**at)
    with pytest.raises(Terminated, match=r"interrupted by SIGTERM: step \d+, in epoch \d, is saved; trainer.resume=.*/run goes on"):
        mf.train(settings, run_dir=tmp_path / "run")
    monkeypatch.undo()
    record = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (record["status"], record["error"].startswith("interrupted by SIGTERM: step ")) == ("killed", True)
    resumed = mf.train(settings, run_dir=tmp_path / "run", resume=tmp_path / "run")
    assert same(resumed.model, model)
    assert contents(tmp_path / "run") == contents(folder)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def stopped(folder, stop_after, monkeypatch, settings, **at):
    stop_after(**at)
    with pytest.raises(Terminated):
        mf.train(settings, run_dir=folder)
    monkeypatch.undo()


def test_a_run_that_was_stopped_twice_and_moved_leaves_the_same(tmp_path, stop_after, monkeypatch, straight):
    folder, _ = straight("one cycle")
    settings = config(3, **CASES["one cycle"])
    stopped(tmp_path / "a", stop_after, monkeypatch, settings, step=11)
    resuming = {**settings, "trainer": {**settings["trainer"], "resume": str(tmp_path / "a")}}
    stopped(tmp_path / "b", stop_after, monkeypatch, resuming, step=3)
    assert read_state(tmp_path / "b" / CHECKPOINT)["within"]["step"] == 14
    mf.train(settings, run_dir=tmp_path / "b", resume=tmp_path / "b")
    assert contents(tmp_path / "b") == contents(folder)


def test_a_last_step_that_is_not_validated_is(tmp_path, stop_after, monkeypatch):
    settings = config(3, trainer={"max_steps": 13})
    mf.train(settings, run_dir=tmp_path / "straight")
    stopped(tmp_path / "run", stop_after, monkeypatch, settings, validation=2)
    mf.train(settings, run_dir=tmp_path / "run", resume=tmp_path / "run")
    assert contents(tmp_path / "run") == contents(tmp_path / "straight")


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"data": {"batch_size": 8}}, "data.batch_size: 8 here, 16 in .*, which was stopped within epoch 2; go on with that until"),
        ({"trainer": {"accumulate": 3}}, "trainer.accumulate: 3 here, 1 in "),
        ({"data": {"seed": 5}}, "data.seed: 5 here, "),
        ({"trainer": {"max_epochs": 1}}, "trainer.resume: nothing is left to train: .* for it was stopped within epoch 2"),
    ],
)
def test_the_batches_of_an_epoch_that_is_done_in_part_cannot_change(tmp_path, stop_after, monkeypatch, changed, path):
    stopped(tmp_path, stop_after, monkeypatch, config(3), step=12)
    with pytest.raises(ConfigError, match=path):
        mf.train(config(3, **changed), run_dir=tmp_path / "next", resume=tmp_path)
    assert not (tmp_path / "next").exists()


def test_a_learning_rate_that_changes_within_an_epoch_is_recorded_with_the_step(tmp_path, stop_after, monkeypatch):
    stopped(tmp_path, stop_after, monkeypatch, config(3), step=12)
    result = mf.train(config(3, optimizer=SGD | {"lr": 0.001}), run_dir=tmp_path / "next", resume=tmp_path)
    assert result.resumed == [{"from": str(tmp_path), "epoch": 1, "step": 12, "changed": {"optimizer.lr": [0.05, 0.001]}}]
    assert column(tmp_path / "next", "lr") == [0.05, 0.001, 0.001]


def test_a_training_without_a_folder_says_that_it_ended(stop_after):
    stop_after(step=2)
    with pytest.raises(Terminated) as caught:
        mf.train(config(2))
    assert (str(caught.value), caught.value.status) == ("interrupted by SIGTERM", 143)


def test_a_signal_in_the_last_moment_ends_the_process_after_a_run_that_is_completed(tmp_path, monkeypatch):
    save = loop.RunFiles.save_epoch

    def last(self, *arguments):
        save(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.RunFiles, "save_epoch", last)
    with pytest.raises(Terminated):
        mf.train(config(1), run_dir=tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "completed"


def test_who_listens_to_a_signal_still_does(stop_after, monkeypatch):
    heard = []
    monkeypatch.setattr(Stop, "asked", lambda self, step: os.kill(os.getpid(), signal.SIGTERM) or False)
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        assert mf.train(config(1)).status == "completed"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert set(heard) == {signal.SIGTERM}


def test_a_signal_that_comes_again_after_seconds_ends_at_once(monkeypatch):
    stop, now = Stop(), [100.0]
    monkeypatch.setattr("modelfactory.training.stopping.time.monotonic", lambda: now[0])
    stop.ask(signal.SIGTERM)
    now[0] += 1
    stop.ask(signal.SIGTERM)  # a launcher's, and what its parent forwards
    now[0] += 5
    with pytest.raises(Terminated, match="interrupted by SIGHUP"):
        stop.ask(signal.SIGHUP)


def test_outside_of_a_training_a_signal_ends_at_once():
    with pytest.raises(Terminated, match="interrupted by SIGTERM"), signals_handled():
        assert signal.getsignal(signal.SIGTERM) is terminate
        os.kill(os.getpid(), signal.SIGTERM)


def test_in_another_thread_signals_are_left_alone():
    found = []
    thread = threading.Thread(target=lambda: found.append(mf.train(config(1)).status))
    thread.start()
    thread.join()
    assert found == ["completed"]


def test_a_script_ends_with_a_status_that_says_so(tmp_path):
    code = "import modelfactory as mf, json, os, signal\nfrom modelfactory.training.stopping import Stop\nasked = Stop.asked\n"
    code += "def ask(self, step):\n    if step == 5: os.kill(os.getpid(), signal.SIGTERM)\n    return asked(self, step)\nStop.asked = ask\n"
    code += f"mf.train(json.loads({json.dumps(config(2))!r}), {str(tmp_path)!r})\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (143, False)
    assert read_state(tmp_path / CHECKPOINT)["within"]["step"] == 5
