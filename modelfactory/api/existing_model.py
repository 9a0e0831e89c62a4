"""Train a model that exists, on the data of a config or on those of a program."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from modelfactory.config.compose import as_given
from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.config.own_groups import read_groups
from modelfactory.config.schema import read_seed
from modelfactory.data.backbone_transforms import read_own_backbone
from modelfactory.data.dataset import IGNORED, Data
from modelfactory.data.spec import DataSource, data_of, load_source, read_data
from modelfactory.training.launch import num_processes
from modelfactory.training.loss import ignored_target
from modelfactory.training.result import Result
from modelfactory.training.trainer import train_model
from modelfactory.training.training_spec import read_training

GROUPS = ("seed", "data", "backbone", "optimizer", "scheduler", "trainer")
_COMMON = ("num_classes", "batch_size", "val_batch_size", "seed", "num_workers", "drop_last")


def train_module(
    model: nn.Module,
    cfg: Any = None,
    train: Any = None,
    val: Any = None,
    run_dir: str | os.PathLike[str] | None = None,
    test: Any = None,
) -> Result:
    """Train a module in place by the groups `data`, `optimizer`, `scheduler` and `trainer` of a config, of which any may be left out.

    Args:
        train: what to train on in place of the config's data, as `data_of` takes it; with it `val`, and maybe `test`.

    Raises:
        ConfigError: settings or data that are wrong, or do not go with the model.
        TrainingError: a loss that is not finite.

    Example:
        >>> import torch
        >>> x, y = torch.randn(64, 4), torch.arange(64) % 2
        >>> settings = {"trainer": {"max_epochs": 2, "device": "cpu", "progress": "none"}}
        >>> train_module(nn.Linear(4, 2), settings, train=(x, y), val=(x, y)).final["epoch"]
        2
    """
    if (size := num_processes()) > 1:  # each may have built another model
        say = f"a model that exists is trained in one process, and {size} were started; train a config, or start one"
        raise ConfigError([Problem("trainer.strategy", say)])
    found = read_groups({} if cfg is None else as_given(cfg), GROUPS)
    with found.told():
        config, problems = found.config, Problems()
        if (train is None) != (val is None):
            missing, other = ("val", "train") if val is None else ("train", "val")
            raise ConfigError([Problem(missing, f"missing beside {other}=; give both, or a config with data")])
        if train is None and test is not None:
            raise ConfigError([Problem("test", "given without train= and val=; give them too, or a config with data.test_fraction")])
        seed, training = read_seed(config, problems), read_training(config, problems).whole()
        source = _read_source(config, problems) if train is None else None
        if training is None or problems:
            raise ConfigError(problems)
        ignored = IGNORED if training.loss is None else training.loss.ignored
        if source is not None:
            data = load_source(source, ignored)
        else:
            keys = {key: value for key, value in (config.get("data") or {}).items() if key in _COMMON}
            data = data_of(train, val, keys, ignored=ignored, test=test)
        return train_model(model, data, training, seed=seed, run_dir=None if run_dir is None else Path(run_dir), config=config)


def _read_source(config: Mapping[str, Any], problems: Problems) -> DataSource | None:
    """The data set of a config that must have one."""
    data = config.get("data")
    if isinstance(data, Mapping):
        return read_data(data, problems, backbone=read_own_backbone(data, config.get("backbone"), problems))
    problems.add("data", "missing; give _target_, such as modelfactory.data.digits")
    return None


def load_data(config: Mapping[str, Any]) -> Data:
    """Load the data of a plain config, of whose other groups any may be another project's.

    Raises:
        ConfigError: it has none, or they are wrong.

    Example:
        >>> len(load_data({"data": {"_target_": "modelfactory.data.digits"}}).val)
        359
    """
    problems = Problems()
    source = _read_source(config, problems)
    if source is None or problems:
        raise ConfigError(problems)
    return load_source(source, ignored_target(config.get("trainer")))
