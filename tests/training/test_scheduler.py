import math
from dataclasses import replace

import pytest
import torch

from modelfactory.config.errors import ConfigError, Problems
from modelfactory.training.scheduler import build_schedule, read_scheduler

PREFIX = "torch.optim.lr_scheduler."
EPOCHS, STEPS = 4, 5


def plateau(monitor, **keys):
    problems = Problems()
    spec = read_scheduler({"_target_": PREFIX + "ReduceLROnPlateau", **keys}, problems, monitor=monitor)
    problems.raise_if_any()
    return spec


@pytest.mark.parametrize(("monitor", "mode"), [("val_loss", "min"), ("train_loss", "min"), ("val_accuracy", "max"), (None, None)])
def test_the_mode_of_a_plateau_follows_what_is_monitored(monitor, mode):
    assert plateau(monitor).arguments.get("mode") == mode
    if mode is not None:
        assert plateau(monitor, mode=mode).arguments["mode"] == mode
        other = {"min": "max", "max": "min"}[mode]
        message = f"scheduler.mode: '{other}' contradicts trainer.monitor={monitor}; leave it out, or give {mode}"
        with pytest.raises(ConfigError, match=message):
            plateau(monitor, mode=other)


def spec_of(kind, **keys):
    problems = Problems()
    spec = read_scheduler({"_target_": kind and PREFIX + kind, **keys}, problems)
    problems.raise_if_any()
    assert spec is not None
    return spec


def optimizer_of(lrs=(0.1,)):
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr, "lr_scale": lr / 0.1} for lr in lrs]
    return torch.optim.SGD(groups, momentum=0.9)


def rates(spec, lrs=(0.1,), values=(1.0,) * EPOCHS):
    """The learning rates of each group at which each step is taken."""
    optimizer = optimizer_of(lrs)
    schedule = build_schedule(spec, optimizer, STEPS, EPOCHS * STEPS)
    taken = []
    for epoch in range(EPOCHS):
        for _ in range(STEPS):
            taken.append([group["lr"] for group in optimizer.param_groups])
            if schedule.each_step:
                schedule.step_done()
        schedule.epoch_done((epoch + 1) * STEPS, values[epoch])
    return torch.tensor(taken, dtype=torch.float64)


def cosine(count):
    return [0.05 * (1 + math.cos(math.pi * index / count)) for index in range(count)]


