"""A resumed run: what it takes over, what it refuses, and that its record is what it did."""

import copy
import csv
import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import modelfactory as mf
from modelfactory.config.errors import ConfigError
from modelfactory.training.checkpoint import read_state, read_weights
from modelfactory.training.result import read_seconds
from modelfactory.training.resume import RunFiles
from modelfactory.training.status import CHECKPOINT

SGD = {"_target_": "torch.optim.SGD", "lr": 0.05}
ADAMW = {"_target_": "torch.optim.AdamW", "lr": 0.01}
STEP = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 3, "gamma": 0.1}
COSINE = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR"}


def linear(out, **keys):
    return {"_target_": "torch.nn.Linear", "out_features": out, **keys}


def layers(**changed):
    return {"flat": {"_target_": "torch.nn.Flatten"}, "a": linear(8), "b": linear(8), "drop": {"_target_": "torch.nn.Dropout", "p": 0.2},
            "head": linear(3), **changed}  # fmt: skip


def config(epochs=2, **groups):
    """Wine's 143 training samples in 9 batches of 16; a group that is given is merged into its own."""
    plain = {
        "seed": 0,
        "data": {"_target_": "modelfactory.data.wine", "input_shape": [13], "num_classes": 3, "batch_size": 16},
        "model": {"layers": layers()},
        "init": "xavier_normal",
        "optimizer": SGD,
        "trainer": {"max_epochs": epochs, "device": "cpu", "progress": "none", "signal": "none"},
    }
    for name, value in groups.items():
        plain[name] = {**plain[name], **value} if name in ("data", "trainer") else value
    return copy.deepcopy(plain)


def resumed(settings, source, folder=None):
    return mf.train(settings, run_dir=folder, resume=source)


