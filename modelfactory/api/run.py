"""From a config to a plan, a model, and a trained model with its files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from modelfactory.api.existing_model import load_data, train_module
from modelfactory.api.pretraining import settle
from modelfactory.api.run_hooks import RunHooks
from modelfactory.config.compose import as_given, to_plain
from modelfactory.config.errors import ConfigError, Problem, Problems, did_you_mean, nearest
from modelfactory.config.hydra_patches import give_configs_as_they_stand
from modelfactory.config.nesting import check_depth
from modelfactory.config.own_groups import read_groups
from modelfactory.config.unused_keys import unused_figures
from modelfactory.data.count_classes import count_classes
from modelfactory.data.dataset import Data
from modelfactory.data.first_batch import evidence_of
from modelfactory.data.spec import DataSource, load_source
from modelfactory.init.structural_arguments import DataStatistics
from modelfactory.model.grammar import MODEL_KEYS
from modelfactory.planning.materialize import Built
from modelfactory.planning.plan import Plan, make_plan
from modelfactory.planning.run_spec import RunSpec, read_run
from modelfactory.planning.spec import GROUPS, OF_MODEL, read_spec
from modelfactory.training.device import deterministic
from modelfactory.training.distributed import ALONE, World
from modelfactory.training.launch import open_world
from modelfactory.training.pace import Pace
from modelfactory.training.requests import Request, alone
from modelfactory.training.result import Result
from modelfactory.training.trainer import training

log = logging.getLogger(__name__)
_Folder = str | os.PathLike[str]
give_configs_as_they_stand([f"{place}.{name}" for place in ("modelfactory", __name__) for name in ("build", "plan", "train")])


def plan(cfg: Any, *overrides: str, at: str | None = None) -> Plan:
    """Plan what a config would build, parameter by parameter; nothing is allocated.

    Args:
        cfg: a DictConfig or a plain dict with `model`, and as needed `init`, `freeze`, `data.input_shape`, `seed`; keys that are not
            among those that decide a model are left alone. Or a YAML file, or the first of `overrides`.
        overrides: as on the command line, such as "model=cnn", "init=kaiming_normal".
        at: where in the config the groups are, such as "net"; what is not there is taken from above.

    Raises:
        ConfigError: everything that is wrong, each with its config path.

    Example:
        >>> layers = {"fc": {"_target_": "torch.nn.Linear", "out_features": 2}}
        >>> made = plan({"model": {"layers": layers}, "data": {"input_shape": [3]}, "init": "xavier_normal"})
        >>> [(row.name, row.scheme) for row in made.ledger]
        [('fc.weight', 'xavier_normal'), ('fc.bias', 'zeros')]
        >>> plan("model=mlp", "model.width=8").ledger["head.weight"].shape
        '10x8'
    """
    with _own(as_given(cfg, overrides), (*OF_MODEL, "optimizer"), at) as own:
        problems, of_optimizer = Problems(), Problems()
        config = settle(own, problems, check)
        spec = read_spec(config, problems, of_optimizer)
        problems.extend(problem for problem in of_optimizer if problem.path != "optimizer._target_")  # which may be another project's
        if spec is None or problems:
            raise ConfigError(problems)
        made = Plan(spec, _evidence(config))
        _ = made.ledger  # which tells what only the model itself shows to be wrong
        return made


def build(cfg: Any, *overrides: str, at: str | None = None, device: str | torch.device | None = None) -> nn.Module:
    """Build the model of a config as a plain nn.Module, every parameter initialised by the rule that picks it.

    As a `_target_` of Hydra and hydra-zen it is given the config as it stands: the layers in it are not instantiated before.

    Args:
        cfg: as for `plan`.
        overrides: as for `plan`.
        at: as for `plan`.
        device: where the model goes; None leaves it on the CPU.

    Raises:
        ConfigError: everything that is wrong, each with its config path.

    Example:
        >>> layers = {"fc": {"_target_": "torch.nn.Linear", "out_features": 2}, "act": {"_target_": "torch.nn.ReLU"}}
        >>> build({"model": {"layers": layers}, "data": {"input_shape": [3]}, "init": "kaiming_normal", "seed": 1})
        Sequential(
          (fc): Linear(in_features=3, out_features=2, bias=True)
          (act): ReLU()
        )
        >>> theirs = {"lr": 0.1, "net": {"layers": {"fc": {**layers["fc"], "in_features": "${width}"}}}, "width": 3}
        >>> build(theirs, at="net")
        Sequential(
          (fc): Linear(in_features=3, out_features=2, bias=True)
        )
    """
    with _own(as_given(cfg, overrides), OF_MODEL, at) as own:
        config = _trained_first(own)
        return replace(make_plan(config), _evidence=_evidence(config)).build(device)


@contextmanager
def _own(cfg: Any, groups: Collection[str], at: str | None = None) -> Iterator[dict[str, Any]]:
    """Read the groups of a config into a plain dict that all that follows can walk through; errors of the block have their true paths."""
    found = read_groups(cfg, groups, at, count_classes)
    with found.told():
        check_depth(found.config)
        yield found.config


def _read(cfg: Any) -> dict[str, Any]:
    """A whole config as a plain dict that all that follows can walk through."""
    config = to_plain(cfg, count_classes)
    check_depth(config)
    return config


def _evidence(config: Mapping[str, Any]) -> DataStatistics | None:
    """The data that a config names, loaded when an initialisation asks for them."""
    data = config.get("data")
    if not isinstance(data, Mapping) or "_target_" not in data:
        return None
    return evidence_of(lambda: load_data(config))


def check(cfg: Any, strict: bool = True) -> Plan:
    """Checks a whole config before anything is built, loaded or written; returns the plan of its model.

    Args:
        strict: whether keys beside the groups are wrong, and not left alone.

    Raises:
        ConfigError: everything that is wrong, each with its config path, the value and what would do.

    Example:
        >>> check({"model": {"layers": {}}, "optimizer": {"_target_": "torch.optim.SGD", "lr": -1}})
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: model.layers: is empty; give at least one name: {_target_: ...}
        optimizer.lr: -1 is too small; give a number >= 0
    """
    config = _read(cfg if strict else read_groups(cfg, GROUPS, infer=count_classes).config)
    return _checked(config, cfg).plan


def _checked(config: dict[str, Any], cfg: Any) -> RunSpec:
    """What a config says, all of it right; `cfg` is the same as it was given.

    Raises:
        ConfigError: everything that is wrong.
    """
    problems = Problems()
    config = settle(config, problems, check)
    _check_figures(cfg, problems)
    spec = read_run(config, problems)
    if spec is None or problems:
        raise ConfigError(problems)
    return spec


def _check_figures(cfg: Any, problems: Problems) -> None:
    """Adds each figure of the model's own that nothing uses: mostly one that is misspelt."""
    unused, used = unused_figures(cfg)
    for name in unused:
        if name not in MODEL_KEYS and nearest(name, MODEL_KEYS) is None:
            close = did_you_mean(name, used) if used else ""
            problems.add(f"model.{name}", f"is used by nothing: no ${{model.{name}}} is in the config{close}")


