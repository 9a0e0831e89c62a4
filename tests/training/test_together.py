"""Trainings that are answered together: each has the numbers that it has in any other company, and alone to float32 accuracy."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.config.compose import to_plain
from modelfactory.config.errors import TrainingError
from modelfactory.data.dataset import Data, Split
from modelfactory.training.result import Result
from modelfactory.training.together import CannotStack, train_together
from modelfactory.training.trainer import train_model, training
from modelfactory.training.training_spec import TrainingSpec, training_spec

MODELS = {
    "mlp": ("model=mlp", "model.width=16"),
    "deep_mlp": ("model=deep_mlp", "model.width=16", "model.depth=2"),
    "deep_residual": ("model=deep_residual", "model.width=16", "model.depth=2"),
    "cnn": ("model=cnn", "model.width=2"),
    "resnet": ("model=resnet", "model.width=2", "model.wide=4", "model.blocks=1"),
    "vit": ("model=vit", "model.width=8", "model.heads=2", "model.depth=1"),
    "lstm": ("model=lstm", "model.width=4"),
}
SLOW = ("deep_mlp", "deep_residual", "cnn", "lstm")
SMALL = {"max_epochs": 3, "device": "cpu", "progress": "none", "limit_batches": 3, "clip_norm": 1.0, "accumulate": 2}
SGD = {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3}


@pytest.fixture(scope="module")
def digits() -> Data:
    return mf.build_data(mf.compose("data.batch_size=32"))


def settings(seed: int, optimizer: dict[str, Any] | None = None, **trainer: Any) -> TrainingSpec:
    optimizers = [
        {"_target_": "torch.optim.AdamW", "lr": 0.001 * (1 + seed)},
        SGD,
        {"_target_": "torch.optim.RMSprop", "lr": 1e-3},
        {"_target_": "torch.optim.Adam", "lr": 1e-3, "betas": [0.8, 0.9]},
    ]
    schedulers = [None, {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 3}]
    chosen = optimizers[seed % len(optimizers)] if optimizer is None else optimizer
    return training_spec(optimizer=chosen, scheduler=schedulers[seed % 2], trainer=SMALL | trainer)


@functools.cache
def config(*words: str) -> dict[str, Any]:
    return to_plain(mf.compose(*words))


def built(words: Sequence[str], seed: int) -> nn.Module:
    return mf.build({**config(*words), "seed": seed})


def job(words: Sequence[str], seed: int, digits: Data, **trainer: Any) -> Generator[Any, Any, Result]:
    return training(built(words, seed), replace(digits, seed=seed), settings(seed, **trainer), seed=seed)


def together(jobs: Sequence[Generator[Any, Any, Result]]) -> list[Result]:
    found = []
    for result in train_together(jobs):
        if isinstance(result, Exception):
            raise result
        found.append(result)
    return found


def curves(result: Result) -> list[tuple[float, ...]]:
    return [tuple(row[name] for name in ("train_loss", "val_loss", "val_accuracy", "lr")) for row in result.history]


def assert_same_bits(a: Result, b: Result) -> None:
    assert a.model is not None and b.model is not None
    other = b.model.state_dict()
    assert curves(a) == curves(b)
    assert all(torch.equal(tensor, other[name]) for name, tensor in a.model.state_dict().items())


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MODELS])
def test_a_training_is_bit_identical_in_any_company_and_that_of_the_model_alone(name: str, digits: Data):
    words, most = MODELS[name], 7 if name == "mlp" else 3
    every = together([job(words, seed, digits) for seed in range(most)])
    for seeds in ([1], list(range(most))[::-1]):
        for seed, result in zip(seeds, together([job(words, seed, digits) for seed in seeds]), strict=True):
            assert_same_bits(result, every[seed])
    for seed in range(min(4, most)):
        alone = train_model(built(words, seed), replace(digits, seed=seed), settings(seed), seed=seed)
        for ours, own in zip(curves(every[seed]), curves(alone), strict=True):
            assert ours == pytest.approx(own, rel=1e-4)


def test_one_that_diverges_stops_early_or_is_done_leaves_and_harms_no_other(digits: Data):
    words = MODELS["mlp"]
    others = ({"max_epochs": 1}, {"patience": 1, "monitor": "val_accuracy"}, {"max_steps": 3, "accumulate": 1}, {})
    quick = {"_target_": "torch.optim.SGD", "lr": 1e30}

    def jobs() -> list[Generator[Any, Any, Result]]:
        made = [job(words, seed, digits, **trainer) for seed, trainer in enumerate(others)]
        return [*made, training(built(words, 0), digits, settings(0, quick))]

    *ended, failed = train_together(jobs())
    assert isinstance(failed, TrainingError) and "the loss is" in str(failed)
    for result, wanted in zip(ended, others, strict=True):
        assert isinstance(result, Result) and result.status == "completed"
        assert len(result.history) == wanted.get("max_epochs", len(result.history))
    for seed, trainer in enumerate(others):
        (own,) = together([job(words, seed, digits, **trainer)])
        assert_same_bits(own, ended[seed])  # pyright: ignore[reportArgumentType]


def test_each_draws_its_dropout_as_it_would_alone(digits: Data):
    def model(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.4), nn.ReLU(), nn.Linear(16, 10))

    before = torch.random.get_rng_state()
    both = together([training(model(seed), digits, settings(0), seed=seed) for seed in (0, 1)])
    assert torch.equal(torch.random.get_rng_state(), before)
    for seed in (0, 1):
        alone = train_model(model(seed), digits, settings(0), seed=seed)
        for ours, own in zip(curves(both[seed]), curves(alone), strict=True):
            assert ours == pytest.approx(own, rel=1e-4)


def test_losses_class_weights_and_freezing_may_differ(digits: Data):
    losses = [
        {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.1},
        {"_target_": "torch.nn.CrossEntropyLoss", "weight": [1.0] * 9 + [3.0]},
        None,
        {"_target_": "torch.nn.MultiMarginLoss"},
    ]

    def thaw(model: nn.Module, at: int):
        model.get_submodule("fc1").requires_grad_(False)

        def before_epoch(epoch: int) -> None:
            if epoch == at:
                model.get_submodule("fc1").requires_grad_(True)

        return before_epoch

    def one(seed: int) -> Generator[Any, Any, Result]:
        model = built(MODELS["mlp"], seed)
        later = {} if seed else {"fc1.weight": 2, "fc1.bias": 2}
        hook = thaw(model, 2) if later else None
        return training(model, digits, settings(0, loss=losses[seed]), before_epoch=hook, thawed_later=later)

    every = together([one(seed) for seed in range(4)])
    for seed in range(4):
        (own,) = together([one(seed)])
        assert_same_bits(own, every[seed])


def test_what_goes_wrong_in_the_stack_is_told_to_every_training_and_raised(digits: Data):
    ended = []

    def watched(seed: int) -> Generator[Any, Any, Result]:
        try:
            return (yield from job(MODELS["mlp"], seed, digits, **({"precision": "bf16"} if seed else {})))
        except CannotStack as error:
            ended.append(str(error))
            raise

    with pytest.raises(CannotStack, match="another precision than fp32"):
        train_together([watched(0), watched(1)])
    assert len(ended) == 2


def test_each_piece_of_work_is_done_in_the_turn_of_its_training(digits: Data):
    turns: list[int] = []

    @contextlib.contextmanager
    def turn(place: int):
        turns.append(place)
        yield

    train_together([job(MODELS["mlp"], seed, digits, max_epochs=1) for seed in range(2)], turn)
    assert turns[:4] == [0, 1, 0, 1] and set(turns) == {0, 1}


def test_the_test_split_is_measured_of_each_alike(digits: Data):
    x, y = digits.train.x, digits.train.y
    assert x is not None and y is not None
    data, words = replace(digits, test=Split(x[:100], y[:100])), MODELS["mlp"]
    optimizers = [{"_target_": "torch.optim.SGD", "lr": lr} for lr in (0.1, 30.0)]  # the second is not best in each epoch

    def one(seed: int) -> Generator[Any, Any, Result]:
        return training(built(words, seed), data, settings(seed, optimizers[seed], max_epochs=4), seed=seed)

    both = together([one(0), one(1)])
    assert [result.best for result in both] == [together([one(seed)])[0].best for seed in (0, 1)]
    assert both[1].best["epoch"] < 4 and both[1].best["test_loss"] is not None
