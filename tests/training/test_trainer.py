import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import modelfactory.training.trainer
from modelfactory.config.errors import ConfigError, Problems, TrainingError
from modelfactory.data import Data, Split, build_data, make_batches
from modelfactory.training.checkpoint import read_weights
from modelfactory.training.evaluate import measure_split
from modelfactory.training.result import METRICS
from modelfactory.training.trainer import train_model
from modelfactory.training.training_spec import read_training, training_spec

ROOT = Path(modelfactory.training.trainer.__file__).parents[2]
QUIET = {"device": "cpu", "progress": "none"}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9}
COSINE = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "warmup_epochs": 0.5}


@pytest.fixture(scope="module")
def digits():
    return build_data({"_target_": "modelfactory.data.digits"})


def net(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))


def linear(inputs=64, outputs=10):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))


def train(model, data, **keys):
    groups = {group: keys.pop(group) for group in ("optimizer", "scheduler") if group in keys}
    training = training_spec(**groups, trainer={**QUIET, **keys.pop("trainer", {})})
    return train_model(model, data, training, **keys)


def same(first, second):
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def read_csv(path):
    with path.open() as lines:
        return list(csv.DictReader(lines))


def numbers(result):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in result.history]


def test_digits_are_learnt(digits):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    result = train(model, digits, trainer={"max_epochs": 15}, optimizer={"_target_": "torch.optim.AdamW", "lr": 0.002})
    assert result.status == "completed" and result.best["val_accuracy"] > 0.97
    assert result.final["step"] == 15 * 23 and len(result.history) == 15


def test_regression_has_no_accuracy(tmp_path):
    data = build_data({"_target_": "modelfactory.data.diabetes", "batch_size": 32})
    model = nn.Sequential(nn.Linear(10, 1))
    result = train(
        model, data, trainer={"max_epochs": 10}, run_dir=tmp_path, optimizer={"_target_": "torch.optim.AdamW", "lr": 0.01}
    )
    assert result.final["val_accuracy"] is None and result.best["val_loss"] < 0.8  # 1 is the best constant
    assert read_csv(tmp_path / "metrics.csv")[0]["val_accuracy"] == ""