def column(folder, name):
    with (folder / "metrics.csv").open(newline="") as lines:
        return [float(row[name]) for row in csv.DictReader(lines)]


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def contents(folder):
    """Every file of a run as bytes, without times and the process."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = str(file.relative_to(folder)), file.read_bytes()
        if name == "result.json":
            content = {key: value for key, value in json.loads(content).items() if key not in ("seconds", "started", "host", "pid")}
        elif name == "metrics.csv":
            content = [{**row, "seconds": ""} for row in csv.DictReader(content.decode().splitlines())]
        found[name] = content
    return found


def stopped_after(epochs, settings, folder, monkeypatch):
    """Trains and is interrupted when the files of an epoch are written."""
    save = RunFiles.save_epoch

    def stopping(self, run, model, result, *rest):
        save(self, run, model, result, *rest)
        if len(result.history) == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(RunFiles, "save_epoch", stopping)
        mf.train(settings, run_dir=folder)


# ---- equal to a run that was not stopped


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in place", "elsewhere"])
@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [(SGD | {"momentum": 0.9}, STEP), (ADAMW | {"groups": {"slow": {"match": "a.*", "lr_scale": 0.1}}}, COSINE)],
    ids=["sgd", "adamw"],
)
def test_a_run_that_was_stopped_leaves_byte_for_byte_what_one_leaves_that_was_not(tmp_path, monkeypatch, elsewhere, optimizer, scheduler):
    settings = config(5, optimizer=optimizer, scheduler=scheduler, trainer={"signal": "table"})
    mf.train(settings, run_dir=tmp_path / "straight")
    stopped_after(3, settings, tmp_path / "run", monkeypatch)
    folder = tmp_path / ("other" if elsewhere else "run")
    with_source = {**settings, "trainer": {**settings["trainer"], "resume": str(tmp_path / "run")}}
    mf.train(with_source, run_dir=folder)
    assert contents(folder) == contents(tmp_path / "straight")


def test_a_run_that_is_made_longer_leaves_byte_for_byte_what_a_long_one_leaves(tmp_path):
    mf.train(config(5), run_dir=tmp_path / "straight")
    mf.train(config(2), run_dir=tmp_path / "short")
    resumed(config(5), tmp_path / "short", tmp_path / "long")
    assert contents(tmp_path / "long") == contents(tmp_path / "straight")


def test_the_best_epoch_of_the_first_part_keeps_its_weights(tmp_path):
    """The learning rate is 0 from epoch 2 on, so the best epoch is the first."""
    still = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "gamma": 0.0}
    mf.train(config(4, scheduler=still), run_dir=tmp_path / "straight")
    mf.train(config(2, scheduler=still), run_dir=tmp_path / "short")
    done = resumed(config(4, scheduler=still), tmp_path / "short", tmp_path / "long")
    assert done.best["epoch"] < 4 and contents(tmp_path / "long") == contents(tmp_path / "straight")


def test_a_finished_run_is_a_whole_run_elsewhere_and_nothing_is_said_to_be_trained(tmp_path, caplog):
    mf.train(config(), run_dir=tmp_path / "run")
    done = resumed(config(), tmp_path / "run", tmp_path / "other")
    assert contents(tmp_path / "run") == contents(tmp_path / "other") and done.status == "completed"
    assert done.warnings[-1] in caplog.text
    assert f"nothing is left to train: {tmp_path / 'run'} has 2 epochs already; give a larger trainer.max_epochs" == done.warnings[-1]


def test_a_finished_run_in_a_used_folder_leaves_nothing_of_the_older_one(tmp_path):
    mf.train(config(1, seed=5, trainer={"signal": "picture"}), run_dir=tmp_path / "other")
    mf.train(config(), run_dir=tmp_path / "run")
    resumed(config(), tmp_path / "run", tmp_path / "other")
    assert contents(tmp_path / "run").keys() == contents(tmp_path / "other").keys()


# ---- what is written again


@pytest.mark.parametrize("lost", ["metrics.csv", "model.safetensors", "config.yaml", "ledger.csv", "result.json"])
def test_a_file_that_was_lost_is_written_again(tmp_path, lost):
    mf.train(config(), run_dir=tmp_path)
    before = contents(tmp_path)
    assert column(tmp_path, "val_loss")[1] < column(tmp_path, "val_loss")[0]  # the last epoch is the best
    (tmp_path / lost).unlink()
    resumed(config(), tmp_path, tmp_path)
    assert contents(tmp_path) == before


def test_a_lost_row_of_metrics_comes_back_and_the_seconds_that_are_known_stay(tmp_path):
    mf.train(config(3), run_dir=tmp_path)
    file = tmp_path / "metrics.csv"
    rows = file.read_text().splitlines(keepends=True)
    seconds = read_seconds(file)
    file.write_text("".join(rows[:-1]) + "damaged\n")
    done = resumed(config(3), tmp_path, tmp_path)
    assert file.read_text().splitlines()[:3] == "".join(rows).splitlines()[:3] and len(column(tmp_path, "epoch")) == 3
    assert [row["seconds"] for row in done.history] == [seconds[1], seconds[2], seconds[2]]


def test_the_warnings_of_the_first_part_are_kept_and_none_is_told_twice(tmp_path):
    settings = {"optimizer": SGD | {"lr": 1e-6}, "freeze": {"rules": {"a": {"match": "a.*"}}}}
    straight = mf.train(config(4, **settings), run_dir=tmp_path / "straight")
    mf.train(config(2, **settings), run_dir=tmp_path / "run")
    resumed(config(4, **settings), tmp_path / "run", tmp_path / "run")
    assert len(straight.warnings) > 1
    assert json.loads((tmp_path / "run" / "result.json").read_text())["warnings"] == straight.warnings


def test_leftovers_of_a_killed_process_are_removed_in_every_folder_of_the_run(tmp_path):
    mf.train(config(), run_dir=tmp_path)
    (tmp_path / "features").mkdir()
    left = [tmp_path / name for name in (".result.json.1.tmp", "checkpoint/.last.safetensors.1.tmp", "features/.index.safetensors.1.tmp")]
    for file in left:
        file.touch()
    resumed(config(3), tmp_path, tmp_path)
    assert not any(file.exists() for file in left)


# ---- what takes effect


def test_a_learning_rate_takes_effect_and_the_record_says_so(tmp_path, caplog):
    mf.train(config(), run_dir=tmp_path / "run")
    new = config(4, optimizer=SGD | {"lr": 0.01})
    done = resumed(new, tmp_path / "run", tmp_path / "next")
    assert column(tmp_path / "next", "lr") == [0.05, 0.05, 0.01, 0.01]
    assert "resume: optimizer.lr: 0.05 -> 0.01, which takes effect from epoch 3 on" in caplog.text
    expected = [{"from": str(tmp_path / "run"), "epoch": 2, "changed": {"optimizer.lr": [0.05, 0.01]}}]
    assert done.resumed == expected == json.loads((tmp_path / "next" / "result.json").read_text())["resumed"]
    assert yaml.safe_load((tmp_path / "next" / "config.yaml").read_text())["optimizer"]["lr"] == 0.01
    again = resumed({**new, "trainer": {**new["trainer"], "max_epochs": 5}}, tmp_path / "next", tmp_path / "next")
    assert again.resumed == expected and column(tmp_path / "next", "lr")[-1] == 0.01


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (STEP, STEP | {"gamma": 0.5}, [0.05, 0.05, 0.05, 0.025, 0.025]),
        (STEP, STEP | {"step_size": 2}, [0.05, 0.05, 0.005, 0.005, 0.0005]),
        ({"_target_": None}, STEP | {"step_size": 2}, [0.05, 0.05, 0.005, 0.005, 0.0005]),
        (STEP | {"step_size": 1}, {"_target_": None}, [0.05, 0.005, 0.05, 0.05, 0.05]),
        ({"_target_": None, "warmup_epochs": 1}, {"_target_": None, "warmup_epochs": 3}, [0.045, 0.05, 27 / 28 * 0.05, 0.05, 0.05]),
    ],
    ids=["gamma", "step size", "another", "none", "longer warm-up"],
)
def test_a_schedule_stands_where_that_of_an_uninterrupted_run_would(tmp_path, before, after, expected):
    mf.train(config(2, scheduler=before), run_dir=tmp_path / "run")
    resumed(config(5, scheduler=after), tmp_path / "run", tmp_path / "next")
    assert column(tmp_path / "next", "lr") == pytest.approx(expected)


def test_a_schedule_that_is_fitted_to_the_length_is_fitted_to_the_new_one_and_recorded(tmp_path):
    mf.train(config(2, scheduler=COSINE), run_dir=tmp_path / "run")
    straight = mf.train(config(6, scheduler=COSINE))
    done = resumed(config(6, scheduler=COSINE), tmp_path / "run", tmp_path / "next")
    assert [row["lr"] for row in done.history[2:]] == [row["lr"] for row in straight.history[2:]]
    assert done.resumed[0]["changed"] == {"scheduler": ["fitted to 2 epochs", "fitted to 6 epochs"]}


@pytest.mark.parametrize(
    ("optimizer", "changed"),
    [
        (SGD, {"weight_decay": 0.4}),
        (SGD, {"momentum": 0.9}),
        (SGD | {"momentum": 0.9}, {"momentum": 0.0}),
        (SGD | {"momentum": 0.9}, {"nesterov": True}),
        (ADAMW, {"betas": [0.5, 0.9]}),
        (ADAMW, {"weight_decay": 0.9}),
        (ADAMW | {"amsgrad": True}, {"amsgrad": False}),
        (ADAMW, {"groups": {"head": {"match": "head.*", "lr_scale": 20.0}}}),
        (ADAMW, {"layer_decay": 0.1}),
    ],
    ids=str,
)
def test_what_is_changed_in_the_optimizer_takes_effect_with_the_state_that_there_is(tmp_path, optimizer, changed):
    mf.train(config(optimizer=optimizer), run_dir=tmp_path)
    same_settings = resumed(config(3, optimizer=optimizer), tmp_path)
    done = resumed(config(3, optimizer=optimizer | changed), tmp_path)
    assert not same(done.model, same_settings.model)
    assert list(done.resumed[0]["changed"]) == [f"optimizer.{name}" for name in changed]
    state = torch.cat([parameter.flatten() for parameter in done.model.parameters()])
    assert state.isfinite().all()


def test_groups_in_another_order_give_the_same_bits(tmp_path):
    groups = {"one": {"match": "a.*", "lr_scale": 0.5}, "two": {"match": "b.*"}}
    turned = dict(reversed(groups.items()))
    adam = ADAMW | {"groups": groups}
    mf.train(config(optimizer=adam), run_dir=tmp_path)
    one, other = resumed(config(4, optimizer=adam), tmp_path), resumed(config(4, optimizer=adam | {"groups": turned}), tmp_path)
    assert same(one.model, other.model)
    assert other.resumed[0]["changed"] == {"optimizer.groups": [["one", "two"], ["two", "one"]]}


@pytest.mark.parametrize("optimizer", [SGD | {"momentum": 0.9}, ADAMW], ids=["sgd", "adamw"])
def test_what_is_frozen_now_stays_and_what_trains_now_begins_without_a_state(tmp_path, caplog, optimizer):
    """a and b have equal sizes, so that by position each would be given the other's state."""
    before, after = ({"rules": {"one": {"match": [f"{name}.*"]}}} for name in ("a", "b"))
    source = mf.train(config(freeze=before, optimizer=optimizer), run_dir=tmp_path)
    done = resumed(config(3, freeze=after, optimizer=optimizer), tmp_path)
    assert torch.equal(done.model.b.weight, source.model.b.weight) and not torch.equal(done.model.a.weight, source.model.a.weight)
    assert "a.weight, a.bias did not train before, and begins without the optimizer's state" in caplog.text
    assert "b.weight, b.bias does not train any more" in caplog.text
    assert done.final["train_loss"] < 1.5 * source.final["train_loss"]


