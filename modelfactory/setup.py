"""What a training works with, read from the `trainer` group and chosen once, before the first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.checkpoint import CHECKPOINT
from modelfactory.data.batches import make_batches
from modelfactory.data.sets import Data
from modelfactory.device import (
    PRECISIONS,
    autocast,
    check_device,
    check_precision,
    make_scaler,
)
from modelfactory.errors import ConfigError, Problem, Problems, did_you_mean
from modelfactory.loss import build_loss, check_fit, check_num_classes
from modelfactory.optimizer import DEFAULT, build_optimizer, check_optimizer
from modelfactory.progress import STYLES
from modelfactory.scheduler import CONSTANT, Schedule, build_schedule, check_scheduler
from modelfactory.spec import join, key, read
from modelfactory.tracking import TRACKERS, check_tracker

CACHES = ("memory", "disk")
SIGNALS = ("picture", "histograms", "table", "none")
# The monitored values, and whether a larger one is better.
MONITORS = {"val_loss": False, "train_loss": False, "val_accuracy": True}


@dataclass(frozen=True)
class TrainerSpec:
    """The `trainer` group of a config.

    Attributes:
        max_epochs: passes over the training data.
        max_steps: optimizer steps in all, after which training stops within an epoch; null: no such limit.
        device: auto, cpu, cuda, xpu, mps, or one of several, such as cuda:1.
        precision: fp32, or autocast to bf16 or to fp16 (with a loss scaler).
        compile: whether torch.compile compiles the model.
        clip_norm: the largest norm of all gradients together; null: no clipping.
        accumulate: batches whose gradients make one optimizer step.
        resume: the directory of a run to go on with.
        loss: `_target_` of a loss module and its arguments; null: cross entropy for classes, mean squares for values.
        monitor: what the best epoch is best by, and what early stopping and ReduceLROnPlateau look at.
        patience: epochs without a better monitored value after which training stops; null: never.
        limit_batches: training batches, and validation batches, that an epoch has at most.
        check_every: optimizer steps between two looks at the loss on a device that is not waited for (all but the CPU).
        cache_features: whether what the frozen beginning of the model gives is computed once and kept: true or memory for
            on the device, disk for under the run directory.
        progress: auto (a bar on a terminal, else a line an epoch), bar, lines or none.
        tracker: who is told of each epoch beside metrics.csv: tensorboard, mlflow or wandb; null: nobody.
        signal: what is left of a look at the signal before training: picture (signal.csv and signal.png), histograms (these and
            signal_histograms.png), table (signal.csv), or none, which does not look.
    """

    max_epochs: int = key(20, min=1)
    max_steps: int | None = key(None, min=1)
    device: str = "auto"
    precision: str = key("fp32", choices=tuple(PRECISIONS))
    compile: bool = False
    clip_norm: float | None = key(None, above=0)
    accumulate: int = key(1, min=1)
    resume: str | None = None
    loss: dict | None = None
    monitor: str = key("val_loss", choices=tuple(MONITORS))
    patience: int | None = key(None, min=1)
    limit_batches: int | None = key(None, min=1)
    check_every: int = key(50, min=1)
    cache_features: bool | str = False
    progress: str = key("auto", choices=STYLES)
    tracker: str | None = key(None, choices=tuple(TRACKERS))
    signal: str = key("picture", choices=SIGNALS)

    @property
    def cached(self) -> str | None:
        """Where features are kept."""
        return "memory" if self.cache_features is True else self.cache_features or None


def check_trainer(mapping: Any, problems: Problems, path: str = "trainer", task: str | None = None) -> TrainerSpec | None:
    """The `trainer` group of a config, or None after adding to `problems` all that is wrong; `task` where it is known.

    Example:
        >>> problems = Problems()
        >>> check_trainer({"max_epoch": 3, "device": "cpu"}, problems)
        >>> print(*problems)
        trainer.max_epoch: not a key of trainer; did you mean 'max_epochs'?
    """
    found = len(problems)
    spec = read(TrainerSpec, mapping, path, problems)
    if spec is None:
        if isinstance(mapping, Mapping) and isinstance(mapping.get("loss"), Mapping):
            build_loss(mapping["loss"], task, problems, join(path, "loss"))
        return None
    device = check_device(spec.device, join(path, "device"), problems)
    if device is not None:
        check_precision(spec.precision, device, join(path, "precision"), problems)
    if isinstance(spec.cache_features, str) and spec.cache_features not in CACHES:
        hint = did_you_mean(spec.cache_features, CACHES)
        problems.add(join(path, "cache_features"), f"{spec.cache_features!r} is neither true nor false, nor a place{hint}")
    build_loss(spec.loss, task, problems, join(path, "loss"))
    check_tracker(spec.tracker, join(path, "tracker"), problems)
    if spec.monitor == "val_accuracy" and task == "regression":
        problems.add(join(path, "monitor"), "'val_accuracy' is of classes, and the data has values; give val_loss")
    if spec.resume is not None and not Path(spec.resume, CHECKPOINT).is_file():
        problems.add(
            join(path, "resume"), f"{spec.resume!r} has no {CHECKPOINT}; give the directory of a run that finished an epoch"
        )
    return spec if len(problems) == found else None


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
