"""Pretrained parameters keep their values: broad rules leave them alone, and one that can do nothing else is an error."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from modelfactory.errors import Problems
from modelfactory.select import ParamInfo, Selector, some_names

PRETRAINED = "backbone.weights"  # what the ledger calls the rule of a parameter whose values come from a file


class _Rule(Protocol):
    @property
    def path(self) -> str: ...
    @property
    def selector(self) -> Selector: ...


def report_kept(
    rules: Iterable[_Rule], beside: Iterable[_Rule], infos: Sequence[ParamInfo], kept: Collection[str], problems: Problems
) -> set[str]:
    """Adds each rule that would do nothing but overwrite what is pretrained; returns the paths of all that pick any of it.

    Args:
        beside: rules beside layers that pick something of `kept`.
        kept: names of the parameters that keep their pretrained values.
    """
    if not kept:
        return set()
    touching = set()
    for rule in beside:
        problems.add(rule.path, "picks what is pretrained, which a rule beside a layer never overwrites; take it out")
    for rule in rules:
        picked = [info.name for info in rule.selector.select(infos)]
        if any(name in kept for name in picked):
            touching.add(rule.path)
        if picked and rule.selector.names_parameters and all(name in kept for name in picked):
            problems.add(
                rule.path,
                f"picks {some_names(picked, 3)}: pretrained, and never overwritten unless the rule says reinit: true",
            )
    return touching
