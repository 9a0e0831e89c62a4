"""What a training works with, read from the `trainer` group and chosen once, before the first step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.errors import ConfigError, Problem, Problems, first_line
from modelfactory.data.batches import BatchPart, make_batches
from modelfactory.data.dataset import IGNORED, Data
from modelfactory.training.device import autocast, is_not_deterministic, make_scaler
from modelfactory.training.distributed import World
from modelfactory.training.loss import are_class_shares, check_fit, check_num_classes, class_dim_of, make_loss, with_classes_at
from modelfactory.training.loss_mean import LossMean, find_mean, fits, has_ignored, known_mean
from modelfactory.training.optimizer import build_optimizer
from modelfactory.training.parallel import check_parallel
from modelfactory.training.scheduler import Schedule, build_schedule
from modelfactory.training.spec import TrainerSpec
from modelfactory.training.training_spec import TrainingSpec

log = logging.getLogger(__name__)
_FEW = 64  # samples whose targets are looked at


@dataclass(frozen=True)
class Run:
    """What the loop works with, chosen once."""

    spec: TrainerSpec
    device: torch.device
    forward: Callable[[Tensor], Any]
    trained: nn.Module  # what `forward` computes: the model, or what comes after the features that are kept
    loss: nn.Module
    mean: LossMean  # how the losses of batches add up
    task: str
    class_dim: int  # of the outputs of a classifier
    unit: str | None  # what a target is, where the loss is told by target: a byte, a token
    optimizer: torch.optim.Optimizer
    parameters: list[Tensor]
    schedule: Schedule
    scaler: Any
    autocast: Any
    train: Any
    val: Any
    test: Any  # None: there is no test split
    train_batches: int
    val_batches: int
    test_batches: int
    max_steps: int
    num_samples: int  # for training
    world: World
    warnings: tuple[str, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.train_batches // self.spec.accumulate)


def set_up(model: nn.Module, data: Data, settings: TrainingSpec, thawed_later: Mapping[str, int] | None, world: World) -> Run:
    """Choose what the loop works with.

    Raises:
        ConfigError: settings that do not go with the model, the data or the processes.
    """
    spec, device, problems = settings.trainer, settings.device, Problems()
    shares = data.task == "regression" and are_class_shares(data.train.sample(_FEW)[1])
    task = None if shares else data.task  # which the loss decides
    loss = make_loss(settings.loss, task, problems)
    if spec.monitor == "val_accuracy" and task == "regression":
        problems.add("trainer.monitor", "'val_accuracy' is of classes, and the data has values; give val_loss")
    problems.raise_if_any()
    if shares:
        task = _task_of_shares(settings, loss, problems)
    check_parallel(spec, device, model, data, world, problems)
    if loss is None or problems:
        raise ConfigError(problems)
    part = BatchPart(world.rank, world.size)
    loss = loss.to(device)
    model.to(device)
    forward = torch.compile(model) if spec.compile else model
    train = make_batches(
        data.train, data.batch_size, device, seed=data.seed, num_workers=data.num_workers, drop_last=data.drop_last, part=part
    )
    held_out = {name: split for name, split in data.parts.items() if name != "train"}
    measured = {
        name: make_batches(split, data.val_batch_size or data.batch_size, device, num_workers=data.num_workers, part=part)
        for name, split in held_out.items()
    }
    sizes = {"train": len(train), **{name: len(batches) for name, batches in measured.items()}}
    counts = {name: size if spec.limit_batches is None else min(size, spec.limit_batches) for name, size in sizes.items()}
    train_batches = counts["train"]
    steps_per_epoch = -(-train_batches // spec.accumulate)
    max_steps = min(spec.max_epochs * steps_per_epoch, spec.max_steps or spec.max_epochs * steps_per_epoch)
    optimizer = build_optimizer(settings.optimizer, model, thawed_later=thawed_later)
    return Run(
        spec=spec,
        device=device,
        forward=forward,
        trained=model,
        loss=loss,
        mean=known_mean(loss, data),
        warnings=_squares_of_labels(settings, data),
        task=task or data.task,
        class_dim=1,
        unit=data.unit,
        optimizer=optimizer,
        parameters=[parameter for group in optimizer.param_groups for parameter in group["params"]],
        schedule=build_schedule(settings.scheduler, optimizer, steps_per_epoch, max_steps),
        scaler=make_scaler(device, spec.precision),
        autocast=autocast(device, spec.precision),
        train=train,
        val=measured["val"],
        test=measured.get("test"),
        train_batches=train_batches,
        val_batches=counts["val"],
        test_batches=counts.get("test", 0),
        max_steps=max_steps,
        num_samples=len(data.train),
        world=world,
    )


def _task_of_shares(settings: TrainingSpec, loss: nn.Module | None, problems: Problems) -> str:
    """The task where targets are class shares, such as one-hot vectors: what the loss that is named makes of them."""
    if isinstance(loss, nn.CrossEntropyLoss) and settings.loss is not None:
        return "classification"
    if settings.loss is None:
        problems.add(
            "trainer.loss",
            "null, and the targets are one-hot vectors or class shares; give torch.nn.CrossEntropyLoss, which takes them (or return "
            "classes from the data set, their argmax(1)), or torch.nn.MSELoss if squares are meant",
        )
    elif settings.trainer.monitor == "val_accuracy":
        problems.add("trainer.monitor", f"'val_accuracy' needs torch.nn.CrossEntropyLoss, not {type(loss).__name__}; give val_loss")
    return "regression"


def _squares_of_labels(settings: TrainingSpec, data: Data) -> tuple[str, ...]:
    """Whether squares are trained on targets that are 0 or 1, as labels are."""
    y = data.train.sample(_FEW)[1] if settings.loss is None and data.task == "regression" else None
    if y is None or not bool(((y == 0) | (y == 1)).all()) or bool((y == y.flatten()[0]).all()):
        return ()
    return (
        "the targets are 0 and 1 in floats, and trainer.loss is null, which is mean squares; torch.nn.BCEWithLogitsLoss is for labels, "
        "torch.nn.MSELoss says that squares are meant",
    )


def check_model(run: Run, model: nn.Module, data: Data) -> Run:
    """The run, with what the mean of its loss is over found out where torch does not define it.

    Raises:
        ConfigError: the model cannot take an input, or the loss cannot compare its output with the targets.
    """
    x, y = (tensor.to(run.device) for tensor in data.train.sample(2))
    model.eval()
    with torch.no_grad(), run.autocast:
        try:
            output = model(x)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if is_not_deterministic(error):
                raise
            dtype = str(x.dtype).removeprefix("torch.")
            hint = "" if x.is_floating_point() else f" (the inputs are {dtype}: for anything but indices return floats from the data set)"
            message = f"cannot take an input of shape {list(x.shape)}: {error}{hint}"
            raise ConfigError([Problem("model", message)]) from error
        if run.task == "classification" and isinstance(output, Tensor):
            class_dim = class_dim_of(output, x, y)
            check_num_classes(output, data.num_classes, class_dim)
            is_text = class_dim == -1 and not x.is_floating_point()
            unit = run.unit or ("token" if is_text else None)
            run = replace(run, loss=with_classes_at(run.loss, class_dim), class_dim=class_dim, unit=unit)
        check_fit(run.loss, output, y)
    if run.spec.deterministic:  # an operation may have such a kernel forwards alone
        with torch.enable_grad(), run.autocast:
            run.loss(model(x), y).backward()
        model.zero_grad()
    mean, warnings = _check_mean(run, output, data)
    _check_last_batch(run, model, x, data)
    return replace(run, mean=mean, warnings=(*run.warnings, *warnings))


def _check_mean(run: Run, output: Tensor, data: Data) -> tuple[LossMean, list[str]]:
    """What the mean of the loss is over: an unknown loss is tried, and so is what one declares of itself; with warnings."""
    mean, name = run.mean, type(run.loss).__name__
    if mean.is_known and not mean.is_declared:
        return mean, []
    y = data.train.sample(_FEW)[1]
    if mean.is_declared:
        warning = f"trainer.loss: {name}.denominator is not what its mean is over: the losses of parts do not add up to that of all"
        return mean, [] if fits(mean, run.loss, output, y, data.num_classes) else [warning]
    ignored = mean.ignored if mean.ignored is not None else IGNORED if has_ignored(data, IGNORED) else None
    mean = find_mean(run.loss, output, y, data.num_classes, ignored)
    if not mean.is_known and run.world.size > 1:
        message = (
            f"the losses of the parts of a batch that {run.world.size} processes have do not add up: {name} is no mean over samples; give "
            "it a method denominator(y): what its mean over the targets y of a batch is over; or start one process"
        )
        raise ConfigError([Problem("trainer.loss", message)])
    if not mean.is_known and run.spec.accumulate > 1:
        message = (
            f"{run.spec.accumulate} batches do not add up to a step: {name} is no mean over samples; give 1, or give the loss a method "
            "denominator(y): what its mean over the targets y of a batch is over"
        )
        raise ConfigError([Problem("trainer.accumulate", message)])
    if not mean.is_known:
        log.info("trainer.loss: %s is no mean over samples: the validation loss is computed of all outputs at once", name)
    return mean, []


def _check_last_batch(run: Run, model: nn.Module, x: Tensor, data: Data) -> None:
    """Raises ConfigError where a training batch will have one sample, and the model cannot train on one: batch norm, as a rule."""
    size, count = data.batch_size, len(data.train)
    parts = 1 if run.spec.sync_batchnorm else run.world.size
    always = min(size, count) // parts == 1
    batches = min(run.train_batches, run.max_steps * run.spec.accumulate)  # a limit may leave the smaller batch out
    if not always and (data.drop_last or not 0 < count % size < 2 * parts or batches * size < count):
        return
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    entered: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda module, _, name=name: entered.append(f"{name} ({type(module).__name__})"))
        for name, module in model.named_modules()
    ]
    model.train()
    try:
        with torch.no_grad(), run.autocast:
            model(x[:1])
    except ValueError as error:
        if always:
            why = "every batch has one sample" + (f" for some of {parts} processes" if parts > 1 else "")
            fix = f"give {2 * parts} or more" if size < 2 * parts else "there must be more samples"
        else:
            why = f"{count} samples are {count // size} batches of {size} and one of {count % size}"
            why += f", of which some of {parts} processes have one" if parts > 1 else ""
            fix = "set data.drop_last=true, or give another size"
        fix += ", or trainer.sync_batchnorm=true" if parts > 1 else ""
        message = f"{size}: {why}, on which layer {entered[-1]} cannot train: {first_line(error)}; {fix}"
        raise ConfigError([Problem("data.batch_size", message)]) from error
    finally:
        for handle in handles:
            handle.remove()
        for buffer, before in kept:
            buffer.copy_(before)
        model.eval()
