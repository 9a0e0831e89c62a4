"""What a training works with, read from the `trainer` group and chosen once, before the first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.data.batches import make_batches
from modelfactory.data.dataset import Data
from modelfactory.training.device import autocast, check_device, make_scaler
from modelfactory.training.loss import build_loss, check_fit, check_num_classes
from modelfactory.training.optimizer import DEFAULT, build_optimizer, check_optimizer
from modelfactory.training.scheduler import CONSTANT, Schedule, build_schedule, check_scheduler
from modelfactory.training.spec import TrainerSpec, check_trainer


@dataclass(frozen=True)
class Run:
    """What the loop works with, chosen once."""

    spec: TrainerSpec
    device: torch.device
    forward: Callable[[Tensor], Any]
    trained: nn.Module  # what `forward` computes: the model, or what comes after the features that are kept
    loss: nn.Module
    sums: bool  # whether the loss is a sum over the batch, not a mean
    task: str
    optimizer: torch.optim.Optimizer
    parameters: list[Tensor]
    schedule: Schedule
    scaler: Any
    autocast: Any
    train: Any
    val: Any
    train_batches: int
    val_batches: int
    max_steps: int
    num_samples: int  # for training

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.train_batches // self.spec.accumulate)


def set_up(
    model: nn.Module, data: Data, optimizer: Any, scheduler: Any, trainer: Any, thawed_later: Mapping[str, int] | None
) -> Run:
    problems = Problems()
    spec = check_trainer({} if trainer is None else trainer, problems, task=data.task)
    optimizer = DEFAULT if optimizer is None else optimizer
    check_optimizer(optimizer, problems)
    max_epochs = spec.max_epochs if spec is not None else None
    schedule_spec = check_scheduler(CONSTANT if scheduler is None else scheduler, problems, max_epochs=max_epochs)
    if spec is None or problems or schedule_spec is None:
        raise ConfigError(problems)
    device = check_device(spec.device, "trainer.device", problems)
    loss = build_loss(spec.loss, data.task, problems)
    if device is None or loss is None:
        raise ConfigError(problems)
    model.to(device)
    forward = torch.compile(model) if spec.compile else model
    train = make_batches(data.train, data.batch_size, device, seed=data.seed, num_workers=data.num_workers)
    val = make_batches(data.val, data.val_batch_size or data.batch_size, device, num_workers=data.num_workers)
    train_batches, val_batches = len(train), len(val)
    if spec.limit_batches is not None:
        train_batches, val_batches = min(train_batches, spec.limit_batches), min(val_batches, spec.limit_batches)
    steps_per_epoch = -(-train_batches // spec.accumulate)
    max_steps = min(spec.max_epochs * steps_per_epoch, spec.max_steps or spec.max_epochs * steps_per_epoch)
    torch_optimizer = build_optimizer(optimizer, model, thawed_later=thawed_later)
    return Run(
        spec=spec,
        device=device,
        forward=forward,
        trained=model,
        loss=loss.to(device),
        sums=getattr(loss, "reduction", "mean") == "sum",
        task=data.task,
        optimizer=torch_optimizer,
        parameters=[parameter for group in torch_optimizer.param_groups for parameter in group["params"]],
        schedule=build_schedule(schedule_spec, torch_optimizer, steps_per_epoch, max_steps),
        scaler=make_scaler(device, spec.precision),
        autocast=autocast(device, spec.precision),
        train=train,
        val=val,
        train_batches=train_batches,
        val_batches=val_batches,
        max_steps=max_steps,
        num_samples=len(data.train),
    )


def check_model(run: Run, model: nn.Module, data: Data) -> None:
    """Raises ConfigError where the model cannot take an input, or the loss cannot compare its output with the targets."""
    x, y = (tensor.to(run.device) for tensor in data.train.sample(2))
    model.eval()
    with torch.no_grad(), run.autocast:
        try:
            output = model(x)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            message = f"cannot take an input of shape {list(x.shape)}: {error}"
            raise ConfigError([Problem("model", message)]) from error
        if run.task == "classification" and isinstance(output, Tensor):
            check_num_classes(output, data.num_classes)
        check_fit(run.loss, output, y)
