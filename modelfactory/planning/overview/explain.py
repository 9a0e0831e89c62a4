"""Why a parameter gets the values it gets: every rule in order, and what the winner comes to."""

from __future__ import annotations

import fnmatch
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from modelfactory.config.errors import ConfigError, Problem, did_you_mean
from modelfactory.config.schema import join
from modelfactory.init.assign import Assignment
from modelfactory.init.ledger import LedgerRow
from modelfactory.init.rules import InitSpec, Rule
from modelfactory.init.scheme_call import Default, FromFile, FromScheme, given_arguments, scheme_of
from modelfactory.init.schemes.table import arguments
from modelfactory.parameters.freezing import FreezeSpec
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.layer_rules import Definition
from modelfactory.parameters.selector import Selector
from modelfactory.planning.overview.reasons import call_text, fans_reason, gain_reason
from modelfactory.planning.overview.units import figure

PRECEDENCE = "the last that picks it wins, but one beside a layer yields only to one that names the parameter by match"
_CRITERIA = ("match", "module", "role", "before", "after")


@dataclass(frozen=True)
class Contender:
    """One rule, as one parameter sees it.

    Attributes:
        rule, path: its name, and where the config says it.
        scheme: with its arguments.
        matched: whether its selector picks the parameter.
        parts: for each criterion of the selector, its words and whether it holds.
        won: whether it sets the parameter.
        why: why it won, or why it lost though it matched; empty where it did not match.
    """

    rule: str
    path: str
    scheme: str
    matched: bool
    parts: tuple[tuple[str, str, bool], ...]
    won: bool
    why: str