@pytest.mark.parametrize(("size", "steps"), [(64, 3), (4, 36)])
def test_another_batch_size_trains_the_epochs_that_are_left(tmp_path, size, steps):
    mf.train(config(3), run_dir=tmp_path / "run")
    done = resumed(config(5, data={"batch_size": size}), tmp_path / "run", tmp_path / "next")
    assert [row["step"] for row in done.history] == [9, 18, 27, 27 + steps, 27 + 2 * steps]
    assert done.resumed[0]["changed"] == {"data.batch_size": [16, size]}


@pytest.mark.parametrize(
    "scheduler", [COSINE | {"warmup_epochs": 3, "interval": "step"}, STEP | {"warmup_epochs": 3}], ids=["step", "epoch"]
)
def test_a_schedule_is_counted_in_epochs_where_batches_change(tmp_path, monkeypatch, scheduler):
    """Its learning rates are those that a run of the new size has in the same epochs, also in a third part."""
    small, large = ({"batch_size": size} for size in (16, 48))
    straight = mf.train(config(8, scheduler=scheduler, data=large))
    stopped_after(2, config(8, scheduler=scheduler, data=small), tmp_path / "one", monkeypatch)
    resumed(config(5, scheduler=scheduler, data=large), tmp_path / "one", tmp_path / "two")
    done = resumed(config(8, scheduler=scheduler, data=large), tmp_path / "two", tmp_path / "three")
    assert [row["lr"] for row in done.history[5:]] == [row["lr"] for row in straight.history[5:]]
    if scheduler["_target_"] == STEP["_target_"]:  # which is not fitted to the length
        assert [row["lr"] for row in done.history[2:]] == [row["lr"] for row in straight.history[2:]]


