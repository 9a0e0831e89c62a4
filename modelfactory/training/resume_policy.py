"""What may differ between the config of a run and the one that resumes it: the table `POLICY`, which docs/training.md shows."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Iterator, Mapping
from enum import Enum
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

from modelfactory.config import target
from modelfactory.config.errors import Problem, Problems
from modelfactory.data.spec import DataSpec
from modelfactory.training.optimizer import DEFAULT
from modelfactory.training.scheduler import CONSTANT, CommonSpec
from modelfactory.training.spec import TrainerSpec
from modelfactory.training.status import is_ordered


class ResumeRule(Enum):
    """What becomes of a key that differs."""

    TAKES_EFFECT = "takes effect"
    REFUSED = "refused"
    START = "refused, unless the initial values are the same"
    FREE = "free"


class Policy(NamedTuple):
    """What becomes of the keys that one of the globs matches, and why; of several policies the first counts."""

    keys: tuple[str, ...]
    rule: ResumeRule
    why: str


POLICY = (
    Policy(("seed",), ResumeRule.REFUSED, "the initial values, and what dropout draws, depend on it"),
    Policy(("data.batch_size", "data.drop_last", "trainer.accumulate", "trainer.limit_batches"), ResumeRule.TAKES_EFFECT,
           "progress is counted in epochs; a schedule stands where it would after as many epochs of this size; refused within an epoch"),
    Policy(("data.val_batch_size", "data.seed", "data.root", "data.transforms.train", "data.transforms.train.*"), ResumeRule.TAKES_EFFECT,
           "batches and training samples are made anew in each epoch; all but the first are refused within one"),
    Policy(("data.num_workers", "data.download"), ResumeRule.FREE, "no number depends on it"),
    Policy(("data", "data.*"), ResumeRule.REFUSED, "losses on other data cannot be compared, and held out samples would be trained on"),
    Policy(("model.init", "model.init.*", "model.*.init", "model.*.init.*", "model.*.roles", "model.*.roles.*",
            "init", "init.*", "backbone.weights", "backbone.weights.*", "backbone.sha256"), ResumeRule.START,
           "the weights are trained already, so it could not take effect"),
    Policy(("freeze", "freeze.*", "model.freeze", "model.freeze.*", "model.*.freeze", "model.*.freeze.*"), ResumeRule.TAKES_EFFECT,
           "the optimizer's state belongs to parameters by their names"),
    Policy(("model", "model.*", "backbone", "backbone.*", "activation", "activation.*"), ResumeRule.REFUSED,
           "the weights belong to another function"),
    Policy(("optimizer._target_",), ResumeRule.REFUSED, "one optimizer's state means nothing to another"),
    Policy(("optimizer.fused", "optimizer.foreach", "optimizer.capturable"), ResumeRule.FREE, "another way to compute the same"),
    Policy(("optimizer", "optimizer.*"), ResumeRule.TAKES_EFFECT,
           "state is given to parameters by name; refused where the optimizer would need state that was not kept, as with `amsgrad`"),
    Policy(("scheduler", "scheduler.*"), ResumeRule.TAKES_EFFECT, "the schedule stands where it would after as many epochs of this one"),
    Policy(("trainer.loss", "trainer.loss.*", "trainer.monitor"), ResumeRule.REFUSED,
           "the best epoch is chosen by comparing with earlier ones"),
    Policy(("trainer.max_epochs", "trainer.max_steps"), ResumeRule.FREE,
           "how long it trains; a schedule that is fitted to the length changes with it, which is recorded"),
    Policy(("trainer.check_every", "trainer.cache_features", "trainer.progress", "trainer.tracker", "trainer.signal", "trainer.strategy",
            "trainer.save", "trainer.save.*"),
           ResumeRule.FREE, "no number depends on it"),
    Policy(("trainer.device", "trainer.precision", "trainer.compile", "trainer.clip_norm", "trainer.patience",
            "trainer.sync_batchnorm", "trainer.deterministic", "trainer", "trainer.*"), ResumeRule.TAKES_EFFECT, "from the next epoch"),
    Policy(("*",), ResumeRule.FREE, "keys of other programs, of sweeps and of experiments"),
)  # fmt: skip

PATH = "trainer.resume"
# what the batches of an epoch are made of
OF_BATCHES = ("data.batch_size", "data.drop_last", "data.seed", "data.root", "data.transforms.train", "data.transforms.train.*",
              "trainer.accumulate", "trainer.limit_batches")  # fmt: skip


class Change(NamedTuple):
    """A key that differs: its value in the config of the run that is resumed, and in the one that resumes it."""

    path: str
    before: Any
    after: Any
    policy: Policy

    def __str__(self) -> str:
        return f"{self.path}: {_shown(self.before)} -> {_shown(self.after)}"

    @property
    def values(self) -> str:
        return f"{_shown(self.after)} here, {_shown(self.before)} in the run that is resumed"


class _Order(tuple):
    """The keys of a mapping, where their order differs."""


def policy_of(path: str) -> Policy:
    """The first policy that a config path falls under, in which NAME stands for the name of a layer.

    Example:
        >>> policy_of("optimizer.lr").rule.value, policy_of("optimizer._target_").rule.value
        ('takes effect', 'refused')
    """
    return next(policy for policy in POLICY if any(fnmatchcase(path, glob) for glob in policy.keys))


def find_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Every key that differs between two configs, a key that is left out being its default.

    The order of layers, of rules and of groups counts too.

    Example:
        >>> one = {"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}, "trainer": {"max_epochs": 2}}
        >>> other = {"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.01}, "trainer": {"max_epochs": 2, "accumulate": 1}}
        >>> print(*find_changes(one, other))
        optimizer.lr: 0.1 -> 0.01
    """
    return list(_differences(_comparable(before), _comparable(after), (), ()))


