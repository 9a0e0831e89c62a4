"""From a resolved config to a plan, a model, a trained model with its files, and back from the file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelfactory.api.pretraining import settle
from modelfactory.api.signal_check import check_signal
from modelfactory.config.compose import to_plain, to_yaml
from modelfactory.config.errors import ConfigError, Problem, Problems, did_you_mean, nearest
from modelfactory.config.files import write_text
from modelfactory.config.nesting import check_depth
from modelfactory.config.unused_keys import unused_figures
from modelfactory.data.first_batch import evidence_of
from modelfactory.data.spec import build_data, check_data
from modelfactory.init.structural_arguments import Evidence
from modelfactory.model.backbone.spec import without_files
from modelfactory.model.blueprint import assemble
from modelfactory.model.grammar import MODEL_KEYS
from modelfactory.model.weights.files import WEIGHTS
from modelfactory.parameters.freezing import apply_frozen, choose_frozen
from modelfactory.parameters.roles import describe
from modelfactory.planning.plan import Plan, make_plan
from modelfactory.planning.spec import read_spec
from modelfactory.sweeping.experiment import check_experiment
from modelfactory.sweeping.spec import check_sweep
from modelfactory.training.checkpoint import load_into, read_weights
from modelfactory.training.device import training_context
from modelfactory.training.frozen_prefix import divide
from modelfactory.training.loss import ignored_target
from modelfactory.training.optimizer import build_optimizer, check_optimizer
from modelfactory.training.result import Result
from modelfactory.training.resume import check_resume
from modelfactory.training.scheduler import check_scheduler
from modelfactory.training.spec import TrainerSpec, check_trainer
from modelfactory.training.trainer import train_model

log = logging.getLogger(__name__)


def plan(cfg: Any) -> Plan:
    """What a config would build, parameter by parameter; nothing is allocated.

    Args:
        cfg: a DictConfig or a plain dict with `model`, and as needed `init`, `freeze`, `data.input_shape`, `seed`.

    Raises:
        ConfigError: everything that is wrong, each with its config path.

    Example:
        >>> layers = {"fc": {"_target_": "torch.nn.Linear", "out_features": 2}}
        >>> made = plan({"model": {"layers": layers}, "data": {"input_shape": [3]}, "init": "xavier_normal"})
        >>> [(row.name, row.scheme) for row in made.ledger]
        [('fc.weight', 'xavier_normal'), ('fc.bias', 'zeros')]
    """
    problems = Problems()
    config = settle(_read(cfg), problems, check)
    if isinstance(config.get("optimizer"), Mapping):  # one that is not among those allowed here tells nothing, and is left alone
        told = Problems()
        check_optimizer(config["optimizer"], told)
        problems.extend(problem for problem in told if problem.path != "optimizer._target_")
    problems.raise_if_any()
    return make_plan(config, evidence=_evidence(config))


def build(cfg: Any, device: str | torch.device | None = None) -> nn.Module:
    """The model of a config as a plain nn.Module, every parameter initialised by the rule that picks it.

    Raises:
        ConfigError: everything that is wrong, each with its config path.

    Example:
        >>> layers = {"fc": {"_target_": "torch.nn.Linear", "out_features": 2}, "act": {"_target_": "torch.nn.ReLU"}}
        >>> build({"model": {"layers": layers}, "data": {"input_shape": [3]}, "init": "kaiming_normal", "seed": 1})
        Sequential(
          (fc): Linear(in_features=3, out_features=2, bias=True)
          (act): ReLU()
        )
    """
    config = _settled(_read(cfg))
    return make_plan(config, look=False, evidence=_evidence(config)).build(device)


def _read(cfg: Any) -> dict[str, Any]:
    """A config as a plain dict that all that follows can walk through."""
    config = to_plain(cfg)
    check_depth(config)
    return config


def _evidence(config: Mapping[str, Any]) -> Evidence | None:
    """The data that a config names, loaded when an initialisation asks for them."""
    data = config.get("data")
    if not isinstance(data, Mapping) or "_target_" not in data:
        return None
    return evidence_of(lambda: build_data(data, backbone=config.get("backbone"), ignored=ignored_target(config.get("trainer"))))


def check(cfg: Any) -> Plan:
    """Checks a whole config before anything is built, loaded or written; returns the plan of its model.

    Raises:
        ConfigError: everything that is wrong, each with its config path, the value and what would do.

    Example:
        >>> check({"model": {"layers": {}}, "optimizer": {"_target_": "torch.optim.SGD", "lr": -1}})
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: model.layers: is empty; give at least one name: {_target_: ...}
        optimizer.lr: -1 is too small; give a number >= 0
    """
    problems = Problems()
    config = settle(_read(cfg), problems, check)
    _check_figures(cfg, problems)
    spec = read_spec(config, problems)
    checks: dict[str, Callable[[Any, Problems], Any]] = {
        "data": partial(check_data, backbone=config.get("backbone")),
        "optimizer": check_optimizer,
        "scheduler": partial(check_scheduler, max_epochs=_max_epochs(config.get("trainer")), monitor=_monitor(config.get("trainer"))),
        "trainer": check_trainer,
        "sweep": check_sweep,
        "experiment": check_experiment,
    }
    right = {group: check_group(config[group], problems) for group, check_group in checks.items() if config.get(group) is not None}
    if right.get("trainer") is not None and right["trainer"].resume is not None:
        check_resume(config, right["trainer"].resume, problems)
    made = Plan(spec) if spec is not None else None
    if made is not None:
        try:
            thaws = made.thaws
            if right.get("optimizer") is not None:
                build_optimizer(config["optimizer"], made.meta, thawed_later=thaws)
            if right.get("trainer") is not None and right["trainer"].cached:
                divide(made.meta, thaws, problems)
        except ConfigError as error:
            problems.extend(error.problems)
    if problems or made is None:
        raise ConfigError(problems)
    return made


def _check_figures(cfg: Any, problems: Problems) -> None:
    """Adds each figure of the model's own that nothing uses: mostly one that is misspelt."""
    unused, used = unused_figures(cfg)
    for name in unused:
        if name not in MODEL_KEYS and nearest(name, MODEL_KEYS) is None:
            close = did_you_mean(name, used) if used else ""
            problems.add(f"model.{name}", f"is used by nothing: no ${{model.{name}}} is in the config{close}")