def test_steps_in_all_are_counted_as_they_were_made(tmp_path):
    mf.train(config(3, trainer={"max_steps": 27}), run_dir=tmp_path)
    done = resumed(config(9, data={"batch_size": 72}, trainer={"max_steps": 31}), tmp_path)
    assert [row["step"] for row in done.history] == [9, 18, 27, 29, 31]


# ---- what is refused


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"seed": 1}, "seed"),
        ({"data": {"_target_": "modelfactory.data.fake", "num_samples": 64}}, "data._target_"),
        ({"data": {"split_seed": 1}}, "data.split_seed"),
        ({"data": {"classes": [0, 1, 2]}}, "data.classes"),
        ({"init": "zeros"}, "init"),
        ({"model": {"layers": layers(drop={"_target_": "torch.nn.Tanh"})}}, "model.layers.drop._target_"),
        ({"model": {"layers": layers(drop={"_target_": "torch.nn.Dropout", "p": 0.3})}}, "model.layers.drop.p"),
        ({"model": {"layers": layers(b=linear(8, init="zeros"))}}, "model.layers.b.init"),
        ({"model": {"layers": {name: layers()[name] for name in ("flat", "b", "a", "drop", "head")}}}, "model.layers"),
        ({"optimizer": ADAMW}, "optimizer._target_"),
        ({"optimizer": {**ADAMW, "_target_": "torch.optim.Adam"}}, "optimizer._target_"),
        ({"trainer": {"loss": {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.1}}}, "trainer.loss"),
        ({"trainer": {"monitor": "train_loss"}}, "trainer.monitor"),
    ],
    ids=str,
)
def test_what_cannot_take_effect_is_refused_at_its_path_and_nothing_is_written(tmp_path, changed, path):
    mf.train(config(), run_dir=tmp_path / "run")
    before = contents(tmp_path / "run")
    for folder in (tmp_path / "next", tmp_path / "run"):
        with pytest.raises(ConfigError) as caught:
            resumed(config(4, **changed), tmp_path / "run", folder)
        assert path in [problem.path for problem in caught.value.problems], caught.value
        assert f"trainer.resume: {tmp_path / 'run'} was trained with other settings" in str(caught.value)
    assert contents(tmp_path / "run") == before and not (tmp_path / "next").exists()


