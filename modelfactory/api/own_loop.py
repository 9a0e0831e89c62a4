"""The pieces of a training, for a program that has a loop, a model or data of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from modelfactory.api.existing_model import GROUPS, load_data
from modelfactory.api.saved_model import read_run, rebuild
from modelfactory.config.compose import as_given
from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.config.own_groups import read_groups
from modelfactory.config.schema import read
from modelfactory.data.dataset import Data
from modelfactory.data.input_files import read_files
from modelfactory.data.spec import data_of
from modelfactory.training import optimizer as optimizers
from modelfactory.training.evaluate import compute_outputs, measure_split
from modelfactory.training.loss import LossSpec, read_loss
from modelfactory.training.optimizer import read_optimizer
from modelfactory.training.scheduler import Schedule, build_schedule, read_scheduler
from modelfactory.training.spec import TrainerSpec

_DATA = ("seed", "data", "backbone", "trainer")
_OF_SCHEDULE = ("max_epochs", "monitor", "accumulate")  # what a schedule has to know of a `trainer`, which may be another project's


def build_data(cfg: Any, *overrides: str, at: str | None = None) -> Data:
    """Load the data of a config: `data.train`, `data.val` and maybe `data.test`, of which `modelfactory.data.make_batches` makes batches.

    Args:
        cfg: as for `build`: a config with the group `data`, a YAML file, or the first of `overrides`.
        at: as for `build`.

    Raises:
        ConfigError: everything that is wrong with the group.

    Example:
        >>> from modelfactory.data import make_batches
        >>> data = build_data("data=digits", "data.batch_size=32")
        >>> batches = make_batches(data.train, data.batch_size, torch.device("cpu"), seed=data.seed)
        >>> [tuple(x.shape) for x, y in batches.epoch(1)][0]
        (32, 1, 8, 8)
    """
    found = read_groups(as_given(cfg, overrides), _DATA, at)
    with found.told():
        return load_data(found.config)


def build_optimizer(model: nn.Module, cfg: Any, *overrides: str, at: str | None = None) -> Optimizer:
    """Build the optimizer of a config over the parameters of any model that train, with the config's groups.

    Raises:
        ConfigError: everything that is wrong with the group, or with it and this model.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = build_optimizer(model, "optimizer=sgd", "+optimizer.groups.head={match: '2.*', lr_scale: 10}")
        >>> [(group["name"], group["lr"]) for group in optimizer.param_groups]
        [('default', 0.05), ('head', 0.5)]
    """
    found = read_groups(as_given(cfg, overrides), ("optimizer",), at)
    with found.told():
        problems = Problems()
        spec = read_optimizer(found.config.get("optimizer"), problems)
        if spec is None:
            raise ConfigError(problems)
        return optimizers.build_optimizer(spec, model)


def build_scheduler(
    optimizer: Optimizer,
    cfg: Any,
    *overrides: str,
    steps_per_epoch: int | None = None,
    max_epochs: int | None = None,
    at: str | None = None,
) -> Schedule:
    """Build the schedule of a config for an optimizer: call `step_done()` after each step, `epoch_done(steps, value)` after each epoch.

    Args:
        steps_per_epoch: optimizer steps an epoch; None: those of the config's data, which are loaded where the schedule counts steps.
        max_epochs: epochs of the training; None: the config's `trainer.max_epochs`, or its default.

    Raises:
        ConfigError: everything that is wrong with the group, or there are no steps to count.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> schedule = build_scheduler(optimizer, "scheduler=cosine", "scheduler.warmup_epochs=0", steps_per_epoch=10, max_epochs=2)
        >>> for step in range(20):
        ...     schedule.step_done()
        >>> schedule.epoch_done(20, value=0.5)
        >>> schedule.lr < 0.1
        True
    """
    found = read_groups(as_given(cfg, overrides), GROUPS, at)
    with found.told():
        config, problems = found.config, Problems()
        given = config.get("trainer")
        known = {key: given[key] for key in _OF_SCHEDULE if key in given} if isinstance(given, Mapping) else {}
        trainer = read(TrainerSpec, known, "trainer", problems)
        epochs = max_epochs if max_epochs is not None or trainer is None else trainer.max_epochs
        monitor = None if trainer is None else trainer.monitor
        spec = read_scheduler(config.get("scheduler"), problems, max_epochs=epochs, monitor=monitor)
        if spec is None or trainer is None or epochs is None or problems:
            raise ConfigError(problems)
        if steps_per_epoch is None and (spec.interval == "step" or spec.warmup_epochs):
            if config.get("data") is None:
                what = "counts steps, and there are no data to count; give steps_per_epoch="
                raise ConfigError([Problem("scheduler", what)])
            data = load_data(config)
            batches = len(data.train) // data.batch_size if data.drop_last else -(-len(data.train) // data.batch_size)
            steps_per_epoch = -(-batches // trainer.accumulate)
        steps = steps_per_epoch or 1
        return build_schedule(spec, optimizer, steps, epochs * steps)


def evaluate(model: Any, data: Any = None, split: str | None = None, *, at: str | None = None) -> dict[str, float]:
    """Measure the mean loss and, for classes, the accuracy of a model over a split of data.

    Args:
        model: a module; or the directory of a run, whose model and data they then are.
        data: `Data`, as `build_data` gives them; a config; or the split itself: (inputs, targets), a torch data set or a DataLoader.
        split: "val", "train", or "test" where the data have that. None: "val"; of a run "test", where its data have that.

    Raises:
        ConfigError: what is wrong with the data, or that they do not go with the model.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> sorted(evaluate(model, "data=digits"))
        ['accuracy', 'loss', 'samples']
    """
    if isinstance(model, (str, os.PathLike)):
        return evaluate_run(model, data, split)[1]
    return _evaluate(model, data, split or "val", at)[1]


def evaluate_run(run_dir: str | os.PathLike[str], data: Any = None, split: str | None = None) -> tuple[str, dict[str, float]]:
    """Measure the model of a run, on its data or on others, and tell on which split.

    Args:
        split: None: "test" where the data have that, else "val".

    Raises:
        ConfigError: there is no such run, or what `evaluate` says of the data.

    Example:
        >>> evaluate_run("nowhere")
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: there is no file nowhere
    """
    run = read_run(run_dir)
    return _evaluate(rebuild(run), run.config if data is None else data, split, None)


def _evaluate(model: nn.Module, data: Any, split: str | None, at: str | None) -> tuple[str, dict[str, float]]:
    """The split and what was measured of it; None: the test split, or where there is none the validation split."""

    def measure(data: Data, loss: LossSpec | None = None) -> tuple[str, dict[str, float]]:
        name = split if split is not None else "val" if data.test is None else "test"
        return name, measure_split(model, data, name, loss)

    if isinstance(data, Data):
        return measure(data)
    if data is None:
        raise ConfigError([Problem("data", "missing; give a config, or data")])
    if not isinstance(data, (str, os.PathLike, Mapping)):
        return measure(data_of(data, data))
    found = read_groups(as_given(data), _DATA, at)
    with found.told():
        trainer, problems = found.config.get("trainer"), Problems()
        loss = read_loss(trainer.get("loss"), problems) if isinstance(trainer, Mapping) and "_target_" not in trainer else None
        problems.raise_if_any()
        return measure(load_data(found.config), loss)


def predict(model: Any, inputs: Any, batch_size: int = 256) -> Tensor:
    """Compute the outputs of a model, in evaluation mode, on the CPU: logits of classes, or values.

    Args:
        model: a module; or the directory of a run, or its model.safetensors.
        inputs: a tensor [N, ...] as the model takes it; or, of a run, files: images, or CSV files of one sample a row.

    Raises:
        ConfigError: a file that cannot be read, or that does not go with the model.

    Example:
        >>> predict(nn.Linear(3, 2), torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """
    if not isinstance(model, (str, os.PathLike)):
        return compute_outputs(model, torch.as_tensor(inputs), batch_size)
    files = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    run = read_run(model)
    if isinstance(files, Sequence) and all(isinstance(file, (str, os.PathLike)) for file in files):
        inputs = read_inputs(files, run.config)
    return compute_outputs(rebuild(run), torch.as_tensor(inputs), batch_size)


def read_inputs(files: Sequence[str | os.PathLike[str]], config: Mapping[str, Any]) -> Tensor:
    """Read the inputs of a run's model from files, prepared as the run's validation data were.

    Raises:
        ConfigError: a file that cannot be read, or does not go with the run's data.

    Example:
        >>> read_inputs([], {})
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: there is no file to read; give images or CSV files
    """
    data = config.get("data") if isinstance(config.get("data"), Mapping) else None
    return read_files([Path(file) for file in files], data or {}, config.get("backbone"))
