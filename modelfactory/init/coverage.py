"""Rules that set nothing because later ones take all that they pick."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modelfactory.advice import Advice
from modelfactory.init.choosing import Choice
from modelfactory.init.rules import Rule


def overridden(rules: Sequence[Rule], choices: Sequence[Choice]) -> Iterable[Advice]:
    """A warning for each rule that picks parameters and sets none, with the rules that set them.

    A rule that is `optional` may pick nothing, and so it may set nothing.

    Example:
        >>> from torch import nn
        >>> from modelfactory.errors import Problems
        >>> from modelfactory.init.choosing import Chooser
        >>> from modelfactory.init.rules import read_rules
        >>> from modelfactory.select import describe
        >>> given = {"a": {"match": "0.weight", "scheme": "ones"}, "b": {"match": "*", "scheme": "zeros"}}
        >>> rules = read_rules(given, "init.rules", Problems())
        >>> choices = Chooser(rules, {}, Problems()).choose(describe(nn.Sequential(nn.Linear(2, 3))))
        >>> print(*overridden(rules, choices))
        init.rules.a sets nothing: init.rules.b wins over it for all that it picks (0.weight); to mend it: ~init.rules.a
    """
    winners = {part.path for choice in choices for part in (choice, *choice.parts)}
    for index, rule in enumerate(rules):
        if rule.path in winners or rule.selector.optional:
            continue
        picked = [choice for choice in choices if rule.selector.picks(choice.info)]
        if not picked or any(choice.call.pretrained for choice in picked):  # of what is loaded, `report_kept` tells
            continue
        earlier = {before.path for before in rules[:index]}
        others = [path for path in dict.fromkeys(choice.path for choice in picked) if path not in earlier]
        first = picked[0].info.name + (f" and {len(picked) - 1} more" if len(picked) > 1 else "")
        win = "wins over it for" if len(others) == 1 else "win over it for"
        yield Advice(f"{rule.path} sets nothing: {', '.join(others)} {win} all that it picks ({first})", f"~{rule.path}")