def test_the_steps_are_those_of_a_loop_by_hand(digits):
    ours, by_hand = linear(), linear()
    result = train(ours, digits, trainer={"max_epochs": 2}, optimizer=SGD)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9, fused=True)
    batches, losses = make_batches(digits.train, 64, torch.device("cpu"), seed=0), []
    for epoch in (1, 2):
        for x, y in batches.epoch(epoch):
            loss = nn.functional.cross_entropy(by_hand(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append((loss.item() * len(y), epoch))
    assert same(ours, by_hand)
    assert result.final["train_loss"] == pytest.approx(sum(loss for loss, epoch in losses if epoch == 2) / 1438, rel=1e-12)
    with torch.no_grad():
        expected = nn.functional.cross_entropy(by_hand(digits.val.x), digits.val.y).item()
        right = (by_hand(digits.val.x).argmax(1) == digits.val.y).double().mean().item()
    assert result.final["val_loss"] == pytest.approx(expected, rel=1e-5)
    assert result.final["val_accuracy"] == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_accumulated_steps_are_those_of_the_larger_batch_the_last_one_too(digits, reduction):
    """1438 samples in steps of 64: the last holds 30, which is one batch of 16 and one of 14."""
    loss = {"_target_": "torch.nn.CrossEntropyLoss", "reduction": reduction}
    optimizer = {"_target_": "torch.optim.SGD", "lr": 0.05 if reduction == "mean" else 0.001}
    whole, parts = linear().double(), linear().double()
    double = replace(digits, train=Split(digits.train.x.double(), digits.train.y), val=Split(digits.val.x.double(), digits.val.y))
    one = train(whole, replace(double, batch_size=64), optimizer=optimizer, trainer={"max_epochs": 2, "loss": loss})
    other = train(
        parts, replace(double, batch_size=16), optimizer=optimizer, trainer={"max_epochs": 2, "loss": loss, "accumulate": 4}
    )
    assert one.final["step"] == other.final["step"] == 46
    torch.testing.assert_close(whole[1].weight, parts[1].weight, rtol=1e-10, atol=1e-12)
    assert one.final["val_loss"] == pytest.approx(other.final["val_loss"], rel=1e-9)


def test_the_same_call_gives_the_same_numbers_and_leaves_the_random_state(digits):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, model = train(net(), digits, trainer={"max_epochs": 2}, seed=3), net()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = (
        train(model, digits, trainer={"max_epochs": 2}, seed=3),
        train(net(), digits, trainer={"max_epochs": 2}, seed=4),
    )
    assert numbers(first) == numbers(again) != numbers(other)
    assert first.model is not None and same(first.model, model)


def test_each_epoch_draws_anew_and_goes_on_alike(digits):
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.drawn = []

        def forward(self, x):
            if self.training:
                self.drawn.append(torch.rand(()).item())
            return x

    first, second = Draws(), Draws()
    for draws, batches in ((first, 2), (second, 3)):
        train(linear().append(draws), digits, trainer={"max_epochs": 2, "limit_batches": batches})
    assert len(set(first.drawn)) == 4
    assert first.drawn[2:] == second.drawn[3:5]  # an epoch's draws do not depend on those before it


def test_gradients_that_were_there_are_dropped(digits):
    clean, dirty = linear(), linear()
    for parameter in dirty.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    for model in (clean, dirty):
        train(model, digits, trainer={"max_steps": 1}, optimizer=SGD)
    assert same(clean, dirty)


def test_gradients_are_clipped(digits):
    model, before = linear(), linear()
    optimizer = {"_target_": "torch.optim.SGD", "lr": 1.0}
    train(model, digits, optimizer=optimizer, trainer={"max_steps": 1, "clip_norm": 0.01})
    moved = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), before.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("keys", "epochs", "steps"),
    [
        ({"max_epochs": 3}, 3, 69),
        ({"max_epochs": 3, "limit_batches": 2}, 3, 6),
        ({"max_epochs": 3, "max_steps": 30}, 2, 30),
        ({"max_epochs": 3, "max_steps": 46}, 2, 46),
        ({"max_epochs": 2, "accumulate": 5}, 2, 10),
        ({"max_epochs": 2, "limit_batches": 5, "accumulate": 4}, 2, 4),
    ],
)
def test_training_ends_where_it_is_told_to(digits, keys, epochs, steps):
    result = train(linear(), digits, trainer=keys, scheduler={**COSINE, "interval": "step"})
    assert (result.final["epoch"], result.final["step"]) == (epochs, steps)
    assert 0 < result.history[-1]["lr"] < 0.001 * 0.6


def test_limit_batches_limits_validation_too(digits):
    model = linear()
    result = train(model, digits, trainer={"max_epochs": 1, "limit_batches": 2})
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(digits.val.x[:128]), digits.val.y[:128]).item()
    assert result.final["val_loss"] == pytest.approx(expected, rel=1e-5)


def test_early_stopping_waits_for_patience_epochs(digits):
    """Without learning no epoch is better than the first."""
    result = train(linear(), digits, optimizer={**SGD, "lr": 0.0}, trainer={"max_epochs": 10, "patience": 3})
    assert (result.best["epoch"], result.final["epoch"], result.status) == (1, 4, "completed")


@pytest.mark.parametrize(("monitor", "best"), [("val_loss", min), ("train_loss", min), ("val_accuracy", max)])
def test_the_best_epoch_is_best_by_the_monitored_value(digits, tmp_path, monitor, best):
    model = net()
    keys = {"max_epochs": 6, "monitor": monitor}
    result = train(model, digits, optimizer={**SGD, "lr": 0.5}, trainer=keys, run_dir=tmp_path)
    row = best(result.history, key=lambda row: row[monitor])
    assert result.best["epoch"] == row["epoch"]
    again = net()
    again.load_state_dict(read_weights(tmp_path / "model.safetensors").tensors)
    again.eval()
    with torch.no_grad():
        assert nn.functional.cross_entropy(again(digits.val.x), digits.val.y).item() == pytest.approx(
            result.best["val_loss"], rel=1e-5
        )


