"""The pieces of a training in a loop of one's own: what they give is what a run of the config works with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import modelfactory as mf
from modelfactory.data import make_batches

QUICK = ("trainer.device=cpu", "trainer.progress=none", "trainer.signal=none", "model.width=8", "trainer.max_epochs=2")


def points(count: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(count))
    return x, (x.sum(1) > 0).long()


SETTINGS = {"trainer": {"max_epochs": 3, "device": "cpu", "progress": "none"}, "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}}


@pytest.mark.parametrize("scheduler", ["cosine", "onecycle", "constant"])
def test_a_loop_by_hand_of_the_pieces_is_the_training_of_the_config(scheduler: str):
    cfg = mf.compose(*QUICK, "optimizer=sgd", f"scheduler={scheduler}", "scheduler.warmup_epochs=0.5")
    data, model = mf.build_data(cfg), mf.build(cfg)
    optimizer = mf.build_optimizer(model, cfg)
    schedule = mf.build_scheduler(optimizer, cfg)
    batches, loss_of, steps = make_batches(data.train, data.batch_size, torch.device("cpu"), seed=data.seed), nn.CrossEntropyLoss(), 0
    for epoch in (1, 2):
        model.train()
        for x, y in batches.epoch(epoch):
            optimizer.zero_grad()
            loss_of(model(x), y).backward()
            optimizer.step()
            schedule.step_done()
            steps += 1
        measured = mf.evaluate(model, data)
        schedule.epoch_done(steps, measured["loss"])
    result = mf.train(cfg)
    assert measured["loss"] == pytest.approx(result.final["val_loss"], rel=1e-5)
    assert measured["accuracy"] == pytest.approx(result.final["val_accuracy"])


def test_the_pieces_read_a_config_of_others_and_a_part_of_one():
    cfg = {"callbacks": "???", "net": {"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.5}, "scheduler": {"_target_": None}}}
    optimizer = mf.build_optimizer(nn.Linear(2, 2), cfg, at="net")
    assert optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(mf.ConfigError, match=r"^net.optimizer.lrr: not an argument of SGD"):
        mf.build_optimizer(nn.Linear(2, 2), {"net": {"optimizer": {"_target_": "torch.optim.SGD", "lrr": 0.5}}}, at="net")


def test_a_schedule_of_steps_without_data_asks_for_them():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    cfg = {"scheduler": {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.1, "interval": "step"}}
    with pytest.raises(mf.ConfigError, match="scheduler: counts steps, and there are no data to count; give steps_per_epoch="):
        mf.build_scheduler(optimizer, cfg)
    assert mf.build_scheduler(optimizer, cfg, steps_per_epoch=5, max_epochs=2).length == 10


@pytest.mark.parametrize(
    "given",
    [points, lambda: TensorDataset(*points()), lambda: DataLoader(TensorDataset(*points()), batch_size=64)],
    ids=["tensors", "dataset", "loader"],
)
def test_a_model_trains_on_what_a_program_has(given):
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    result = mf.train(model, SETTINGS, train=given(), val=points(32))
    assert result.model is model and result.final["epoch"] == 3
    assert result.final["step"] == 3  # 64 samples are one batch of the default size, and of the loader's
    assert result.final["val_accuracy"] == pytest.approx(mf.evaluate(model, points(32))["accuracy"])


def test_a_model_trains_on_the_data_of_a_config_and_leaves_a_run(tmp_path: Path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    result = mf.train(model, mf.compose(*QUICK), run_dir=tmp_path)
    assert result.final["epoch"] == 2 and (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mf.train(nn.Linear(4, 2), SETTINGS), mf.ConfigError, "data: missing"),
        (lambda: mf.train(nn.Linear(4, 2), SETTINGS, train=points()), mf.ConfigError, "val: missing beside train="),
        (lambda: mf.train(nn.Linear(4, 2), SETTINGS, train=3, val=points()), mf.ConfigError, "train: int is no data"),
        (lambda: mf.train(mf.compose(), train=points(), val=points()), TypeError, "for a model that exists"),
        (lambda: mf.evaluate(nn.Linear(4, 2), points(), split="test"), mf.ConfigError, "split: 'test' is not a split"),
        (lambda: mf.evaluate(nn.Linear(4, 2)), mf.ConfigError, "data: missing"),
    ],
)
def test_what_is_missing_is_told(call, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call()


def test_evaluation_changes_no_mode_and_no_statistics():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mf.evaluate(model, points())
    mf.predict(model, points()[0])
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_run_is_evaluated_and_predicts(tmp_path: Path):
    result = mf.train(mf.compose(*QUICK), run_dir=tmp_path)
    assert mf.evaluate(tmp_path)["loss"] == pytest.approx(result.best["val_loss"], rel=1e-5)
    x, y = mf.build_data(mf.compose(*QUICK)).val.sample(20)
    outputs = mf.predict(tmp_path, x)
    assert torch.allclose(outputs, mf.load(tmp_path)(x), atol=1e-6)
    (tmp_path / "rows.csv").write_text("\n".join(",".join(map(repr, row)) for row in x.flatten(1).tolist()))
    assert torch.allclose(mf.predict(tmp_path, tmp_path / "rows.csv"), outputs, atol=1e-5)


def test_a_run_with_a_test_split_is_evaluated_on_it(tmp_path: Path):
    result = mf.train(mf.compose(*QUICK, "+data.test_fraction=0.2"), run_dir=tmp_path)
    assert mf.evaluate(tmp_path)["loss"] == pytest.approx(result.best["test_loss"], rel=1e-5)
    assert mf.evaluate(tmp_path, split="val")["loss"] == pytest.approx(result.best["val_loss"], rel=1e-5)
    data = mf.build_data(mf.compose(*QUICK, "+data.test_fraction=0.2"))
    model = mf.load(tmp_path)
    assert mf.evaluate(model, data)["loss"] == pytest.approx(result.best["val_loss"], rel=1e-5)  # nothing is chosen by what is for testing
    assert mf.evaluate(model, data, split="test")["loss"] == pytest.approx(result.best["test_loss"], rel=1e-5)


def test_a_model_is_measured_on_the_test_samples_that_a_program_has():
    result = mf.train(nn.Linear(4, 2), SETTINGS, train=points(), val=points(32), test=points(16))
    assert result.best["test_accuracy"] is not None
    with pytest.raises(mf.ConfigError, match="test: given without train= and val="):
        mf.train(nn.Linear(4, 2), SETTINGS, test=points(16))