def _trained_first(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the weights of its pretraining, which is done here, in one process, where it is not done yet."""
    problems = Problems()
    settled = settle(config, problems, check, partial(alone(_training), world=ALONE, pictures=True))
    problems.raise_if_any()
    return settled


@overload
def train(cfg: Any, run_dir: _Folder | None = None, *, resume: _Folder | None = None, pictures: bool = True) -> Result: ...
@overload
def train(
    cfg: nn.Module, settings: Any = None, /, *, run_dir: _Folder | None = None, train: Any = None, val: Any = None, test: Any = None
) -> Result: ...
def train(
    cfg: Any, *args: Any, resume: _Folder | None = None, train: Any = None, val: Any = None, test: Any = None, **folder: Any
) -> Result:
    """Build the model of a config, train it on its data, and leave a run directory; or train a model that exists.

    `train(model, cfg)` trains any module in place by the groups `data`, `optimizer`, `scheduler` and `trainer` of a config;
    `train(model, train=..., val=...)`, with a config or without, on what a program has: pairs of tensors (inputs, targets), torch data
    sets or DataLoaders.

    Where a launcher such as torchrun started several processes, each calls this, and they train together.

    Args:
        cfg: a DictConfig or a plain dict with all groups, whose other keys are left alone; or a module.
        run_dir: where config.yaml, ledger.csv, metrics.csv, result.json, model.safetensors and checkpoint/ go; None:
            nothing is written.
        resume: the directory of a run of this config to go on with; the config need not say so by trainer.resume.
        pictures: whether signal.png is drawn, as trainer.signal asks for; the jobs of a sweep leave it to `report`.
        train: what to train a module on, in place of the config's data; with it `val`, and maybe `test`.

    Raises:
        ConfigError: everything that is wrong; nothing has been written then.
        TrainingError: a loss that is not finite, with the first layer whose output was not.
        RankFailed: another process of the training failed.

    Example:
        >>> import modelfactory as mf
        >>> cfg = mf.compose("trainer=debug", "trainer.device=cpu", "trainer.progress=none")
        >>> mf.train(cfg).final["epoch"]
        1
        >>> mf.train(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), cfg).final["epoch"]
        1
    """
    if isinstance(cfg, nn.Module):
        if resume is not None:
            raise TypeError("resume= goes on with the run of a config; of a model that exists give trainer.resume in its config")
        return train_module(cfg, *args, train=train, val=val, test=test, **folder)
    if train is not None or val is not None or test is not None:
        raise TypeError("train=, val= and test= are for a model that exists: mf.train(model, train=..., val=...)")
    return alone(training_of)(cfg, *args, resume=resume, **folder)


def training_of(
    cfg: Any,
    run_dir: _Folder | None = None,
    *,
    resume: _Folder | None = None,
    pictures: bool = True,
    quiet: bool = False,
    load: Callable[[DataSource, int], Data] = load_source,
    pace: Pace | None = None,
) -> Generator[Request, Any, Result]:
    """Train a config as one of several that are answered together; `train` is the same alone.

    It yields what it asks for, as `modelfactory.training.trainer.training` does.

    Args:
        cfg, run_dir, resume, pictures: as for `train`.
        quiet: whether nothing is shown of its progress.
        load: loads the data of a config.
        pace: at which it writes its files, where it takes turns with others.
    """
    config = _read(read_groups(cfg, GROUPS, infer=count_classes).config)
    if resume is not None:
        config["trainer"] = {**(config.get("trainer") or {}), "resume": str(resume)}
    with open_world() as world:
        return (yield from _training(config, run_dir, world, pictures, quiet, load, pace))


def _training(
    config: dict[str, Any],
    run_dir: _Folder | None,
    world: World,
    pictures: bool,
    quiet: bool = False,
    load: Callable[[DataSource, int], Data] = load_source,
    pace: Pace | None = None,
) -> Generator[Request, Any, Result]:
    """Trains a config in the processes of `world`, each of which builds the same model of the same data."""
    folder = None if run_dir is None else Path(run_dir)
    with world.agreed(), world.first_goes_first():  # what is fetched, or trained first, is so once
        spec, data, built = prepare(config, load)
    warnings = (*built.warnings, *spec.plan.never_thawed(spec.training.trainer.max_epochs))
    _tell(built, warnings)
    hooks = RunHooks(spec, built, data, folder, warnings, pictures)
    result = yield from training(
        built.model,
        data,
        spec.training,
        seed=spec.model.seed,
        run_dir=folder,
        config={name: value for name, value in config.items() if name != "sweep"},  # how a sweep goes on is no part of a run
        begin=hooks.begin,
        before_epoch=hooks.before_epoch,
        thawed_later=built.thaws,
        init_hash=built.ledger.fingerprint,
        world=world,
        quiet=quiet,
        pace=pace,
    )
    return result


def prepare(config: dict[str, Any], load: Callable[[DataSource, int], Data] = load_source) -> tuple[RunSpec, Data, Built]:
    """Check a whole config, load its data and build its model."""
    spec = _checked(config, config)
    settled = _trained_first(config)
    if settled is not config:
        spec = _checked(settled, settled)
    if spec.data is None:
        raise ConfigError([Problem("data", "missing; give _target_, such as modelfactory.data.digits")])
    data = load(spec.data, spec.ignored)
    with deterministic(spec.training.trainer.deterministic):
        return spec, data, spec.plan.materialize(evidence=evidence_of(lambda: data))


def _tell(built: Built, warnings: Iterable[str]) -> None:
    """Logs what was built."""
    rows = [row for row in built.ledger if row.role != "buffer"]
    for done in (built.pretrained, built.calibration):
        if done is not None:
            log.info(str(done))
    log.info(
        "model: %s parameters, %s trainable", f"{sum(r.numel for r in rows):,}", f"{sum(r.numel for r in rows if r.trainable):,}"
    )
    for warning in warnings:
        log.warning(warning)
