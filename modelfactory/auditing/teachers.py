"""Find teachers that follow a student by a moving average, and do not begin with its values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch
from torch import nn

from modelfactory.auditing.finding import Finding
from modelfactory.auditing.subject import AuditedParameter, Subject

_FOLLOWS = re.compile(r"(^|_)(teacher|momentum|ema|target|averaged?|shadow|slow|offline|key|k|m)(_|$)")
_SURE = re.compile(r"(^|_)(teacher|momentum|ema)(_|$)")
_OWN = re.compile(r"predictor")  # of a random network distillation, whose target is another network on purpose
_ALIKE = 0.05


def teachers(model: nn.Module) -> Iterator[tuple[str, str]]:
    """The names of modules that follow another by a moving average, by what they are called and made of, with that other.

    Example:
        >>> list(teachers(nn.ModuleDict({"student": nn.Linear(2, 2), "teacher": nn.Linear(2, 2).requires_grad_(False)})))
        [('teacher', 'student')]
    """
    for prefix, module in model.named_modules():
        children = {name: child for name, child in module.named_children() if next(child.parameters(), None) is not None}
        followers = [name for name in children if _FOLLOWS.search(name)] if len(children) > 1 else []
        for name in followers:
            frozen = not any(parameter.requires_grad for parameter in children[name].parameters())
            if not frozen and not _SURE.search(name):
                continue
            made = _make(children[name])
            same = [other for other, child in children.items() if other != name and _trains(child) and _make(child) == made]
            same = [other for other in same if not _OWN.search(other)]
            if len(same) > 1:
                same = [other for other in same if not _FOLLOWS.search(other) and _stem(other) == _stem(name)]
            if len(same) == 1:
                yield f"{prefix}.{name}".lstrip("."), f"{prefix}.{same[0]}".lstrip(".")


def _make(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes of its parameters, by name; a wrapper's own `module.` left out."""
    return {name.removeprefix("module."): tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _trains(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _stem(name: str) -> str:
    parts = [part for part in name.split("_") if part not in ("online", "student", "query", "q") and not _FOLLOWS.search(part)]
    return "_".join(parts)


def pairs(subject: Subject) -> Iterator[tuple[str, str, AuditedParameter, AuditedParameter]]:
    """Each parameter of a teacher with that of its student, and the names of both modules."""
    for teacher, student in teachers(subject.model):
        ours = {name.removeprefix("module."): name for name, _ in subject.model.get_submodule(teacher).named_parameters()}
        theirs = {name.removeprefix("module."): name for name, _ in subject.model.get_submodule(student).named_parameters()}
        for name in ours:
            one, other = (subject.by_name.get(f"{at}.{names[name]}") for at, names in ((teacher, ours), (student, theirs)))
            if one is not None and other is not None and one is not other:
                yield teacher, student, one, other


def find_teachers(subject: Subject) -> Iterator[Finding]:
    """Parameters of a teacher that are drawn as those of its student are, and drawn apart from them."""
    found: dict[tuple[str, str], list[tuple[AuditedParameter, AuditedParameter]]] = {}
    for teacher, student, one, other in pairs(subject):
        found.setdefault((teacher, student), []).append((one, other))
    for (teacher, student), items in found.items():
        known = {item.name for item in subject.items}
        items = [(one, other) for one, other in items if one.name in known and other.name in known]
        if not items or not all(_of_one_law(one, other) for one, other in items):
            continue  # one that was trained is another model on purpose
        for one, other in items:
            if one.values is not None and other.values is not None and not torch.equal(one.values, other.values):
                message = (
                    f"it follows {other.name} by a moving average and does not begin with its values: until the average has forgotten its "
                    "own draw, the student learns from another network"
                )
                fix = f"mf.initialize(model, {{'match': '{teacher}.*', 'scheme': 'copy', 'of': '{student}'}})"
                yield Finding(one.name, "teacher", "warn", message, fix)


def _of_one_law(one: AuditedParameter, other: AuditedParameter) -> bool:
    """Whether the values of two are as if drawn by one law: of one scale, to the precision of the draw."""
    if one.is_constant or other.is_constant:
        return one.is_constant and other.is_constant
    error = _ALIKE + 4 * math.sqrt(1 / (2 * math.prod(one.shape)))
    return abs(math.log(one.rms / other.rms)) < error