def test_a_run_leaves_its_files(digits, tmp_path):
    config = {"seed": 0, "model": {"layers": {}}}
    result = train(net(), digits, trainer={"max_epochs": 2}, run_dir=tmp_path / "run", config=config)
    run_dir = tmp_path / "run"
    assert sorted(os.listdir(run_dir)) == ["checkpoint", "metrics.csv", "model.safetensors", "result.json"]
    rows = read_csv(run_dir / "metrics.csv")
    assert tuple(rows[0]) == METRICS == ("epoch", "step", "train_loss", "val_loss", "val_accuracy", "lr", "seconds")
    assert [float(row["val_loss"]) for row in rows] == [row["val_loss"] for row in result.history]
    record = json.loads((run_dir / "result.json").read_text())
    keys = "status final best seconds config_hash init_hash init_version versions threads error warnings hints host pid started"
    assert set(record) == set(keys.split())
    assert (record["status"], record["error"], record["final"], record["best"]) == ("completed", None, result.final, result.best)
    assert len(record["config_hash"]) == 16 and record["versions"]["torch"] == torch.__version__
    assert read_weights(run_dir / "model.safetensors").config == config


def test_result_says_running_while_it_runs(digits, tmp_path):
    seen = []
    train(
        net(),
        digits,
        trainer={"max_epochs": 1},
        run_dir=tmp_path,
        before_epoch=lambda _: seen.append(json.loads((tmp_path / "result.json").read_text())["status"]),
    )
    assert seen == ["running"]


class Blow(nn.Module):
    """Not finite from its third training pass on."""

    calls = 0

    def forward(self, x):
        self.calls += self.training
        return x * float("nan") if self.calls > 2 else x


def blowing():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), Blow(), nn.Linear(16, 10))


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_layer(digits, tmp_path):
    model = blowing()
    with pytest.raises(TrainingError, match=r"the loss is nan at step 3 \(epoch 1\): .*layer '2' \(Blow\)"):
        train(model, digits, run_dir=tmp_path)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["status"] == "diverged" and record["error"].startswith("TrainingError: the loss is nan at step 3")


@pytest.mark.parametrize(("check_every", "accumulate"), [(50, 1), (2, 1), (50, 2)])
def test_on_a_device_that_is_not_waited_for_the_step_is_found_later(digits, monkeypatch, check_every, accumulate):
    class Later(modelfactory.training.loss.LossSum):
        def __init__(self, *args, **keys):
            super().__init__(*args, **keys)
            self.reads_each = False

    monkeypatch.setattr(modelfactory.training.trainer, "LossSum", Later)
    step = 3 if accumulate == 1 else 2
    with pytest.raises(
        TrainingError, match=rf"the loss is nan at step {step} \(epoch 1\): .*layer '1' \(Linear\), whose parameter '1.weight'"
    ):
        train(blowing(), digits, trainer={"check_every": check_every, "accumulate": accumulate})


def test_a_validation_loss_that_is_not_finite_is_said(digits):
    class Fails(nn.Module):
        def forward(self, x):
            return x if self.training or len(x) == 2 else x * float("inf")

    with pytest.raises(TrainingError, match="the validation loss is nan at step 23.*'2' .Fails"):
        train(linear().append(Fails()), digits)


def test_input_that_is_not_finite_is_said(digits):
    x = digits.train.x.clone()
    x[700:] = float("nan")
    data = Data(Split(x, digits.train.y), digits.val, "classification", 10, (1, 8, 8))
    with pytest.raises(TrainingError, match="the input is not finite in"):
        train(linear(), data)


def test_norms_of_frozen_parts_do_not_move_when_their_train_says_so(digits):
    model = net()
    model[2].requires_grad_(False).eval()
    model[2].train = lambda mode=True: model[2]
    before = {name: value.clone() for name, value in model[2].state_dict().items()}
    train(model, digits, trainer={"max_epochs": 1})
    assert all(torch.equal(value, before[name]) for name, value in model[2].state_dict().items())