@pytest.mark.parametrize(
    ("optimizer", "changed", "path"),
    [
        (ADAMW, {"lr": 0.1, "amsgrad": True}, "optimizer.amsgrad"),
        ({"_target_": "torch.optim.RMSprop", "lr": 0.01}, {"momentum": 0.5}, "optimizer.momentum"),
        ({"_target_": "torch.optim.RMSprop", "lr": 0.01}, {"centered": True}, "optimizer.centered"),
    ],
    ids=str,
)
def test_options_that_need_a_state_that_was_not_kept_are_refused(tmp_path, optimizer, changed, path):
    mf.train(config(optimizer=optimizer), run_dir=tmp_path)
    with pytest.raises(ConfigError) as caught:
        resumed(config(3, optimizer=optimizer | changed), tmp_path)
    assert [problem.path for problem in caught.value.problems] == [path]


def test_a_change_that_comes_after_the_last_epoch_is_refused(tmp_path):
    mf.train(config(), run_dir=tmp_path)
    with pytest.raises(ConfigError, match="optimizer.lr: 0.5 here, .* cannot take effect: nothing is left to train: .* has 2 epochs"):
        resumed(config(2, optimizer=SGD | {"lr": 0.5}), tmp_path, tmp_path)


def test_a_shorter_training_is_recorded_as_what_was_trained(tmp_path):
    mf.train(config(3), run_dir=tmp_path / "run")
    resumed(config(2), tmp_path / "run", tmp_path / "next")
    assert yaml.safe_load((tmp_path / "next" / "config.yaml").read_text())["trainer"]["max_epochs"] == 3


def test_an_init_that_gives_the_same_values_is_no_change(tmp_path):
    whole = {"rules": {"biases": {"role": "bias", "scheme": "zeros"}, "weights": {"role": "weight", "scheme": "xavier_normal"}}}
    mf.train(config(init=whole), run_dir=tmp_path)
    done = resumed(config(3, init={"rules": {**whole["rules"], "weights": {"match": "*.weight", "scheme": "xavier_normal"}}}), tmp_path)
    assert done.final["epoch"] == 3 and not done.resumed


# ---- used folders


