"""Learning rate schedules: torch.optim.lr_scheduler by `_target_`, an optional warm-up before it.

    scheduler: {_target_: torch.optim.lr_scheduler.CosineAnnealingLR, interval: epoch, warmup_epochs: 2}

The schedule begins where the warm-up ends. `T_max` and `total_steps` that are null or left out are the length of
the rest of the training, in epochs or in steps as `interval` says.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from modelfactory.config import target
from modelfactory.config.errors import ConfigError, Problem, Problems, nearest
from modelfactory.config.schema import check_value, join, key, read
from modelfactory.training.no_dynamo import without_dynamo
from modelfactory.training.spec import MONITORS

CONSTANT = {"_target_": None}
_LENGTHS = ("T_max", "total_steps")
_NOT_NEGATIVE = frozenset({"max_lr", "base_lr", "eta_min", "min_lr", "gamma", "factor", "start_factor", "end_factor"})
_COUNTS = frozenset({"T_max", "T_0", "total_steps", "step_size", "total_iters", "epochs", "steps_per_epoch", "step_size_up"})
_NUMBERS = _NOT_NEGATIVE | _COUNTS
_NEED_PYTHON = ("LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler", "SWALR", "LRScheduler")


@dataclass(frozen=True)
class CommonSpec:
    """The keys that every schedule has."""

    interval: Literal["epoch", "step"] = "epoch"
    warmup_epochs: float = key(0.0, min=0)


_COMMON = tuple(field.name for field in fields(CommonSpec))


@dataclass(frozen=True)
class SchedulerSpec:
    """A class of torch.optim.lr_scheduler (None: constant) and its arguments.

    Attributes:
        interval: whether it is stepped each epoch or each optimizer step.
        warmup_epochs: epochs over which the learning rate rises linearly from near 0; may be a fraction.
    """

    kind: type[LRScheduler] | None
    arguments: dict[str, Any]
    interval: str
    warmup_epochs: float


def read_scheduler(
    mapping: Any, problems: Problems, path: str = "scheduler", max_epochs: int | None = None, monitor: str | None = None
) -> SchedulerSpec | None:
    """The `scheduler` group of a config, constant where there is none; None after adding to `problems` all that is wrong.

    Args:
        max_epochs: of the training, where it is known.
        monitor: what the trainer monitors, where it is known: ReduceLROnPlateau's `mode` follows from it.

    Example:
        >>> problems = Problems()
        >>> read_scheduler({"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 3, "gama": 0.1}, problems)
        >>> print(*problems)
        scheduler.gama: not an argument of StepLR; did you mean 'gamma'?
    """
    found = len(problems)
    mapping = CONSTANT if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        problems.add(path, f"{mapping!r} is not a mapping; give _target_ (null: constant), interval and warmup_epochs")
        return None
    name, given = target.split(mapping)
    spec = read(CommonSpec, {key: value for key, value in given.items() if key in _COMMON}, path, problems)
    arguments = {key: value for key, value in given.items() if key not in _COMMON}
    if name is None:
        for extra in arguments:
            problems.add(
                join(path, extra),
                f"not a key of a constant schedule{_nearest(extra)}; name one with _target_, such as torch.optim.lr_scheduler.StepLR",
            )
        if spec is not None and len(problems) == found:
            return _tried(SchedulerSpec(None, {}, spec.interval, spec.warmup_epochs), max_epochs, path, problems)
        return None
    kind = target.resolve(name, join(path, "_target_"), problems, kind="scheduler")
    if kind is None:
        return None
    if kind.__name__ in _NEED_PYTHON:
        problems.add(
            join(path, "_target_"), f"{name!r} needs Python functions or objects; give StepLR, CosineAnnealingLR, OneCycleLR, ..."
        )
        return None
    if issubclass(kind, ReduceLROnPlateau) and spec is not None and spec.interval == "step":
        problems.add(
            join(path, "interval"), "'step' does not go with ReduceLROnPlateau, which needs the epoch's value; give epoch"
        )
    checked = _check_arguments(kind, arguments, path, problems)
    if issubclass(kind, ReduceLROnPlateau) and monitor in MONITORS:
        checked = _with_mode(checked, monitor, path, problems)
    if spec is not None and len(problems) == found:
        return _tried(SchedulerSpec(kind, checked, spec.interval, spec.warmup_epochs), max_epochs, path, problems)
    return None


def _with_mode(arguments: dict[str, Any], monitor: str, path: str, problems: Problems) -> dict[str, Any]:
    """The arguments of ReduceLROnPlateau with the direction of what is monitored."""
    mode = "max" if MONITORS[monitor] else "min"
    if arguments.get("mode", mode) != mode:
        problems.add(join(path, "mode"), f"{arguments['mode']!r} contradicts trainer.monitor={monitor}; leave it out, or give {mode}")
    return {**arguments, "mode": mode}


def _nearest(key: Any) -> str:
    close = nearest(str(key), _COMMON)
    return f", which has {close!r}" if close else ""


def _check_arguments(kind: type[LRScheduler], arguments: dict[str, Any], path: str, problems: Problems) -> dict[str, Any]:
    for refused in ("optimizer", "last_epoch"):
        if refused in arguments:
            problems.add(join(path, refused), "not a key here; the trainer gives it")
    takes = inspect.signature(kind).parameters
    filled = {name for name in (*_LENGTHS, "max_lr") if name in takes}
    plain = {name: value for name, value in arguments.items() if not (name in filled and value is None)}
    plain = {name: value for name, value in plain.items() if name not in ("optimizer", "last_epoch")}
    for name in plain.keys() & _NUMBERS:
        if name not in takes:
            target.check_arguments(kind, {name: plain[name]}, path, problems, inferred=set(takes), also=_COMMON)
        elif name in _COUNTS:
            check_value(plain[name], int, join(path, name), problems, {"min": 1})
        elif not isinstance(plain[name], (list, tuple)):  # a list has a number for each group
            check_value(plain[name], float, join(path, name), problems, {"min": 0})
    if "milestones" in plain and "milestones" in takes:
        check_value(plain["milestones"], tuple[int, ...], join(path, "milestones"), problems)
    rest = {name: value for name, value in plain.items() if name not in _NUMBERS}
    checked = target.check_arguments(kind, rest, path, problems, inferred={"optimizer", *filled, *plain}, also=_COMMON)
    return {**plain, **(checked or {})}


def _tried(spec: SchedulerSpec, max_epochs: int | None, path: str, problems: Problems) -> SchedulerSpec | None:
    """Builds it on an optimizer of one number, for what only torch's constructor knows."""
    with without_dynamo():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    if max_epochs is None:
        max_epochs = math.ceil(spec.warmup_epochs) + 1
    try:  # the steps of an epoch are not known without the data: few enough for any total_steps
        build_schedule(spec, optimizer, steps_per_epoch=100, max_steps=100 * max_epochs, path=path, fitted=False)
    except ConfigError as error:
        problems.extend(error.problems)
        return None
    return spec


class Schedule:
    """Steps the learning rates of an optimizer: the warm-up first, then torch's scheduler.

    The schedule is that of the learning rate before `lr_scale`; every group has it times its own scale at each step, so
    that the ratios between groups stay as they are, down to and at a floor such as `eta_min`.

    During the W steps of the warm-up, step t (from 0) is taken at (t + 1) / (W + 1) of the learning rate at which
    the schedule begins.

    Attributes:
        length: the epochs or steps that the schedule was fitted to; None where the config said it, or nothing did.
        each_step: whether `step_done` does anything; a loop need not call it where it does not.
    """

    def __init__(self, optimizer: Optimizer, scheduler: Any, interval: str, warmup_steps: int, length: int | None = None):
        self.length = length
        self.optimizer, self.scheduler, self.interval = optimizer, scheduler, interval
        self.warmup_steps, self.steps, self._epoch_began = warmup_steps, 0, 0
        self._full_lrs = [_unscaled(group) for group in optimizer.param_groups]
        self.each_step = warmup_steps > 0 or (scheduler is not None and interval == "step")
        if warmup_steps:
            self._warm()

    def step_done(self) -> None:
        """After each optimizer step."""
        self.steps += 1
        if self.steps <= self.warmup_steps:
            self._warm()
        elif self.scheduler is not None and self.interval == "step":
            self._advance()

    def epoch_done(self, steps: int, value: float) -> None:
        """After each epoch, `steps` optimizer steps in all; `value` is the monitored one, which ReduceLROnPlateau wants."""
        began, self._epoch_began, self.steps = self._epoch_began, steps, steps
        if self.scheduler is None or self.interval == "step" or began < self.warmup_steps:
            return  # the epoch in which the warm-up ends is not one of the schedule's
        self._advance(*[value] if isinstance(self.scheduler, ReduceLROnPlateau) else [])

    @property
    def lr(self) -> float:
        """The learning rate of the first group, before its `lr_scale`."""
        return _unscaled(self.optimizer.param_groups[0])

    def _warm(self) -> None:
        share = min(1.0, (self.steps + 1) / (self.warmup_steps + 1))
        for group, full in zip(self.optimizer.param_groups, self._full_lrs, strict=True):
            group["lr"] = full * share
        _scale(self.optimizer)

    def _advance(self, *value: float) -> None:
        # torch's check that the optimizer stepped first looks at this mark, which `eager_step` goes past
        self.optimizer._opt_called = True  # pyright: ignore[reportAttributeAccessIssue]
        _unscale(self.optimizer)
        self.scheduler.step(*value)
        _scale(self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Plain data: the steps taken and torch's scheduler's own state."""
        inner = {} if self.scheduler is None else _plain(self.scheduler.state_dict())
        return {"steps": self.steps, "epoch_began": self._epoch_began, "length": self.length, "scheduler": inner}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave; the optimizer's own state, with the learning rates, is loaded apart.

        Raises:
            ValueError: the schedule was made for a training of another length.
        """
        if state["length"] != self.length:
            raise ValueError(f"the schedule was made for {state['length']} {self.interval}s and would go on over {self.length}")
        self.steps, self._epoch_began = state["steps"], state["epoch_began"]
        if self.scheduler is not None:
            self.scheduler.load_state_dict(dict(state["scheduler"]))


def _unscaled(group: Mapping[str, Any]) -> float:
    if "unscaled_lr" in group:
        return float(group["unscaled_lr"])
    return float(group["lr"]) / (group.get("lr_scale", 1.0) or 1.0)


def _unscale(optimizer: Optimizer) -> None:
    """Puts the learning rates before their scales into the groups, for torch's scheduler to work on."""
    for group in optimizer.param_groups:
        group["lr"] = _unscaled(group)


def _scale(optimizer: Optimizer) -> None:
    """Undoes `_unscale`, for the learning rates that are in the groups at present."""
    for group in optimizer.param_groups:
        group["unscaled_lr"] = group["lr"]
        group["lr"] = group["lr"] * group.get("lr_scale", 1.0)


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Without the functions that some of torch's schedulers keep, which their constructors make again."""
    return {name: value for name, value in state.items() if not callable(value)}


def build_schedule(
    spec: SchedulerSpec,
    optimizer: Optimizer,
    steps_per_epoch: int,
    max_steps: int,
    path: str = "scheduler",
    fitted: bool = True,
) -> Schedule:
    """The schedule of `optimizer` over a training of `max_steps` optimizer steps.

    Learning rates that the arguments name are those before `lr_scale`; a `max_lr` of null is each group's own. With
    `fitted` false, `steps_per_epoch` is a guess, and whether `total_steps` is enough is not looked at.

    Raises:
        ConfigError: a warm-up as long as the training, or a `total_steps` shorter than it.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> schedule = build_schedule(SchedulerSpec(None, {}, "epoch", 1.0), optimizer, steps_per_epoch=3, max_steps=9)
        >>> round(schedule.lr, 6)
        0.025
    """
    warmup_steps = round(min(spec.warmup_epochs * steps_per_epoch, max_steps))
    if warmup_steps >= max_steps and warmup_steps:
        epochs = max_steps / steps_per_epoch
        message = f"{spec.warmup_epochs:g} is not less than the {epochs:g} epochs of the training; give fewer, or 0"
        raise ConfigError([Problem(join(path, "warmup_epochs"), message)])
    if spec.kind is None:
        return Schedule(optimizer, None, spec.interval, warmup_steps)
    if spec.interval == "step":
        length = max_steps - warmup_steps
    else:  # whole epochs after the one in which the warm-up ends
        length = max(1, -(-max_steps // steps_per_epoch) - -(-warmup_steps // steps_per_epoch))
    takes = inspect.signature(spec.kind).parameters
    arguments: dict[str, Any] = dict(spec.arguments)
    sized = "epochs" in arguments and "steps_per_epoch" in arguments  # OneCycleLR's other way to say its length
    to_fill = [name for name in _LENGTHS if name in takes and name not in arguments and not sized]
    arguments.update(dict.fromkeys(to_fill, length))
    total = arguments.get("total_steps")
    if fitted and issubclass(spec.kind, OneCycleLR) and isinstance(total, int) and total < length:
        message = f"{total} is less than the {length} {spec.interval}s that it is stepped; give null, which fits it"
        raise ConfigError([Problem(join(path, "total_steps"), message)])
    if "max_lr" in takes and arguments.get("max_lr") is None:
        arguments["max_lr"] = [_unscaled(group) for group in optimizer.param_groups]
    _unscale(optimizer)
    try:
        scheduler = spec.kind(optimizer, **arguments)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError, KeyError) as error:
        raise ConfigError([Problem(path, f"{spec.kind.__name__} refuses it: {error}")]) from error
    _scale(optimizer)
    return Schedule(optimizer, scheduler, spec.interval, warmup_steps, length if to_fill else None)
