"""`hydra/sweeper=optuna`: a search with Optuna whose study is the sweep itself, so that resuming the sweep resumes the search."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from modelfactory.config.errors import ConfigError, Problem, did_you_mean
from modelfactory.sweeping.records import FINISHED, Job, objective

log = logging.getLogger(__name__)


class OptunaSweeper(Sweeper):
    """Asks Optuna for overrides, and tells it what the jobs made of them.

    A trial is a job of the sweep and its value the job's best monitored one. A job that failed is a failed trial. The study is
    kept nowhere else: of a sweep that is gone on with, the jobs that are done are told to the study first.
    """

    def __init__(
        self,
        n_trials: int,
        batch: int,
        direction: str | None,
        sampler: str,
        seed: int,
        params: Mapping[str, str] | None,
    ):
        self._n_trials, self._batch, self._direction, self._sampler, self._seed = n_trials, batch, direction, sampler, seed
        self._params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._loader: Any = hydra_context.config_loader
        self._config: Any = config
        self._launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the trials that there are not yet, a batch at a time; returns the best trial's parameters and value."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        words = [*(f"{name}={value}" for name, value in self._params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self._loader)
        overrides = parser.parse_overrides(words)
        space = {override.get_key_element(): _distribution(override) for override in overrides if override.is_sweep_override()}
        fixed = [word for word, override in zip(words, overrides, strict=True) if not override.is_sweep_override()]
        known = self._launcher.begin()
        study = optuna.create_study(direction=self._direction_of_monitor(), sampler=self._make_sampler(len(known)))
        self._tell(study, known, space, parser)
        while (done := sum(trial.state.is_finished() for trial in study.trials)) < self._n_trials:
            trials = [study.ask(space) for _ in range(min(self._batch, self._n_trials - done))]
            batch = [[*fixed, *(f"{name}={value}" for name, value in trial.params.items())] for trial in trials]
            for trial, result in zip(trials, self._launcher.launch(batch, initial_job_idx=len(self._launcher.begin())), strict=True):
                failed = result.status == JobStatus.FAILED
                state = optuna.trial.TrialState.FAIL if failed else None
                study.tell(trial, None if failed else result.return_value, state=state)
        return self._conclude(study)

    def _direction_of_monitor(self) -> Any:
        if self._direction is not None:
            return self._direction
        from modelfactory.training.spec import MONITORS

        return "maximize" if MONITORS.get(OmegaConf.select(self._config, "trainer.monitor") or "val_loss") else "minimize"

    def _make_sampler(self, num_known: int) -> Any:
        """Seeded by how much is known too: else a search that is gone on with would draw again what it began with."""
        import optuna

        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler, "cmaes": optuna.samplers.CmaEsSampler}
        if self._sampler not in samplers:
            message = f"{self._sampler!r} is not a sampler{did_you_mean(self._sampler, samplers)}"
            raise ConfigError([Problem("hydra.sweeper.sampler", message)])
        return samplers[self._sampler](seed=self._seed + num_known)

    def _tell(self, study: Any, known: Sequence[Job], space: Mapping[str, Any], parser: OverridesParser) -> None:
        """Tells the study of jobs that are done, and to begin with those that are not."""
        import optuna

        for job in known:
            given = {override.get_key_element(): override for override in parser.parse_overrides(list(job.overrides))}
            params = {name: given[name].value() for name in space if name in given}
            if len(params) < len(space):
                continue
            value = objective(job.best, job.config)
            if job.status not in FINISHED:
                study.enqueue_trial(params)
            elif job.status == "completed":
                study.add_trial(optuna.trial.create_trial(params=params, distributions=dict(space), value=value))
            else:
                study.add_trial(optuna.trial.create_trial(params=params, distributions=dict(space), state=optuna.trial.TrialState.FAIL))

    def _conclude(self, study: Any) -> dict[str, Any]:
        """Leaves optimization_results.yaml, as Hydra's own sweepers do."""
        if not any(trial.state.name == "COMPLETE" for trial in study.trials):
            return {}
        best = {"name": "optuna", "best_params": study.best_params, "best_value": study.best_value}
        OmegaConf.save(OmegaConf.create(best), Path(str(self._config.hydra.sweep.dir), "optimization_results.yaml"))
        log.info("best: %s with %s", study.best_value, " ".join(f"{name}={value}" for name, value in study.best_params.items()))
        return best


def _distribution(override: Override) -> Any:
    """What is swept as Optuna names it.

    Example:
        >>> word = OverridesParser.create().parse_override("lr=tag(log,interval(0.001,0.1))")
        >>> _distribution(word)
        FloatDistribution(high=0.1, log=True, low=0.001, step=None)
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        kind: Any = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
        return kind(low, high, log="log" in value.tags)
    if isinstance(value, RangeSweep) and not value.shuffle:
        numbers: Any = (value.start, value.stop, value.step)
        if all(isinstance(number, int) for number in numbers):
            return IntDistribution(numbers[0], range(*numbers)[-1], step=numbers[2])
    choices: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
    return CategoricalDistribution(choices)
