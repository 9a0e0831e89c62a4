"""A whole config, read once into one frozen tree; what is below it takes the specs, and reads no mapping again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelfactory.config.errors import ConfigError, Problems
from modelfactory.config.schema import read_seed
from modelfactory.data.dataset import IGNORED
from modelfactory.data.spec import DataSource, read_data
from modelfactory.model.backbone.spec import read_known_backbone
from modelfactory.model.infer import Incoming
from modelfactory.parameters.groups import Grouping
from modelfactory.planning.plan import Plan
from modelfactory.planning.spec import Around, ModelSpec, check_groups, example_of, read_input, read_model_groups
from modelfactory.sweeping.experiment import ExperimentSpec, check_experiment
from modelfactory.sweeping.spec import SweepSpec, check_sweep
from modelfactory.training.frozen_prefix import divide
from modelfactory.training.optimizer import build_optimizer
from modelfactory.training.resume import check_resume
from modelfactory.training.training_spec import TrainingParts, TrainingSpec, read_training


@dataclass(frozen=True)
class RunSpec:
    """All that a config says, and all of it right.

    Attributes:
        model: with `init` and `freeze`, the seed, and what stands in front of the model.
        plan: what the config would build, from the model on the meta device.
        data: None where the config names none.
        sweep, experiment: None where the config has none; of the sweep that a run is a job of, which the run itself does not ask.
    """

    model: ModelSpec
    plan: Plan
    data: DataSource | None
    training: TrainingSpec
    sweep: SweepSpec | None
    experiment: ExperimentSpec | None

    @property
    def ignored(self) -> int:
        """The class that the loss ignores, so that targets may be of it."""
        return IGNORED if self.training.loss is None else self.training.loss.ignored


def read_run(config: Mapping[str, Any], problems: Problems) -> RunSpec | None:
    """A resolved, plain config as one tree, or None after adding to `problems` all that is wrong; nothing is loaded or written.

    Example:
        >>> problems = Problems()
        >>> read_run({"model": {"layers": {}}, "optimizer": {"_target_": "torch.optim.SGD", "lr": -1}, "seed": "x"}, problems)
        >>> print(*problems, sep="\\n")
        seed: 'x' is a text; give a whole number >= 0
        model.layers: is empty; give at least one name: {_target_: ...}
        optimizer.lr: -1 is too small; give a number >= 0
    """
    before, of_data, of_training = len(problems), Problems(), Problems()
    check_groups(config, problems)
    seed = read_seed(config, problems)
    backbone = read_known_backbone(config.get("backbone"), problems)
    data = None if config.get("data") is None else read_data(config["data"], of_data, backbone=backbone)
    training = read_training(config, of_training)
    optimizer = None if config.get("optimizer") is None else training.optimizer
    grouping = Grouping() if optimizer is None else optimizer.grouping
    around = Around(seed, _incoming(config, data), backbone, grouping, optimizer)
    model = read_model_groups(config, around, problems)
    plan = Plan(model) if model is not None and len(problems) == before else None
    problems.extend(of_data)
    problems.extend(of_training)
    sweep = None if config.get("sweep") is None else check_sweep(config["sweep"], problems)
    experiment = None if config.get("experiment") is None else check_experiment(config["experiment"], problems)
    if training.trainer is not None and training.trainer.resume is not None:
        check_resume(config, training.trainer.resume, problems)
    if plan is not None:
        _check_plan(plan, optimizer is not None, training, problems)
    whole = training.whole()
    if model is None or plan is None or whole is None or len(problems) > before:
        return None
    return RunSpec(model, plan, data, whole, sweep, experiment)


def _incoming(config: Mapping[str, Any], data: DataSource | None) -> Incoming:
    """An example input; where the data are wrong, which is told, as far as they are right."""
    if data is None:
        return read_input(config.get("data"), Problems())
    return example_of(data.keys.input_shape, data.keys.input_dtype)


def _check_plan(plan: Plan, with_optimizer: bool, training: TrainingParts, problems: Problems) -> None:
    """Say in `problems` what only the model on the meta device tells to be wrong."""
    try:
        thaws = plan.thaws
        if with_optimizer and training.optimizer is not None:
            build_optimizer(training.optimizer, plan.meta, thawed_later=thaws)
        if training.trainer is not None and training.trainer.cached:
            divide(plan.meta, thaws, problems)
    except ConfigError as error:
        problems.extend(error.problems)