def each_epoch(values):
    return [value for value in values for _ in range(STEPS)]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (spec_of(None), [0.1] * 20),
        (spec_of("StepLR", step_size=2), each_epoch([0.1, 0.1, 0.01, 0.01])),
        (spec_of("CosineAnnealingLR"), each_epoch(cosine(4))),
        (spec_of("CosineAnnealingLR", T_max=8), each_epoch(cosine(8)[:4])),
        (spec_of("CosineAnnealingLR", interval="step"), cosine(20)),
        (spec_of("CosineAnnealingLR", warmup_epochs=1), [0.1 * t / 6 for t in range(1, 6)] + each_epoch(cosine(3))),
        (spec_of("CosineAnnealingLR", warmup_epochs=1, interval="step"), [0.1 * t / 6 for t in range(1, 6)] + cosine(15)),
        (spec_of(None, warmup_epochs=0.4), [0.1 / 3, 0.2 / 3] + [0.1] * 18),
        (spec_of("StepLR", step_size=1, warmup_epochs=0.4), [0.1 / 3, 0.2 / 3] + [0.1] * 8 + [0.01] * 5 + [0.001] * 5),
    ],
    ids=str,
)
def test_each_step_is_taken_at_the_rate_of_the_formula(spec, expected):
    torch.testing.assert_close(rates(spec)[:, 0], torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def test_onecycle_ends_with_the_training_and_peaks_at_the_rate_of_each_group():
    taken = rates(spec_of("OneCycleLR", interval="step", pct_start=0.5), lrs=(0.1, 0.4))
    torch.testing.assert_close(taken.max(0).values, torch.tensor([0.1, 0.4], dtype=torch.float64), rtol=0.01, atol=0)
    assert (taken[-1] < 1e-5 * taken.max(0).values).all() and (taken[0] < 0.05 * taken.max(0).values).all()


def test_a_given_max_lr_keeps_the_scale_of_the_groups():
    taken = rates(spec_of("OneCycleLR", interval="step", max_lr=1.0, pct_start=0.5), lrs=(0.1, 0.2))
    torch.testing.assert_close(taken[:, 1], 2 * taken[:, 0])


def test_plateau_follows_the_monitored_value():
    taken = rates(spec_of("ReduceLROnPlateau", patience=0, factor=0.5), values=(1.0, 1.0, 0.1, 0.1))
    assert taken[::STEPS, 0].tolist() == [0.1, 0.1, 0.05, 0.05]


def test_a_constant_schedule_asks_nothing_of_a_step():
    assert not build_schedule(spec_of(None), optimizer_of(), STEPS, 20).each_step
    assert not build_schedule(spec_of("StepLR", step_size=1), optimizer_of(), STEPS, 20).each_step
    assert build_schedule(spec_of(None, warmup_epochs=1), optimizer_of(), STEPS, 20).each_step


@pytest.mark.parametrize(
    "spec", [spec_of("CosineAnnealingLR", warmup_epochs=0.4), spec_of("OneCycleLR", interval="step")], ids=str
)
def test_the_state_goes_on_where_it_was(spec):
    whole = rates(spec)[:, 0].tolist()
    first, second = optimizer_of(), optimizer_of()
    schedule = build_schedule(spec, first, STEPS, 20)
    for _ in range(STEPS):
        schedule.step_done()
    schedule.epoch_done(STEPS, 1.0)
    resumed = build_schedule(spec, second, STEPS, 20)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    taken = []
    for epoch in range(1, EPOCHS):
        for _ in range(STEPS):
            taken.append(resumed.lr)
            resumed.step_done()
        resumed.epoch_done((epoch + 1) * STEPS, 1.0)
    assert taken == whole[STEPS:]


def test_a_state_of_a_training_of_another_length_is_refused():
    state = build_schedule(spec_of("CosineAnnealingLR"), optimizer_of(), STEPS, 20).state_dict()
    with pytest.raises(ValueError, match="made for 4 epochs and would go on over 8"):
        build_schedule(spec_of("CosineAnnealingLR"), optimizer_of(), STEPS, 40).load_state_dict(state)


def test_a_warm_up_as_long_as_the_training_is_refused():
    with pytest.raises(ConfigError, match="scheduler.warmup_epochs: 4 is not less than the 4 epochs"):
        build_schedule(spec_of(None, warmup_epochs=4), optimizer_of(), STEPS, 20)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("cosine", "scheduler: 'cosine' is not a mapping"),
        ({"_target_": "torch.optim.lr_scheduler.Cosine"}, "scheduler._target_: .*did you mean|choose one"),
        ({"_target_": "torch.optim.AdamW"}, "scheduler._target_: 'torch.optim.AdamW' is refused"),
        ({"_target_": PREFIX + "LambdaLR"}, "scheduler._target_: .*needs Python"),
        ({"_target_": PREFIX + "StepLR"}, "scheduler.step_size: missing"),
        ({"_target_": PREFIX + "StepLR", "step_size": 0}, "scheduler: StepLR refuses it|scheduler.step_size"),
        ({"_target_": PREFIX + "StepLR", "step_size": 3, "gamma": float("nan")}, "scheduler.gamma: nan is not finite"),
        ({"_target_": PREFIX + "StepLR", "step_size": 3, "last_epoch": 3}, "scheduler.last_epoch: not a key here"),
        ({"_target_": PREFIX + "OneCycleLR", "pct_start": 3.0}, "scheduler: OneCycleLR refuses it|scheduler.pct_start"),
        ({"_target_": PREFIX + "ReduceLROnPlateau", "interval": "step"}, "scheduler.interval: 'step' does not go"),
        ({"_target_": None, "gamma": 0.1}, "scheduler.gamma: not a key of a constant schedule"),
        ({"_target_": None, "warmup_epochs": -1}, "scheduler.warmup_epochs: -1 is too small"),
        ({"_target_": None, "interval": "batch"}, "scheduler.interval: 'batch'"),
        ({"_target_": PREFIX + "ExponentialLR", "gama": 0.1}, "scheduler.gama: .*did you mean 'gamma'"),
        ({"_target_": PREFIX + "CyclicLR", "base_lr": -1.0, "max_lr": 1.0}, "scheduler.base_lr: -1.0 is too small"),
        ({"_target_": PREFIX + "StepLR", "step_size": 1, "max_lr": 1.0}, "scheduler.max_lr: not an argument of StepLR"),
    ],
)
def test_a_wrong_scheduler_config_says_what_is_wrong(mapping, message):
    problems = Problems()
    assert read_scheduler(mapping, problems) is None
    with pytest.raises(ConfigError, match=message):
        problems.raise_if_any()


FLOORS = {
    "cosine": spec_of("CosineAnnealingLR", eta_min=0.02),
    "warm restarts": spec_of("CosineAnnealingWarmRestarts", T_0=2, eta_min=0.05, interval="step"),
    "cyclic": spec_of("CyclicLR", interval="step", base_lr=0.03, max_lr=0.2, step_size_up=3),
    "polynomial": spec_of("PolynomialLR", total_iters=3),
    "onecycle": spec_of("OneCycleLR", interval="step", max_lr=0.5),
    "plateau": spec_of("ReduceLROnPlateau", patience=0, min_lr=0.06),
}


@pytest.mark.parametrize("name", FLOORS)
def test_groups_keep_their_ratio_at_every_step_and_floor(name):
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": 0.1 * s, "lr_scale": s, "unscaled_lr": 0.1} for s in (1, 0.3, 0)]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    schedule = build_schedule(replace(FLOORS[name], warmup_epochs=0.5), optimizer, steps_per_epoch=4, max_steps=24)
    seen = []
    for step in range(1, 25):
        seen.append(schedule.lr)
        assert [group["lr"] for group in optimizer.param_groups] == [schedule.lr, schedule.lr * 0.3, 0]
        optimizer.step()
        schedule.step_done()
        if step % 4 == 0:
            schedule.epoch_done(step, 1.0)
    assert len(set(seen)) > 3