def _settled(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the weights of its pretraining, which is done here where it is not done yet."""
    problems = Problems()
    settled = settle(config, problems, check, train)
    problems.raise_if_any()
    return settled


def _max_epochs(trainer: Any) -> int | None:
    """How long the training is, where the config tells it rightly."""
    epochs = trainer.get("max_epochs", TrainerSpec.max_epochs) if isinstance(trainer, Mapping) else None
    return epochs if isinstance(epochs, int) and epochs > 0 else None


def _monitor(trainer: Any) -> str | None:
    """What the trainer monitors, where the config tells it rightly."""
    monitor = trainer.get("monitor", TrainerSpec.monitor) if isinstance(trainer, Mapping) else TrainerSpec.monitor
    return monitor if isinstance(monitor, str) else None


def _refuse_several_processes() -> None:
    """Raise where a launcher such as torchrun started several processes, each of which would train the same run."""
    world = os.environ.get("WORLD_SIZE", "1")
    if world.isdigit() and int(world) > 1:
        message = f"WORLD_SIZE is {world}, and a training is one process; start it without torchrun, or unset WORLD_SIZE"
        raise ConfigError([Problem("trainer", message)])


@training_context()
def train(cfg: Any, run_dir: str | os.PathLike[str] | None = None, *, resume: str | os.PathLike[str] | None = None) -> Result:
    """Builds the model of a config, trains it on its data, and leaves a run directory.

    Args:
        cfg: a DictConfig or a plain dict with all groups.
        run_dir: where config.yaml, ledger.csv, metrics.csv, result.json, model.safetensors and checkpoint/ go; None:
            nothing is written.
        resume: the directory of a run of this config to go on with; the config need not say so by trainer.resume.

    Raises:
        ConfigError: everything that is wrong; nothing has been written then.
        TrainingError: a loss that is not finite, with the first layer whose output was not.

    Example:
        >>> import modelfactory as mf
        >>> cfg = mf.compose("trainer=debug", "trainer.device=cpu", "trainer.progress=none")
        >>> mf.train(cfg).final["epoch"]
        1
    """
    _refuse_several_processes()
    config = _read(cfg)
    if resume is not None:
        config["trainer"] = {**(config.get("trainer") or {}), "resume": str(resume)}
    made = check(config)
    config.pop("sweep", None)  # how a sweep of runs goes on is no part of a run
    settled = _settled(config)
    if settled is not config:
        made = check(settled)
    if config.get("data") is None:
        raise ConfigError([Problem("data", "missing; give _target_, such as modelfactory.data.digits")])
    data = build_data(config["data"], backbone=settled.get("backbone"), ignored=ignored_target(config.get("trainer")))
    built = made.materialize(evidence=evidence_of(lambda: data))
    rows = [row for row in built.ledger if row.role != "buffer"]
    for done in (built.pretrained, built.calibration):
        if done is not None:
            log.info(str(done))
    log.info(
        "model: %s parameters, %s trainable", f"{sum(r.numel for r in rows):,}", f"{sum(r.numel for r in rows if r.trainable):,}"
    )
    first_warnings = (*built.warnings, *made.never_thawed(_max_epochs(config.get("trainer")) or TrainerSpec.max_epochs))
    for warning in first_warnings:
        log.warning(warning)
    folder = None if run_dir is None else Path(run_dir)

    def begin(result: Result, recorded: Mapping[str, Any]) -> list[str]:
        if folder is not None:
            write_text(folder / "config.yaml", to_yaml(recorded))
            if result.init_hash == built.ledger.fingerprint:  # else the ledger of the run that is resumed stays
                built.ledger.to_csv(folder / "ledger.csv")
        # trained weights are nothing to warn of
        said, hints = ([], []) if result.history else check_signal(built.model, data, config, folder)
        result.hints.extend(hints)
        for hint in hints:
            log.info("hint: %s", hint)
        for warning in said:
            log.warning(warning)
        return [*first_warnings, *said]

    def before_epoch(epoch: int) -> None:
        thawed = built.before_epoch(epoch)
        if thawed:
            log.info("epoch %d: %d tensors train from here on, %s to %s", epoch, len(thawed), thawed[0], thawed[-1])

    return train_model(
        built.model,
        data,
        optimizer=config.get("optimizer"),
        scheduler=config.get("scheduler"),
        trainer=config.get("trainer"),
        seed=config.get("seed", 0),
        run_dir=folder,
        config=config,
        begin=begin,
        before_epoch=before_epoch,
        thawed_later=built.thaws,
        init_hash=built.ledger.fingerprint,
    )


def load(path: str | os.PathLike[str]) -> nn.Module:
    """The model that a run left, from its one file: architecture and weights, in evaluation mode.

    Runs no code from the file: the classes that its config names must be allowed as in any config.

    Args:
        path: a model.safetensors, or the directory of a run.

    Raises:
        ConfigError: no such file, no config in it, a class that is not trusted, weights of another model.

    Example:
        >>> import tempfile
        >>> import modelfactory as mf
        >>> cfg = mf.compose("trainer=debug", "trainer.device=cpu", "trainer.progress=none")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = mf.train(cfg, run_dir=folder)
        ...     model = load(f"{folder}/model.safetensors")
        >>> model.head
        Linear(in_features=512, out_features=10, bias=True)
    """
    file = Path(path)
    if file.is_dir():
        file = file / WEIGHTS
    weights = read_weights(file)
    if not isinstance(weights.config, Mapping):
        raise ConfigError([Problem("", f"{file} carries no config, so its model cannot be built again")])
    check_depth(weights.config)
    problems = Problems()
    of_model = ("seed", "data", "backbone", "model", "init", "freeze", "optimizer")
    config = {name: value for name, value in weights.config.items() if name in of_model}
    spec = read_spec({**config, "backbone": without_files(config.get("backbone"))}, problems)
    if spec is None:
        raise ConfigError(problems)
    draft = assemble(spec.node, spec.seed)
    infos = describe(draft.module)
    frozen = choose_frozen(infos, spec.freeze, draft.definitions, problems)
    problems.raise_if_any()
    epoch = int(weights.metadata.get("modelfactory.epoch", 0))
    frozen = {key: until for key, until in frozen.items() if until is None or until > epoch}
    # first, since what is loaded may come in new parameters, which take over requires_grad
    apply_frozen(draft.module, frozen, spec.freeze.dropout)
    load_into(draft.module, weights.tensors, "", str(file), assign=all(len(info.names) == 1 for info in infos))
    return draft.module.eval()
