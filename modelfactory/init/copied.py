"""The scheme `copy`: parameters that begin with the values of others, as a momentum teacher does with its student's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from modelfactory.config.advice import Advice
from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.schema import join
from modelfactory.parameters.info import ParamInfo

if TYPE_CHECKING:
    from modelfactory.init.assign import Assignment
    from modelfactory.init.choose import Choice


def find_sources(choices: Sequence[Choice], infos: Sequence[ParamInfo], problems: Problems) -> list[Choice]:
    """The choices, each that copies with the parameter whose values it takes; a copy of a copy takes those of the first.

    The parameter is the one inside of `of` whose name goes on in the same way: with `of: student`, `teacher.0.weight` is a copy
    of `student.0.weight`.
    """
    copying = {choice.info.index: choice for choice in choices if choice.call.source}
    if not copying:
        return list(choices)
    by_name = {name: info for info in infos for name in info.names}
    found: dict[int, ParamInfo | None] = {index: _source(choice, by_name, problems) for index, choice in copying.items()}
    return [replace(choice, source=_first(choice, found, copying, problems)) if choice.call.source else choice for choice in choices]


def _source(choice: Choice, by_name: Mapping[str, ParamInfo], problems: Problems) -> ParamInfo | None:
    of, path = choice.call.source, join(choice.path, "of")
    for name in choice.info.names:
        parts = name.split(".")
        for begin in range(len(parts)):
            info = by_name.get(join(of, ".".join(parts[begin:])))
            if info is not None and info is not choice.info:
                return _of_same_shape(choice.info, info, path, problems)
    if of in by_name:
        return _of_same_shape(choice.info, by_name[of], path, problems)
    inside = sorted({prefix for name in by_name for prefix in _prefixes(name)})
    what = f"has no parameter for {choice.info.name} to be a copy of" if of in inside else "is no module or parameter of the model"
    problems.add(path, f"{of!r} {what}{'' if of in inside else did_you_mean(of, inside)}")
    return None


def _of_same_shape(info: ParamInfo, source: ParamInfo, path: str, problems: Problems) -> ParamInfo | None:
    if info.parameter.shape == source.parameter.shape:
        return source
    shapes = f"{tuple(info.parameter.shape)}, and {source.name} {tuple(source.parameter.shape)}"
    problems.add(path, f"{info.name} has the shape {shapes}: one cannot be a copy of the other")
    return None


def _first(choice: Choice, found: Mapping[int, ParamInfo | None], copying: Mapping[int, Choice], problems: Problems) -> ParamInfo | None:
    """The parameter at the end of a chain of copies."""
    source, seen = found[choice.info.index], {choice.info.index}
    while source is not None and source.index in copying:
        if source.index in seen:
            problems.add(join(choice.path, "of"), f"{choice.info.name} and {source.name} are copies of each other; leave out one rule")
            return None
        seen.add(source.index)
        source = found[source.index]
    return source


def _prefixes(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[: end + 1]) for end in range(len(parts)))


def copy_values(assignments: Iterable[Assignment]) -> None:
    """Gives every copy the values that its source has at present."""
    with torch.no_grad():
        for item in assignments:
            if item.choice.source is not None and not item.info.parameter.is_meta:
                item.info.parameter.copy_(item.choice.source.parameter)


def twins_apart(assignments: Sequence[Assignment]) -> Iterable[Advice]:
    """A line for each module that its author makes as a copy of another, and that the rules give other values."""
    by_name = {item.info.name: item for item in assignments}
    pairs: dict[tuple[str, str], int] = {}
    for item in assignments:
        source = by_name.get(item.info.written.copy_of) if item.info.written is not None else None
        if source is not None and _differ(item, source):
            pair = _without_common_end(item.info.name, source.info.name)
            pairs[pair] = pairs.get(pair, 0) + 1
    for (copied, source), count in pairs.items():
        name, glob = copied.rpartition(".")[2], copied if copied in by_name else f"{copied}.*"
        yield Advice(
            f"{copied} is made as a copy of {source}, and its {'parameter is' if count == 1 else f'{count} parameters are'} drawn apart "
            "from it; a rule keeps the two equal",
            f'+init.rules.{name}={{match: "{glob}", scheme: copy, of: {source}}}',
        )


def _differ(item: Assignment, source: Assignment) -> bool:
    """Whether two parameters that their author made equal will have values of their own."""
    call, other = item.call, source.call
    if call.source or call.pretrained and other.pretrained:
        return False
    if call.is_default and other.is_default:
        return any(info.written is not None and info.written.put_off for info in (item.info, source.info))
    same = call.name == other.name and call.args == other.args
    return not (same and call.scheme is not None and not call.scheme.random)


def _without_common_end(one: str, other: str) -> tuple[str, str]:
    a, b = one.split("."), other.split(".")
    while len(a) > 1 and len(b) > 1 and a[-1] == b[-1]:
        a.pop()
        b.pop()
    return ".".join(a), ".".join(b)
