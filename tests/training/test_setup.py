"""What is known of a training before its first step is said before its first step."""

import pytest
import torch
from torch import nn

from modelfactory.config.errors import ConfigError
from modelfactory.data import Data, Split
from modelfactory.training.trainer import train_model
from modelfactory.training.training_spec import training_spec

QUIET = {"device": "cpu", "progress": "none", "max_epochs": 1}


def make(count=17, batch_size=16, drop_last=False, y=None):
    x = torch.randn(count + 8, 6, generator=torch.Generator().manual_seed(0))
    y = torch.arange(count + 8) % 3 if y is None else y(x)
    task = "regression" if y.is_floating_point() else "classification"
    return Data(Split(x[:count], y[:count]), Split(x[count:], y[count:]), task, 3, (6,), batch_size=batch_size, drop_last=drop_last)


def with_norm(norm=None):
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8) if norm is None else norm, nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, r"16: 17 samples are 1 batches of 16 and one of 1, on which layer 1 \(BatchNorm1d\) cannot train: .* data.drop_last=true"),
        ({"batch_size": 1}, "1: every batch has one sample, .*; give 2 or more"),
        ({"batch_size": 1, "drop_last": True}, "1: every batch has one sample, .*; give 2 or more"),
        ({"count": 1}, "16: every batch has one sample, .*; there must be more samples"),
    ],
)
def test_a_batch_of_one_on_which_a_norm_cannot_train_is_told_before_training(tmp_path, keys, message):
    model = with_norm()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=f"data.batch_size: {message}"):
        train_model(model, make(**keys), training_spec(trainer=QUIET), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("keys", "trainer", "norm"),
    [
        ({"drop_last": True}, {}, None),
        ({"count": 18}, {}, None),
        ({}, {"limit_batches": 1}, None),
        ({}, {"max_steps": 1}, None),
        ({}, {}, nn.LayerNorm(8)),
        ({}, {}, nn.BatchNorm1d(8).requires_grad_(False).eval()),
    ],
    ids=["drop_last", "two", "limit_batches", "max_steps", "layer norm", "in evaluation"],
)
def test_a_last_batch_that_does_no_harm_is_trained_on(keys, trainer, norm):
    if norm is not None and isinstance(norm, nn.BatchNorm1d):
        norm.train = lambda mode=True: norm  # as a frozen part stays
    result = train_model(with_norm(norm), make(**keys), training_spec(trainer={**QUIET, **trainer}))
    assert result.status == "completed"
    assert result.final["step"] == (2 if not keys.get("drop_last") and not trainer else 1)


def test_a_channel_of_several_pixels_can_train_on_one_sample():
    model = nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(6, 3))
    assert train_model(model, make(), training_spec(trainer=QUIET)).final["step"] == 2


def one_hot(x):
    return nn.functional.one_hot(torch.arange(len(x)) % 3, 3).float()


@pytest.mark.parametrize("y", [one_hot, lambda x: x[:, :3].softmax(1)], ids=["one-hot", "shares"])
def test_class_shares_are_not_trained_with_squares_unasked(y):
    with pytest.raises(ConfigError, match="trainer.loss: null, and the targets are one-hot vectors or class shares; give torch.nn.Cross"):
        train_model(nn.Sequential(nn.Linear(6, 3)), make(y=y), training_spec(trainer=QUIET))
    for loss, accuracy in (("CrossEntropyLoss", True), ("MSELoss", False)):
        trainer = {**QUIET, "loss": {"_target_": f"torch.nn.{loss}"}}
        result = train_model(nn.Sequential(nn.Linear(6, 3)), make(y=y), training_spec(trainer=trainer))
        assert (result.final["val_accuracy"] is not None) == accuracy
    with pytest.raises(ConfigError, match="trainer.monitor: 'val_accuracy' needs torch.nn.CrossEntropyLoss, not MSELoss"):
        train_model(nn.Sequential(nn.Linear(6, 3)), make(y=y), training_spec(trainer={**trainer, "monitor": "val_accuracy"}))


def test_one_hot_targets_train_as_their_classes_do():
    models = [nn.Sequential(nn.Linear(6, 3)), nn.Sequential(nn.Linear(6, 3))]
    models[1].load_state_dict(models[0].state_dict())
    train_model(models[0], make(y=one_hot), training_spec(trainer={**QUIET, "loss": {"_target_": "torch.nn.CrossEntropyLoss"}}))
    train_model(models[1], make(), training_spec(trainer=QUIET))
    torch.testing.assert_close(models[0][0].weight, models[1][0].weight, rtol=0, atol=1e-6)


def test_squares_of_labels_are_told():
    def told(y, **trainer):
        result = train_model(nn.Sequential(nn.Linear(6, 3)), make(y=y), training_spec(trainer={**QUIET, **trainer}))
        return [warning for warning in result.warnings if "mean squares" in warning]

    assert told(lambda x: (x[:, :3] > 0).float()) and not told(lambda x: x[:, :3]) and not told(lambda x: torch.zeros(len(x), 3))
    assert not told(lambda x: (x[:, :3] > 0).float(), loss={"_target_": "torch.nn.MSELoss"})


def test_what_there_is_to_say_of_the_data_is_in_the_record():
    data = make()
    told = Data(data.train, data.val, data.task, 3, (6,), warnings=("1 file is left out",))
    assert "1 file is left out" in train_model(nn.Sequential(nn.Linear(6, 3)), told, training_spec(trainer=QUIET)).warnings


def test_inputs_of_another_type_are_named():
    data = make()
    data = Data(Split(data.train.x.byte(), data.train.y), data.val, data.task, 3, (6,))
    with pytest.raises(ConfigError, match=r"model: cannot take an input of shape \[2, 6\]: .*the inputs are uint8"):
        train_model(nn.Sequential(nn.Linear(6, 3)), data, training_spec(trainer=QUIET))
