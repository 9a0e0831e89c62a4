"""How a training goes: the groups `optimizer`, `scheduler` and `trainer` of a config, read once into one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from modelfactory.config.errors import ConfigError, Problems
from modelfactory.config.schema import read_values
from modelfactory.training.loss import LossSpec, read_loss
from modelfactory.training.optimizer import OptimizerSpec, read_optimizer
from modelfactory.training.scheduler import SchedulerSpec, read_scheduler
from modelfactory.training.spec import TrainerSpec, check_trainer

GROUPS = ("optimizer", "scheduler", "trainer")


@dataclass(frozen=True)
class TrainingSpec:
    """How a training goes.

    Attributes:
        device: what `trainer.device` means on this machine.
        loss: None: cross entropy for classes, mean squares for values.
        given: the groups as they were given, which a checkpoint records.
    """

    optimizer: OptimizerSpec
    scheduler: SchedulerSpec
    trainer: TrainerSpec
    device: torch.device
    loss: LossSpec | None
    given: Mapping[str, Any]


@dataclass(frozen=True)
class TrainingParts:
    """The same groups as far as they are right: None for a part that is wrong."""

    optimizer: OptimizerSpec | None
    scheduler: SchedulerSpec | None
    trainer: TrainerSpec | None
    device: torch.device | None
    loss: LossSpec | None
    given: Mapping[str, Any]

    def whole(self) -> TrainingSpec | None:
        """All of it; None where a part is wrong."""
        if self.optimizer is None or self.scheduler is None or self.trainer is None or self.device is None:
            return None
        return TrainingSpec(self.optimizer, self.scheduler, self.trainer, self.device, self.loss, self.given)


def read_training(config: Mapping[str, Any], problems: Problems) -> TrainingParts:
    """The groups of a config that say how a training goes; what is wrong with them goes to `problems`.

    A group that is missing or null has its defaults: AdamW at 0.001, a constant learning rate, those of `TrainerSpec`.

    Example:
        >>> problems = Problems()
        >>> config = {"trainer": {"max_epoch": 3}, "optimizer": {"_target_": "torch.optim.SGD", "lr": -1}}
        >>> read_training(config, problems).whole()
        >>> print(*problems, sep="\\n")
        optimizer.lr: -1 is too small; give a number >= 0
        trainer.max_epoch: not a key of trainer; did you mean 'max_epochs'?
    """
    given, of_trainer = {group: config.get(group) for group in GROUPS}, Problems()
    optimizer = read_optimizer(given["optimizer"], problems)
    trainer = given["trainer"]
    values = read_values(TrainerSpec, {} if trainer is None else trainer, "trainer", of_trainer)
    max_epochs = None if trainer is None else values.get("max_epochs")  # without the group a plan may be all that is wanted
    scheduler = read_scheduler(given["scheduler"], problems, max_epochs=max_epochs, monitor=values.get("monitor"))
    if of_trainer:
        spec, device, loss = None, None, read_loss(values.get("loss"), of_trainer)
    else:
        spec = TrainerSpec(**values)
        device, loss = check_trainer(spec, "trainer", of_trainer)
    problems.extend(of_trainer)
    return TrainingParts(optimizer, scheduler, None if of_trainer else spec, device, loss, given)


def training_spec(optimizer: Any = None, scheduler: Any = None, trainer: Any = None) -> TrainingSpec:
    """How a training goes by groups that are given one by one.

    Raises:
        ConfigError: everything that is wrong with them.

    Example:
        >>> training_spec(trainer={"max_epochs": 3}).trainer.max_epochs
        3
    """
    problems = Problems()
    spec = read_training({"optimizer": optimizer, "scheduler": scheduler, "trainer": trainer}, problems).whole()
    if spec is None:
        raise ConfigError(problems)
    return spec
