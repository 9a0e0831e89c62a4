"""A warning with what would mend it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from modelfactory.config.advice import Advice
from modelfactory.init.assign import Assignment
from modelfactory.init.choose import Choice, Chooser
from modelfactory.init.copied import twins_apart
from modelfactory.init.rules import Rule
from modelfactory.parameters.selector import some_names


def plan_warnings(assignments: Sequence[Assignment], rules: Sequence[Rule], chooser: Chooser) -> Iterable[Advice]:
    """What rules probably do not mean: a scheme that nobody should take, rules that set nothing, and roles that nothing tells."""
    if assignments and any(rule.selector.role for rule in rules):
        yield from (Advice(note) for note in assignments[0].info.model.notes)
    yield from overridden(rules, [item.choice for item in assignments], {*chooser.left, *chooser.codes})
    yield from by_hand(chooser)
    yield from twins_apart(assignments)
    thumb = [item for item in assignments if item.call.name == "rule_of_thumb"]
    if thumb:
        path = thumb[0].choice.path
        yield Advice(
            f"{path}: rule_of_thumb has variance 1/(3 n_in^2), which shrinks the signal by about sqrt(3 n_in) a layer "
            f"({len(thumb)} parameters here); the usual rule is fan_in_uniform",
            f"{path}.scheme=fan_in_uniform" if ".rules." in path else f"{path}=fan_in_uniform",
        )
    fixup = [item for item in assignments if item.call.name == "fixup"]
    norms = [item.info.module_name for item in assignments if "norm" in item.info.roles]
    if fixup and norms:
        count = len(set(norms))
        yield Advice(
            f"{fixup[0].choice.path}: fixup is for nets without norm layers, and there {'is' if count == 1 else 'are'} {count} "
            f"({norms[0]}{', ...' if count > 1 else ''})",
            "init=zero_residual",
        )


def by_hand(chooser: Chooser) -> Iterable[Advice]:
    """A line for each rule that leaves integers, or leaves or overwrites what the model's author set by hand."""
    for path, infos in chooser.left.items():
        names = list(dict.fromkeys(info.name for info in infos))
        yield Advice(
            f"{path} leaves {some_names(names, 3)} as the author of the model set {'it' if len(names) == 1 else 'them'} by hand; "
            f"a rule that names {'it' if len(names) == 1 else 'them'} (match: {names[0]}) overwrites that"
        )
    for path, infos in chooser.codes.items():
        names = list(dict.fromkeys(info.name for info in infos))
        kind = str(infos[0].parameter.dtype).removeprefix("torch.")
        yield Advice(f"{path} leaves {some_names(names, 3)} as {'it is' if len(names) == 1 else 'they are'}: {kind}, which no scheme fills")
    for path, infos in chooser.overwritten.items():
        names = list(dict.fromkeys(info.name for info in infos))
        yield Advice(
            f"{path} overwrites {some_names(names, 3)}, which the author of the model set by hand; a rule after it keeps that: "
            f"{{match: {names[0]}, scheme: default}}"
        )


def overridden(rules: Sequence[Rule], choices: Sequence[Choice], left: Collection[str] = ()) -> Iterable[Advice]:
    """A warning for each rule that picks parameters and sets none, with the rules that set them.

    A rule that is `optional` may pick nothing, and so it may set nothing.

    Args:
        left: paths of rules that leave something to the model's author, which is told elsewhere.

    Example:
        >>> from torch import nn
        >>> from modelfactory.config.errors import Problems
        >>> from modelfactory.init.choose import Chooser
        >>> from modelfactory.init.rules import read_rules
        >>> from modelfactory.parameters.roles import describe
        >>> given = {"a": {"match": "0.weight", "scheme": "ones"}, "b": {"match": "*", "scheme": "zeros"}}
        >>> rules = read_rules(given, "init.rules", Problems())
        >>> choices = Chooser(rules, {}, Problems()).choose(describe(nn.Sequential(nn.Linear(2, 3))))
        >>> print(*overridden(rules, choices))
        init.rules.a sets nothing: init.rules.b wins over it for all that it picks (0.weight); to fix it: ~init.rules.a
    """
    winners = {part.path for choice in choices for part in (choice, *choice.parts)}
    for index, rule in enumerate(rules):
        if rule.path in winners or rule.selector.optional:
            continue
        picked = [choice for choice in choices if rule.selector.picks(choice.info)]
        if not picked or rule.path in left or any(choice.call.pretrained for choice in picked):  # of what is loaded, `report_kept` tells
            continue
        earlier = {before.path for before in rules[:index]}
        others = [path for path in dict.fromkeys(choice.path for choice in picked) if path not in earlier]
        first = picked[0].info.name + (f" and {len(picked) - 1} more" if len(picked) > 1 else "")
        win = "wins over it for" if len(others) == 1 else "win over it for"
        yield Advice(f"{rule.path} sets nothing: {', '.join(others)} {win} all that it picks ({first})", f"~{rule.path}")