def test_a_run_that_begins_anew_clears_what_it_will_write_and_leaves_what_is_not_its_own(tmp_path, monkeypatch):
    mf.train(config(seed=3, trainer={"signal": "picture"}), run_dir=tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    seen = []

    def stop(*_):
        seen.extend(sorted(os.listdir(tmp_path)))
        raise KeyboardInterrupt

    monkeypatch.setattr("modelfactory.training.trainer._grouped", stop)
    with pytest.raises(KeyboardInterrupt):
        mf.train(config(), run_dir=tmp_path)
    assert seen == [".lock", "config.yaml", "ledger.csv", "notes.txt", "result.json"]
    with pytest.raises(ConfigError, match="trainer.resume: .* has no checkpoint"):
        resumed(config(), tmp_path, tmp_path)


# ---- damaged and missing files


def test_a_checkpoint_knows_the_weights_of_its_best_epoch(tmp_path):
    """The learning rate is 0 from epoch 2 on: the best epoch is the first, and the checkpoint has no copy of its weights."""
    still = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "gamma": 0.0}
    result = mf.train(config(3, scheduler=still), run_dir=tmp_path / "run")
    assert result.best["epoch"] < 3
    mf.train(config(1, seed=9), run_dir=tmp_path / "other")
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(
        ConfigError, match=f"trainer.resume: {weights} is another file than the one which has the weights of the best epoch"
    ):
        resumed(config(4, scheduler=still), tmp_path / "run")
    weights.unlink()
    with pytest.raises(ConfigError, match=f"trainer.resume: there is no {weights}, which has the weights of the best epoch"):
        resumed(config(4, scheduler=still), tmp_path / "run")


def test_any_flipped_bit_of_a_checkpoint_or_of_weights_is_noticed(tmp_path):
    mf.train(config(1), run_dir=tmp_path)
    weights = read_weights(tmp_path / "model.safetensors").tensors
    for file, read in (
        (tmp_path / CHECKPOINT, lambda: resumed(config(2), tmp_path)),
        (tmp_path / "model.safetensors", lambda: mf.load(tmp_path)),
    ):
        content = file.read_bytes()
        generator = torch.Generator().manual_seed(0)
        for place in torch.randint(len(content), (40,), generator=generator).tolist():
            damaged = bytearray(content)
            damaged[place] ^= 1 << (place % 8)
            file.write_bytes(damaged)
            try:
                found = read()
            except ConfigError as error:
                assert file.name in str(error), error
            else:  # a byte that says nothing, such as one of the checksum's own name
                assert isinstance(found, nn.Module) and all(torch.equal(value, weights[name]) for name, value in found.state_dict().items())
        file.write_bytes(content)


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    from modelfactory.training.checkpoint import save_state

    mf.train(config(1), run_dir=tmp_path)
    save_state(tmp_path / CHECKPOINT, {**read_state(tmp_path / CHECKPOINT), "format": 0})
    with pytest.raises(ConfigError, match="trainer.resume: .* was saved by another version of modelfactory"):
        resumed(config(2), tmp_path)


def test_weights_that_are_damaged_are_no_backbone(tmp_path):
    mf.train(config(1), run_dir=tmp_path)
    backbone = {"layers": layers(), "weights": str(tmp_path)}
    plain = {**config(1), "backbone": backbone, "model": {"layers": {"top": linear(3)}}}
    mf.build(plain)
    file = tmp_path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.unlink()
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"backbone.weights: .*model.safetensors is damaged.*restore it from a copy"):
        mf.build(plain)


def test_relative_sources_are_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mf.train(config(1), run_dir="run")
    assert resumed(config(2), "run", Path("next")).final["epoch"] == 2


@pytest.mark.parametrize(("optimizer", "best"), [(SGD, 4), (ADAMW | {"lr": 0.3}, 1)])
def test_the_scores_of_the_test_split_are_resumed(tmp_path, optimizer, best):
    settings = [config(epochs, data={"test_fraction": 0.2}, optimizer=optimizer) for epochs in (2, 4)]
    whole = mf.train(settings[1], run_dir=tmp_path / "whole")
    mf.train(settings[0], run_dir=tmp_path / "run")
    done = resumed(settings[1], tmp_path / "run", tmp_path / "run")
    assert done.best == whole.best and done.best["epoch"] == best and done.best["test_loss"] is not None
    assert done.weights_checksum == whole.weights_checksum
