"""The files of a training: what an epoch leaves, and how another training resumes it.

Every file of a run can be written from its checkpoint, but for the weights of a best epoch that is not the last: those the
checkpoint knows by their checksum. So it is written before them, and a process that is killed at any moment leaves a run that
is resumed as if it had not been.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.config.files import write_atomic
from modelfactory.model.weights.files import CONFIG_KEY, WEIGHTS
from modelfactory.model.weights.tensor_file import RESTORE, DamagedFile, read_metadata
from modelfactory.training.checkpoint import PackedFile, load_into, pack_state, pack_weights, read_state_and_metadata, read_weights
from modelfactory.training.optimizer_state import load_named_state, named_state
from modelfactory.training.pace import EpochFiles, Pace
from modelfactory.training.result import SCORES, Result, read_seconds, write_metrics
from modelfactory.training.resume_policy import PATH, Change, ResumeRule, find_changes, other_batches, policy_of, refusals
from modelfactory.training.saving import carry_kept, checkpoint_of
from modelfactory.training.scheduler import replay
from modelfactory.training.setup import Run
from modelfactory.training.status import CHECKPOINT, clear_run, config_hash, recorded
from modelfactory.training.within_epoch import Place

log = logging.getLogger(__name__)
SETTINGS_KEY = "modelfactory.settings"
HASH_KEY = "modelfactory.config_hash"
_FORMAT = 1
_NOTHING: Mapping[str, Any] = MappingProxyType({})
# of the initial values, which are not measured again when a run is resumed elsewhere
_CARRIED = ("ledger.csv", "signal.csv", "signal.png", "signal_histograms.png")


def check_resume(config: Mapping[str, Any], source: str | Path, problems: Problems) -> None:
    """Say in `problems` which keys of a config cannot differ from the run in `source`, as far as its config tells."""
    try:
        with _named(PATH):
            before = _config_of(read_metadata(checkpoint_of(Path(source))))
    except DamagedFile as error:
        problems.extend(error.problems)
        return
    if before:
        problems.extend(refusals(find_changes(before, config), str(source)))


def saved_hash(folder: Path) -> str | None:
    """The hash of the config that the checkpoint in a folder was saved under; None where there is no checkpoint.

    Raises:
        DamagedFile: it cannot be read.
    """
    return read_metadata(folder / CHECKPOINT).get(HASH_KEY)


class RunFiles:
    """The files of one training.

    Args:
        folder: the run directory; None: nothing is written.
        config: what the run records, or None.
        settings: the seed and the groups that the training was given.
        pace: that of trainings that take turns; None: the files of each epoch are written when it is done.

    Attributes:
        config: as it is recorded; known when `resume` is done.
        notice: what to tell of a training that had nothing to do, which is no part of the run's record.
        within: where in an epoch the run that is resumed was stopped, for `resume_within`; None between epochs.
    """

    def __init__(self, folder: Path | None, config: Any, settings: Mapping[str, Any], pace: Pace | None = None):
        self._epoch_files = EpochFiles(pace)
        self.folder, self.config, self.notice = folder, recorded(config), ""
        plain = json.loads(json.dumps(settings, default=lambda value: type(value).__name__))
        self._settings = {**plain, "trainer": {name: value for name, value in (plain["trainer"] or {}).items() if name != "resume"}}
        self._source: Path | None = None
        self._state: dict[str, Any] = {}
        self._metadata: dict[str, str] = {}
        self._weights: PackedFile | None = None
        self._positions: list[int] = []  # of the schedule, in steps, after each epoch
        self._last_epoch: dict[str, int] | None = None  # what it trained on
        self.within: dict[str, Any] | None = None
        self._is_saved = True  # whether the last epoch is

    def resume(self, source: Path, run: Run, model: nn.Module, result: Result) -> tuple[Run, int]:
        """Put model, optimizer, schedule, scaler and records where the run in `source` left them; nothing is written.

        Every key that differs is listed first. The schedule stands where that of a run of this config stands after as many
        epochs.

        Returns:
            The run with the steps that are left, and the epochs since the best one.

        Raises:
            ConfigError: what differs and cannot be changed, a file that is damaged or missing, or a run of another model.
        """
        place = checkpoint_of(source)
        if place == source:  # one that the run kept
            source = place.parent.parent
            if self.folder is not None and self.folder.resolve() == source.resolve():
                raise ConfigError([Problem(PATH, f"{place} is older than the run in {source}; give the new run another directory")])
        with _named(PATH):
            state, metadata = read_state_and_metadata(place)
        if state.get("format") != _FORMAT:
            raise ConfigError([Problem(PATH, f"{place} was saved by another version of modelfactory")])
        self._source, self._state, self._metadata = source, state, metadata
        self.within, self._last_epoch = state.get("within"), state["last_epoch"]
        before = _config_of(metadata)
        changes = find_changes(before, {**(self.config or {}), **self._settings}) + _other_sizes(state, run)
        same_start = state["init_hash"] is not None and state["init_hash"] == result.init_hash
        refused = refusals(changes, str(source), (ResumeRule.REFUSED,) if same_start else (ResumeRule.REFUSED, ResumeRule.START))
        if self.within is not None:
            refused.extend(other_batches(changes, str(source), self.within["epoch"]))
        if refused:
            raise ConfigError(refused)
        load_into(model, state["model"], PATH, str(place))
        of_optimizer = [change.path for change in changes if change.path.startswith("optimizer")]
        notes = load_named_state(run.optimizer, model, state["optimizer"], str(source), of_optimizer)
        self._take_records(result)
        run = self._go_on(run, result, changes, notes)
        with _named(PATH):
            self._weights = self._best_weights(model, result, changes)
        return run, state["stale"]

    def _take_records(self, result: Result) -> None:
        state, seconds = self._state, read_seconds((self._source or Path()) / "metrics.csv")
        passed = 0.0
        for row in state["history"]:
            passed = seconds.get(row["epoch"], passed)
            result.history.append({**row, "seconds": passed})
        if result.history:
            result.final = {name: result.history[-1][name] for name in SCORES}
        result.seconds = passed
        result.best, result.weights_checksum = state["best"], state["weights_checksum"]
        result.warnings, result.resumed = list(state["warnings"]), list(state["resumed"])
        result.hints = list(state["hints"])
        if state["init_hash"] is not None and result.init_hash != state["init_hash"]:
            log.warning("the initial values of this config are not those that %s began with, which the record keeps", self._source)
            result.init_hash = state["init_hash"]
        before = (self._saved_config or {}).get("trainer")
        if self.config is not None and isinstance(before, Mapping) and "resume" not in before:
            own = self.config.get("trainer") or {}
            self.config = {**self.config, "trainer": {name: value for name, value in own.items() if name != "resume"}}

    @property
    def _saved_config(self) -> dict[str, Any] | None:
        return json.loads(self._metadata.get(CONFIG_KEY, "null"))

    def _go_on(self, run: Run, result: Result, changes: list[Change], notes: list[str]) -> Run:
        """The run with what is left to do: whole epochs of the present size after those that were done."""
        state, source, spec = self._state, self._source, run.spec
        done, steps = result.final.get("epoch", 0), result.final.get("step", 0)
        effects = [change for change in changes if change.policy.rule is ResumeRule.TAKES_EFFECT]
        if done >= spec.max_epochs or (spec.max_steps is not None and steps >= spec.max_steps):
            nothing = f"nothing is left to train: {source} has {done} epochs already; give a larger trainer.max_epochs"
            if self.within is not None:
                raise ConfigError([Problem(PATH, f"{nothing}, for it was stopped within epoch {done + 1}")])
            if effects:
                raise ConfigError([Problem(change.path, f"{change.values} cannot take effect: {nothing}") for change in effects])
            self.config = self._saved_config or self.config  # what was trained is what that one says
            run.schedule.steps = state["schedule_steps"][-1]
            log.warning(nothing)
            self.notice = nothing
            return run
        last = state["last_epoch"]
        if last is not None and last["batches"] != last["of"]:
            seen = f"after {last['batches']} of {last['of']} batches ({last['samples']} samples)"
            message = f"{source} stopped at step {steps}, within epoch {done}, {seen}, by trainer.max_steps; such an epoch is closed"
            raise ConfigError([Problem(PATH, message)])
        for change in changes:
            if change.policy.rule is ResumeRule.TAKES_EFFECT:
                log.warning("resume: %s, which takes effect from epoch %d on", change, done + 1)
            else:
                log.info("resume: %s", change)
        for note in notes:
            log.warning("resume: %s", note)
        if effects:
            changed = json.loads(json.dumps({change.path: [change.before, change.after] for change in effects}))
            at = {"step": self.within["step"]} if self.within is not None else {}
            result.resumed.append({"from": str(source), "epoch": done, **at, "changed": changed})
        if run.scaler is not None and state["scaler"] is not None:
            run.scaler.load_state_dict(state["scaler"])
        values = [row[spec.monitor] for row in result.history]
        self._positions = replay(run.schedule, values, state["schedule_steps"], state["steps_per_epoch"], run.steps_per_epoch)
        at = f"step {self.within['step']}, within epoch {done + 1}" if self.within is not None else f"epoch {done}"
        log.info("resumes %s after %s", source, at)
        left = steps + (spec.max_epochs - done) * run.steps_per_epoch
        max_steps = left if spec.max_steps is None else min(left, spec.max_steps)
        return replace(run, max_steps=max_steps)

    def _best_weights(self, model: nn.Module, result: Result, changes: list[Change]) -> PackedFile | None:
        """The best epoch's weights as they are to be written: from the checkpoint, where that is of the best epoch.

        None before an epoch is done. Their config is the one that they were trained under, which is this one where nothing that takes
        effect differs.
        """
        same = not any(change.policy.rule is ResumeRule.TAKES_EFFECT for change in changes)
        if not result.best:
            return None
        if result.best["epoch"] == result.final["epoch"] and self.within is None:
            return pack_weights(model.state_dict(), self.config if same else self._saved_config, _scores(result))
        if "best_weights" in self._state:
            return pack_weights(self._state["best_weights"], self.config if same else self._state["best_config"], _scores(result))
        file = (self._source or Path()) / WEIGHTS
        told = f"which has the weights of the best epoch, {result.best['epoch']}, that the checkpoint goes with; {RESTORE}"
        if not file.is_file():
            raise ConfigError([Problem("", f"there is no {file}, {told}")])
        weights = read_weights(file)
        config = self.config if same and weights.config == self._saved_config else weights.config
        packed = pack_weights(weights.tensors, config, _scores(result))
        if packed.digest != self._state["weights_checksum"]:
            raise DamagedFile([Problem("", f"{file} is another file than the one {told}")])
        return packed

    def open(self, result: Result) -> None:
        """Leave the run directory as the run that is resumed left its own; without one, clear what an older run left there."""
        if self.folder is None:
            return
        elsewhere = self._source is None or self.folder.resolve() != self._source.resolve()
        if elsewhere:
            clear_run(self.folder)
        if self._source is None:
            return
        if elsewhere:
            pack_state(self._state, self._metadata).save(self.folder / CHECKPOINT)
            carry_kept(self._source, self.folder, len(result.history))
            for path in (self._source / name for name in _CARRIED):
                if path.is_file():
                    write_atomic(self.folder / path.name, lambda file, path=path: shutil.copyfile(path, file))
        write_metrics(self.folder / "metrics.csv", result.history)
        if self._weights is not None:
            self._weights.save(self.folder / WEIGHTS)
        self._state, self._weights = {}, None  # as large as the model

    def save_epoch(self, run: Run, model: nn.Module, result: Result, stale: int, is_best: bool, seen: Mapping[str, int]) -> None:
        """Write the files of a finished epoch; times are in metrics.csv alone, so that equal trainings leave equal checkpoints.

        Args:
            stale: epochs since the best one.
            seen: batches and samples that the epoch trained on, and `of` how many batches.
        """
        if self.folder is None:
            return
        self._positions.append(run.schedule.steps)
        self._last_epoch = dict(seen)
        best = pack_weights(model.state_dict(), self.config, _scores(result)) if is_best else None
        result.weights_checksum = result.weights_checksum if best is None else best.digest
        kept = list(run.spec.saving.kept(result.final["epoch"], is_best))
        if kept:  # before the last one, after which the epoch is done; beside the weights of the best epoch, where those are written
            self.write()
        for file in kept:
            self._save(run, model, result, stale, self._best_beside(is_best), file)
        self._is_saved = run.spec.saving.is_due(result.final["epoch"], is_best)
        state = self._packed(run, model, result, stale) if self._is_saved else None
        files = [(self.folder / name, file) for name, file in ((CHECKPOINT, state), (WEIGHTS, best)) if file is not None]
        self._epoch_files.put(partial(write_metrics, self.folder / "metrics.csv", result.history), files, is_best)

    def write(self) -> None:
        """Write the files of the last epoch, where they are still to be written."""
        self._epoch_files.write()

    def _best_beside(self, is_best: bool) -> dict[str, Any]:
        """What a checkpoint that stays needs of a best epoch that it is not of, whose weights a later one replaces."""
        if is_best or self.folder is None:
            return {}
        weights = read_weights(self.folder / WEIGHTS)
        return {"best_weights": weights.tensors, "best_config": weights.config}

    def close(self, run: Run, model: nn.Module, result: Result, stale: int) -> None:
        """Write the checkpoint of the last epoch, where `trainer.save.every` did not."""
        self.write()
        if not self._is_saved:
            self._save(run, model, result, stale)

    def save_within(self, within: dict[str, Any], run: Run, model: nn.Module, result: Result, stale: int) -> None:
        """Write the checkpoint of an epoch that is done in part; the other files are of whole epochs."""
        self.write()
        self._save(run, model, result, stale, {"within": within})
        run.world.wait()  # until it is there: who is first to end may end the others

    def told(self, place: Place) -> str:
        """What to tell of a training that is left at a place within an epoch."""
        if self.folder is None:
            return ""
        return f"step {place.step}, in epoch {place.epoch}, is saved; trainer.resume={self.folder} goes on from there"

    def _save(
        self, run: Run, model: nn.Module, result: Result, stale: int, more: Mapping[str, Any] = _NOTHING, file: Path = CHECKPOINT
    ) -> None:
        if self.folder is not None:
            self._packed(run, model, result, stale, more).save(self.folder / file)

    def _packed(self, run: Run, model: nn.Module, result: Result, stale: int, more: Mapping[str, Any] = _NOTHING) -> PackedFile:
        """The checkpoint of where the training is."""
        state = {
            "format": _FORMAT,
            "model": model.state_dict(),
            "optimizer": named_state(run.optimizer, model),
            "scaler": None if run.scaler is None else run.scaler.state_dict(),
            "stale": stale,
            "best": result.best,
            "weights_checksum": result.weights_checksum,
            "history": [{name: value for name, value in row.items() if name != "seconds"} for row in result.history],
            "last_epoch": self._last_epoch,
            "steps_per_epoch": run.steps_per_epoch,
            "schedule_length": run.schedule.length,
            "schedule_steps": self._positions,
            "num_samples": run.num_samples,
            "init_hash": result.init_hash,
            "warnings": result.warnings,
            "hints": result.hints,
            "resumed": result.resumed,
            **more,
        }
        metadata = {SETTINGS_KEY: json.dumps(self._settings)}
        if self.config is not None:
            metadata |= {CONFIG_KEY: json.dumps(self.config), HASH_KEY: config_hash(self.config)}
        return pack_state(state, metadata)


def _config_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The config and the settings that a checkpoint carries; empty where it has none."""
    return {**(json.loads(metadata.get(CONFIG_KEY, "null")) or {}), **json.loads(metadata.get(SETTINGS_KEY, "{}"))}


def _other_sizes(state: Mapping[str, Any], run: Run) -> list[Change]:
    """What differs though no key of the config does, or for a key that is free."""
    lengths, samples = (state["schedule_length"], run.schedule.length), (state["num_samples"], run.num_samples)
    changes = []
    if None not in lengths and lengths[0] != lengths[1]:
        unit = f"{run.schedule.interval}s"
        changes.append(Change("scheduler", f"fitted to {lengths[0]} {unit}", f"fitted to {lengths[1]} {unit}", policy_of("scheduler")))
    if samples[0] != samples[1]:
        changes.append(Change("data", f"{samples[0]} samples", f"{samples[1]} samples", policy_of("data.root")))
    return changes


def _scores(result: Result) -> dict[str, str]:
    return {f"modelfactory.{name}": str(value) for name, value in result.best.items()}


@contextmanager
def _named(path: str):
    """Gives the config path to errors of files."""
    try:
        yield
    except ConfigError as error:
        raise type(error)(Problem(problem.path or path, problem.message) for problem in error.problems) from error