def refusals(changes: list[Change], source: str, rules: tuple[ResumeRule, ...] = (ResumeRule.REFUSED,)) -> list[Problem]:
    """Give a problem for each change that no training can take over.

    Example:
        >>> changes = find_changes({"seed": 0}, {"seed": 1})
        >>> print(refusals(changes, "runs/a")[0])
        seed: 1 here, 0 in the run that is resumed, and cannot be changed when the run is resumed: the initial values, ...
    """
    problems = [
        Problem(change.path, f"{change.values}, and cannot be changed when the run is resumed: {change.policy.why}")
        for change in changes
        if change.policy.rule in rules
    ]
    return [*problems, Problem(PATH, f"{source} was trained with other settings, which are named above")] if problems else []


def other_batches(changes: list[Change], source: str, epoch: int) -> list[Problem]:
    """Give a problem for each change that makes other batches of an epoch, of which `source` has done a part.

    Example:
        >>> changes = find_changes({"data": {"batch_size": 8}}, {"data": {"batch_size": 16}})
        >>> print(*other_batches(changes, "runs/a", 3))
        data.batch_size: 16 here, 8 in runs/a, which was stopped within epoch 3; go on with that until the epoch is done
    """
    told = f"in {source}, which was stopped within epoch {epoch}; go on with that until the epoch is done"
    of_batches = (change for change in changes if any(fnmatchcase(change.path, glob) for glob in OF_BATCHES))
    return [Problem(change.path, f"{_shown(change.after)} here, {_shown(change.before)} {told}") for change in of_batches]


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as JSON holds it, without where it is resumed from and how sweeps run, with the groups' defaults."""
    plain = json.loads(json.dumps(config, default=lambda value: type(value).__name__))
    plain.pop("sweep", None)
    plain["seed"] = plain.get("seed") or 0
    for group, defaults in _defaults().items():
        if plain.get(group) is None:
            plain[group] = dict(defaults)
        elif isinstance(plain[group], dict) and group != "optimizer":
            plain[group] = {**defaults, **plain[group]}
    if isinstance(plain["trainer"], dict):
        plain["trainer"].pop("resume", None)
    return plain


@cache
def _defaults() -> Mapping[str, Mapping[str, Any]]:
    specs = {"data": DataSpec, "trainer": TrainerSpec, "scheduler": CommonSpec}
    filled = {name: {field.name: field.default for field in dataclasses.fields(spec)} for name, spec in specs.items()}
    return {**filled, "scheduler": {**CONSTANT, **filled["scheduler"]}, "optimizer": DEFAULT}


def _differences(before: Any, after: Any, path: tuple[str, ...], kind: tuple[str, ...]) -> Iterator[Change]:
    """The changes below a path; `kind` is the path without the names of layers, which may be any word."""
    before, after = (None if value in ({}, []) else value for value in (before, after))
    if isinstance(before, dict) and isinstance(after, dict) and before.get("_target_") == after.get("_target_"):
        defaults = _arguments_of(str(before.get("_target_")))
        before, after = {**defaults, **before}, {**defaults, **after}
    if before == after and not isinstance(before, dict):
        return
    policy = policy_of(".".join(kind))
    if not (isinstance(before, dict) and isinstance(after, dict)):
        yield Change(".".join(path), before, after, policy)
        return
    if path and is_ordered(path[-1]):
        orders = [_Order(key for key in one if key in other) for one, other in ((before, after), (after, before))]
        if orders[0] != orders[1]:
            yield Change(".".join(path), orders[0], orders[1], policy)
    for key in dict.fromkeys([*before, *after]):
        name = "NAME" if kind and kind[-1] == "layers" else key
        yield from _differences(before.get(key), after.get(key), (*path, key), (*kind, name))


@cache
def _arguments_of(name: str) -> Mapping[str, Any]:
    """The defaults of a class or function of `_target_`, as JSON holds them; empty where it may not be looked at."""
    for kind in ("layer", "optimizer", "scheduler", "data", "loss"):
        found = target.resolve(name, "", Problems(), kind=kind)
        if found is not None:
            try:
                parameters = inspect.signature(found).parameters.values()
            except (TypeError, ValueError):  # of C code
                return {}
            plain = (bool, int, float, str, tuple)
            given = {item.name: item.default for item in parameters if isinstance(item.default, plain)}
            return json.loads(json.dumps(given, default=str))
    return {}


def _shown(value: Any) -> str:
    if isinstance(value, _Order):
        return "the order " + ", ".join(value)
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