def test_before_epoch_may_thaw_what_the_optimizer_knows_of(digits):
    model = net()
    model[1].requires_grad_(False)
    before, seen = model.get_parameter("1.weight").detach().clone(), {}

    def thaw(epoch):
        seen[epoch] = torch.equal(model.get_parameter("1.weight"), before)
        model[1].requires_grad_(epoch >= 2)

    train(model, digits, trainer={"max_epochs": 3}, before_epoch=thaw, thawed_later={"1.weight": 2, "1.bias": 2})
    assert seen == {1: True, 2: True, 3: False}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_trains(digits, precision):
    problems = Problems()
    read_training({"trainer": {**QUIET, "precision": precision}}, problems)
    if problems:
        pytest.skip(str(problems))
    model = net()
    result = train(model, digits, trainer={"max_epochs": 4, "precision": precision, "clip_norm": 1.0}, optimizer=SGD)
    assert result.best["val_accuracy"] > 0.9 and model[1].weight.dtype == torch.float32


def test_a_dataset_on_disk_trains_as_one_in_memory(digits):
    class OnDisk(torch.utils.data.Dataset):
        def __init__(self, split):
            self.split = split

        def __len__(self):
            return len(self.split)

        def __getitem__(self, index):
            return self.split.x[index], int(self.split.y[index])

    disk = Data(Split(dataset=OnDisk(digits.train)), Split(dataset=OnDisk(digits.val)), "classification", 10, (1, 8, 8))
    assert numbers(train(net(), digits, trainer={"max_epochs": 1})) == numbers(train(net(), disk, trainer={"max_epochs": 1}))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (3, "trainer: 3 is not a mapping"),
        ({"max_epochs": 0}, "trainer.max_epochs: 0 is too small"),
        ({"max_epoch": 3}, "trainer.max_epoch: .*did you mean 'max_epochs'"),
        ({"device": "gpu"}, "trainer.device: 'gpu' is not a device"),
        ({"precision": "bf61"}, "trainer.precision: 'bf61' is not a choice; did you mean 'bf16'"),
        ({"clip_norm": 0}, "trainer.clip_norm: 0 is too small"),
        ({"clip_norm": float("inf")}, "trainer.clip_norm: inf is not finite"),
        ({"accumulate": 0}, "trainer.accumulate: 0 is too small"),
        ({"compile": "yes"}, "trainer.compile: 'yes'"),
        ({"monitor": "accuracy"}, "trainer.monitor: .*did you mean 'val_accuracy'"),
        ({"patience": -1}, "trainer.patience: -1 is too small"),
        ({"limit_batches": 0}, "trainer.limit_batches: 0 is too small"),
        ({"resume": "nowhere"}, "trainer.resume: 'nowhere' has no checkpoint"),
        ({"loss": "mse"}, "trainer.loss: 'mse'"),
        ({"loss": {"_target_": "torch.nn.MSELoss"}}, "trainer.loss: MSELoss wants float targets"),
        ({"progress": "tqdm"}, "trainer.progress: 'tqdm' is not a choice"),
    ],
)
def test_a_wrong_trainer_config_is_said_and_leaves_nothing(digits, tmp_path, keys, message):
    with pytest.raises(ConfigError, match=message):
        settings = training_spec(trainer={**QUIET, **keys} if isinstance(keys, dict) else keys)
        train_model(linear(), digits, settings, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_all_settings_are_checked_at_once(digits):
    with pytest.raises(ConfigError) as caught:
        train(linear(), digits, trainer={"accumulate": 0}, optimizer={**SGD, "lr": -1}, scheduler={"_target_": None, "gama": 1})
    assert [problem.path for problem in caught.value.problems] == ["optimizer.lr", "scheduler.gama", "trainer.accumulate"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(7, 10), r"model: cannot take an input of shape \[2, 1, 8, 8\]: "),
        (linear(outputs=9), "model: gives 9 classes and the data has 10"),
        (nn.Sequential(nn.Flatten(), nn.LSTM(64, 10)), "model: returns tuple"),
        (linear(outputs=10).append(nn.Unflatten(1, (10, 1))), r"trainer.loss: CrossEntropyLoss wants \[N, classes\]"),
    ],
)
def test_a_model_that_does_not_fit_the_data_leaves_nothing(digits, tmp_path, model, message):
    with pytest.raises(ConfigError, match=message):
        train(model, digits, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_terminal_an_epoch_is_one_plain_line(digits, capsys):
    train(linear(), digits, trainer={"max_epochs": 2, "progress": "auto"})
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 2 and lines[0].startswith("epoch 1/2  train_loss ") and "\r" not in out and err == ""


def test_on_a_terminal_there_is_a_bar(digits, capsys):
    train(linear(), digits, trainer={"max_epochs": 1, "progress": "bar"})
    out, err = capsys.readouterr()
    assert "epoch 1/1" in out and "23" in err


def test_torch_compile_trains(digits, monkeypatch):
    def compiled(model):
        import torch._dynamo  # noqa: F401

        return lambda x: model(x)

    monkeypatch.setattr(torch, "compile", compiled)
    result = train(linear(), digits, trainer={"max_epochs": 1, "compile": True})
    assert numbers(result) == numbers(train(linear(), digits, trainer={"max_epochs": 1}))


# ---- updates that are skipped

FP16 = {"precision": "fp16", "max_epochs": 3}
EACH_STEP = {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.9, "interval": "step"}


def values(scale):
    """32 samples in 4 steps; a large scale makes gradients overflow in fp16 until the loss scaler has backed off."""
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    split = Split(x, x.sum(1, keepdim=True) * scale)
    return Data(split, split, "regression", 1, (6,), batch_size=8)


def test_a_step_that_fp16_skips_moves_no_schedule_and_is_counted(tmp_path):
    result = train(linear(6, 1), values(3), trainer=FP16, scheduler=EACH_STEP, run_dir=tmp_path, optimizer={**SGD, "lr": 1e-4})
    rows = read_csv(tmp_path / "metrics.csv")
    assert list(rows[0]) == [*METRICS, "skipped_steps"]
    skipped = [int(row["skipped_steps"]) for row in rows]
    assert 0 < sum(skipped) < 12 and skipped[-1] == 0, "choose a scale at which some of the first steps overflow"
    assert result.final["step"] == 12
    taken = 12 - sum(skipped)
    assert float(rows[-1]["lr"]) == pytest.approx(1e-4 * 0.9 ** (taken - 1))


def test_a_schedule_of_epochs_waits_for_the_first_update():
    each_epoch = {**EACH_STEP, "interval": "epoch"}
    result = train(linear(6, 1), values(8), trainer=FP16, scheduler=each_epoch, optimizer={**SGD, "lr": 1e-4})
    rates = [row["lr"] for row in result.history]
    skipped = [row["skipped_steps"] for row in result.history]
    assert skipped[0] == 4 and skipped[1] < 4, "choose a scale at which all of the first epoch overflows"
    assert rates == pytest.approx([1e-4, 1e-4, 0.9e-4])


def test_a_run_that_never_updated_fails(tmp_path):
    model = linear(6, 1)
    before = model[1].weight.clone()
    with pytest.raises(TrainingError, match="no weight was updated: each of the 4 steps was skipped, .*overflow in fp16.*precision=bf16"):
        train(model, values(1000), trainer={**FP16, "max_epochs": 1}, run_dir=tmp_path)
    assert torch.equal(model[1].weight, before)
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "diverged"
    assert read_csv(tmp_path / "metrics.csv")[0]["skipped_steps"] == "4"


def test_skipped_steps_are_a_column_of_fp16_only(digits, tmp_path):
    train(linear(), digits, trainer={"max_epochs": 1}, run_dir=tmp_path)
    assert list(read_csv(tmp_path / "metrics.csv")[0]) == list(METRICS)


def test_skipped_steps_go_on_alike_when_a_run_is_resumed(tmp_path):
    def run(epochs, **more):
        keys = {"scheduler": EACH_STEP, "optimizer": {**SGD, "lr": 1e-4}}
        return train(linear(6, 1), values(1), trainer={**FP16, "max_epochs": epochs, **more}, **keys)

    train(linear(6, 1), values(1), trainer={**FP16, "max_epochs": 1}, scheduler=EACH_STEP, optimizer={**SGD, "lr": 1e-4}, run_dir=tmp_path)
    assert numbers(run(3, resume=str(tmp_path))) == numbers(run(3))


# ---- whatever the caller set


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_a_training_needs_gradients_whatever_its_caller_switched_off(digits, switch):
    expected = train(linear(), digits, trainer={"max_epochs": 1})
    model = linear()
    with switch():
        result = train(model, digits, trainer={"max_epochs": 1})
        assert not torch.is_grad_enabled()
    assert numbers(result) == numbers(expected)


def test_targets_that_are_not_finite_are_named_on_a_device_that_is_not_waited_for(monkeypatch):
    class Later(modelfactory.training.loss.LossSum):
        def __init__(self, *args, **keys):
            super().__init__(*args, **keys)
            self.reads_each = False

    data = values(1)
    assert data.train.y is not None
    data.train.y[5] = float("nan")
    for kind in (Later, modelfactory.training.loss.LossSum):
        monkeypatch.setattr(modelfactory.training.trainer, "LossSum", kind)
        with pytest.raises(TrainingError, match="the target is not finite in 1 of"):
            train(linear(6, 1), data)


# ---- resume

RUN = """
import os, signal, sys
import torch
from torch import nn
from modelfactory.data import build_data
from modelfactory.training.trainer import train_model
from modelfactory.training.training_spec import training_spec
torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))
data = build_data({"_target_": "modelfactory.data.digits"})
kill_at, run_dir, resume = int(sys.argv[1]), sys.argv[2], sys.argv[3] or None
def before_epoch(epoch):
    if epoch == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
training = training_spec(
    optimizer={"_target_": "torch.optim.SGD", "lr": 0.05, "momentum": 0.9},
    scheduler={"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "warmup_epochs": 0.5},
    trainer={"max_epochs": 4, "device": "cpu", "resume": resume, "clip_norm": 1.0},
)
train_model(model, data, training, seed=1, run_dir=run_dir, before_epoch=before_epoch)
print([name for name in ("torch._dynamo", "torchvision", "sklearn", "matplotlib", "hydra", "omegaconf") if name in sys.modules])
"""


def process(kill_at, run_dir, resume=""):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, str(kill_at), str(run_dir), str(resume)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def files(run_dir):
    rows = [{**row, "seconds": ""} for row in read_csv(run_dir / "metrics.csv")]
    return rows, read_weights(run_dir / "model.safetensors"), read_weights(run_dir / "checkpoint" / "last.safetensors")


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("straight")
    return process(0, run_dir), run_dir


def test_a_whole_training_imports_nothing_that_it_does_not_use(straight):
    done, _ = straight
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("elsewhere", [False, True], ids=["in place", "elsewhere"])
def test_a_killed_run_goes_on_bit_for_bit(straight, tmp_path, elsewhere):
    killed = process(3, tmp_path / "run")
    assert killed.returncode == -signal.SIGKILL
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "running"
    goal = tmp_path / ("other" if elsewhere else "run")
    done = process(0, goal, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    rows, best, last = files(straight[1])
    other_rows, other_best, other_last = files(goal)
    assert rows == other_rows and len(rows) == 4
    assert best.tensors.keys() == other_best.tensors.keys() and all(
        torch.equal(best.tensors[n], other_best.tensors[n]) for n in best.tensors
    )
    assert last.tensors.keys() == other_last.tensors.keys() and all(
        torch.equal(last.tensors[n], other_last.tensors[n]) for n in last.tensors
    )
    assert json.loads((goal / "result.json").read_text())["status"] == "completed"


def test_a_finished_run_may_go_on_for_longer(digits, tmp_path):
    straight, parts = net(), net()
    train(straight, digits, trainer={"max_epochs": 3})
    train(parts, digits, trainer={"max_epochs": 2}, run_dir=tmp_path)
    fresh = net(seed=9)
    result = train(fresh, digits, trainer={"max_epochs": 3, "resume": str(tmp_path)})
    assert same(fresh, straight) and result.final["epoch"] == 3 and len(result.history) == 3
    assert not any("nothing is left to train" in warning for warning in result.warnings)
    again = train(net(), digits, trainer={"max_epochs": 2, "resume": str(tmp_path)})
    assert again.status == "completed" and len(again.history) == 2
    assert any("nothing is left to train" in warning and "2 epochs already" in warning for warning in again.warnings)


def test_patience_goes_on_where_it_was(digits, tmp_path):
    still = {**SGD, "lr": 0.0}
    train(linear(), digits, optimizer=still, trainer={"max_epochs": 2, "patience": 3}, run_dir=tmp_path)
    result = train(linear(), digits, optimizer=still, trainer={"max_epochs": 9, "patience": 3, "resume": str(tmp_path)})
    assert result.final["epoch"] == 4


def test_a_run_of_another_model_is_not_resumed(digits, tmp_path):
    train(net(), digits, trainer={"max_epochs": 1}, run_dir=tmp_path, optimizer=SGD)
    with pytest.raises(ConfigError, match="trainer.resume: .* is of another model"):
        train(linear(), digits, trainer={"max_epochs": 2, "resume": str(tmp_path)}, optimizer=SGD)


def test_a_run_that_stopped_within_an_epoch_is_not_resumed(digits, tmp_path):
    train(net(), digits, trainer={"max_epochs": 2, "max_steps": 30}, run_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"trainer.resume: .*stopped at step 30, within epoch 2, after 7 of 23 batches \(448 samples\)"):
        train(net(), digits, trainer={"max_epochs": 3, "resume": str(tmp_path)})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_trains_and_leaves_its_random_state(digits, precision):
    before = torch.cuda.get_rng_state()
    result = train(net(), digits, trainer={"max_epochs": 4, "device": "cuda", "precision": precision}, optimizer=SGD)
    assert result.best["val_accuracy"] > 0.9 and torch.equal(torch.cuda.get_rng_state(), before)


def with_test(data):
    x, y = data.train.x, data.train.y
    return replace(data, train=Split(x[200:], y[200:]), test=Split(x[:200].clone(), y[:200]))


def test_the_best_epoch_alone_is_measured_on_the_test_split_and_nothing_else_changes(digits, tmp_path):
    data = with_test(digits)
    keys = {"trainer": {"max_epochs": 4}, "optimizer": {"_target_": "torch.optim.SGD", "lr": 3.0}}  # of which the last is not the best
    result = train(net(), data, run_dir=tmp_path, **keys)
    without = train(net(), replace(data, test=None), **keys)
    assert numbers(result) == numbers(without) and result.final == without.final and same(result.model, without.model)
    best = {name: value for name, value in result.best.items() if not name.startswith("test_")}
    assert best == without.best != without.final
    kept = net()
    kept.load_state_dict(read_weights(tmp_path / "model.safetensors").tensors)
    measured = measure_split(kept, data, "test")
    assert result.best["test_loss"] == pytest.approx(measured["loss"], rel=1e-6)
    assert result.best["test_accuracy"] == pytest.approx(measured["accuracy"])
    assert json.loads((tmp_path / "result.json").read_text())["best"] == result.best
    assert result.outcome.endswith(f", test_loss {result.best['test_loss']:.4g}, test_accuracy {result.best['test_accuracy']:.4f}")


def test_a_test_loss_that_is_not_finite_is_said(digits):
    data = with_test(digits)
    data.test.x[3] = torch.nan
    with pytest.raises(TrainingError, match="test loss"):
        train(linear(), data, trainer={"max_epochs": 1})


def test_limit_batches_limits_the_test_split_too(digits):
    data = replace(with_test(digits), batch_size=50)
    result = train(linear(), data, trainer={"max_epochs": 1, "limit_batches": 1})
    first = replace(data, test=Split(data.test.x[:50], data.test.y[:50]))
    assert result.best["test_loss"] == train(linear(), first, trainer={"max_epochs": 1, "limit_batches": 1}).best["test_loss"]