@dataclass(frozen=True)
class Explanation:
    """Everything that decides one parameter's values: `print` it.

    Attributes:
        row: the ledger's.
        contenders: every rule in order, those beside layers last.
        scheme: with its arguments, those left at their defaults too.
        formula: of the scheme, with its source.
        fans, gain, draws, origin, training: in words.
    """

    row: LedgerRow
    module_name: str
    contenders: tuple[Contender, ...]
    scheme: str
    formula: str
    fans: str
    gain: str
    seed: int | None
    draws: str
    origin: str
    training: str

    def text(self, width: int = 120) -> str:
        """What is explained, on a page of `width` columns."""
        row = self.row
        shape = "scalar" if row.shape == "scalar" else f"[{row.shape.replace('x', ', ')}]"
        lines = [f"{row.name}  {shape} {row.dtype}, {row.numel:,} number{'s' * (row.numel != 1)}"]
        expected = f"mean {figure(row.expected_mean) or 'not known'}, std {figure(row.expected_std) or 'not known'}"
        lines += _item("of", f"{self.module_name or 'the model'} ({row.module}); role {row.role}", width)
        lines += _item("rules", f"in order; {PRECEDENCE}", width)
        for contender in self.contenders:
            mark = "won" if contender.won else "lost" if contender.matched else "no"
            parts = ", ".join(f"{key} {words}: {'yes' if held else 'no'}" for key, words, held in contender.parts)
            told = f"{contender.rule}  {contender.scheme}" + (f"  ({parts})" if parts else "")
            lines += _item(f"  {mark}", told + (f": {contender.why}" if contender.why else ""), width)
        items = {"origin": self.origin, "scheme": self.scheme, "": self.formula, "fans": self.fans, "gain": self.gain}
        items |= {"expect": expected, "draws": self.draws, "trains": self.training}
        for head, words in items.items():
            lines += _item(head, words, width) if words else []
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for `--json`."""
        from modelfactory.planning.overview.as_json import plain_row

        return {**asdict(self), "row": plain_row(self.row)}


class Explanations(tuple[Explanation, ...]):
    """What is explained of all that a glob picks; prints one after another."""

    def text(self, width: int = 120) -> str:
        return "\n\n".join(explanation.text(width) for explanation in self)

    def __str__(self) -> str:
        return self.text()


def _item(head: str, words: str, width: int) -> list[str]:
    """One item of an explanation, its further lines indented as the first."""
    wrapper = textwrap.TextWrapper(width, f"  {head:8}", " " * 10, break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(words)


def explain(
    wanted: str,
    items: Sequence[Assignment],
    rows: Sequence[LedgerRow],
    init: InitSpec,
    definitions: Mapping[str, Definition],
    beside: Mapping[str, Sequence[tuple[str, Rule]]],
    freeze: FreezeSpec,
    seed: int,
) -> Explanations:
    """Explains every parameter whose name is `wanted`, or that the glob `wanted` picks.

    Raises:
        ConfigError: there is none; the nearest name is told.
    """
    picks = Selector(match=(wanted,)).picks
    found = [(item, row) for item, row in zip(items, rows, strict=True) if wanted in item.info.known_as or picks(item.info)]
    if not found:
        names = [name for item in items for name in item.info.names]
        raise ConfigError([Problem("", f"{wanted!r} is no parameter of the model{did_you_mean(wanted, names)}")])
    single = [pair for item, row in found for pair in _blocks(item, row)]
    return Explanations(_explain(item, row, init, definitions, beside, freeze, seed) for item, row in single)


def _blocks(item: Assignment, row: LedgerRow) -> list[tuple[Assignment, LedgerRow]]:
    """The assignment, or those of the blocks of a packed parameter whose rules differ, each with its part of the row."""
    if not item.parts:
        return [(item, row)]
    pairs = []
    for name, part in zip(item.info.packed, item.parts, strict=True):
        size = {"numel": row.numel // len(item.parts), "name": f"{row.name} ({name})", "mean": None, "std": None}
        moments = {"gain": part.gain, "expected_mean": part.expected[0], "expected_std": part.expected[1]}
        own = replace(row, rule=part.choice.rule, scheme=part.call.name, **size, **moments)
        pairs.append((replace(part, acting=part.acting or item.acting), own))
    return pairs


def _explain(
    item: Assignment,
    row: LedgerRow,
    init: InitSpec,
    definitions: Mapping[str, Definition],
    beside: Mapping[str, Sequence[tuple[str, Rule]]],
    freeze: FreezeSpec,
    seed: int,
) -> Explanation:
    info, call = item.info, item.call
    contenders = tuple(_contenders(item, init.rules, beside))
    loaded = row.origin == "pretrained"
    scheme = formula = fans = gain = ""
    drawn = False
    if loaded:
        draws = "nothing: its values are loaded"
    elif isinstance(call, Default):
        scheme, drawn = "default: what its author wrote", True
        draws = f"what {row.module} draws in its constructor or reset_parameters, by {_generator(seed, info.name)}"
    else:
        filler = scheme_of(call)
        takes = arguments(filler.name) if filler is not None else {}
        given = {**takes, **given_arguments(call), **item.args, **({"gain": item.gain} if item.gain is not None else {})}
        shown = ", ".join(f"{name}={_value(value)}" for name, value in given.items())
        scheme = f"{call.name}({shown})" if shown else call.name
        formula = f"{filler.formula} Source: {filler.source}" if filler is not None else ""
        drawn = filler is None or filler.random
        draws = _generator(seed, info.key) if drawn else "nothing: it is not random"
        if info.computed is not None:
            draws += f"; {_through(info)}"
        if filler is not None:
            fans = fans_reason(item, init.fans) if filler.uses_fans else "not used by this scheme"
        if filler is not None and filler.uses_gain:
            gain = gain_reason(item)
    origin = {
        "pretrained": f"loaded: {row.scheme}, by {row.rule}",
        "default": f"its author's own init, chosen by {item.choice.path}",
    }.get(row.origin, f"drawn by {item.choice.path}" if drawn else f"set by {item.choice.path}")
    training = _training(info, row, freeze, definitions)
    if item.choice.reason:
        scheme += ", which auto chose" if gain else f", which auto chose: {item.choice.reason}"
    return Explanation(row, info.module_name, contenders, scheme, formula, fans, gain, seed if drawn else None, draws, origin, training)


def _through(info: ParamInfo) -> str:
    """How a value gets into the parameters of a weight that is computed."""
    if info.computed is None or info.computed.leads:
        return f"what is drawn is put into {info.key} by way of the parameters that it is computed from"
    return f"it follows what is put into {info.key}, which is computed from it"


def _generator(seed: int, name: str) -> str:
    return f"modelfactory.numerics.rng.generator({seed}, {name!r})"


def _value(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _contenders(item: Assignment, rules: Sequence[Rule], beside: Mapping[str, Sequence[tuple[str, Rule]]]):
    """Every rule in order, then those beside the layer and what holds it, the innermost last."""
    info, winner = item.info, item.choice.path
    named = any(rule.path == winner and rule.selector.names_parameters for rule in rules)
    shown = set()
    for rule in rules:
        parts = tuple(_parts(rule.selector, info))
        matched, won = rule.selector.picks(info), rule.path == winner
        shown.add(rule.path)
        yield Contender(rule.name, rule.path, call_text(rule.call), matched, parts, won, _why(item, rule, matched, won, False, named))
    for glob, rule, held in _beside(info, beside):
        won, parts = rule.path == winner, (("match", glob, held),)
        shown.add(rule.path)
        yield Contender(rule.path, rule.path, call_text(rule.call), held, parts, won, _why(item, rule, held, won, True, named))
    if winner not in shown:
        why = "no rule that picks it can fill it: a bias is 0 then"
        if isinstance(item.call, FromFile):
            why = "its values are loaded; a rule that picks it takes it only if it says reinit: true"
        yield Contender(item.choice.rule, winner, call_text(item.call), True, (), True, why)


def _parts(selector: Selector, info: ParamInfo):
    """For each criterion, its words and whether it holds by itself."""
    for key in _CRITERIA:
        words = getattr(selector, key)
        if words:
            yield key, words if isinstance(words, str) else ", ".join(words), replace(Selector(), **{key: words}).picks(info)


def _beside(info: ParamInfo, beside: Mapping[str, Sequence[tuple[str, Rule]]]) -> list[tuple[str, Rule, bool]]:
    """The rules beside the layer of a parameter and beside what holds it, the outermost first."""
    found = []
    module_name, tail = info.module_name, info.attr
    while True:
        found += [(glob, rule, fnmatch.fnmatchcase(tail, glob)) for glob, rule in beside.get(module_name, ())]
        if not module_name:
            return found[::-1]
        module_name, _, last = module_name.rpartition(".")
        tail = join(last, tail)


def _why(item: Assignment, rule: Rule, matched: bool, won: bool, is_beside: bool, named: bool) -> str:
    if not matched:
        return ""
    if isinstance(item.call, FromFile):
        return "it is loaded, and this rule does not say reinit: true"
    if won:
        if is_beside:
            return "beside the layer: it wins over rules that pick by role or module alone"
        return "the last that picks it" + (", by its name" if named else "")
    needs = rule.call.scheme.min_dims if isinstance(rule.call, FromScheme) else 0
    if needs > item.info.parameter.ndim:
        return f"it needs {needs} dimensions"
    if is_beside and named:
        return f"{item.choice.path} names the parameter by match"
    return f"{item.choice.path} comes later" if not item.choice.path.startswith("model") else f"{item.choice.path} stands beside the layer"


def _training(info: ParamInfo, row: LedgerRow, freeze: FreezeSpec, definitions: Mapping[str, Definition]) -> str:
    if row.trainable:
        return f"yes, in the optimizer's group {row.group or 'default'}"
    rule = next((rule for rule in reversed(freeze.rules) if rule.selector.picks(info)), None)
    if rule is not None and rule.frozen:
        until = "" if rule.until is None else f", until epoch {rule.until}"
        return f"no: frozen by {rule.path} {rule.selector}{until}"
    name = info.module_name
    while True:
        definition = definitions.get(name)
        if definition is not None and definition.freeze:
            return f"no: frozen by {join(definition.path, 'freeze')}"
        if not name:
            return "no: its module was built so"
        name = name.rpartition(".")[0]
