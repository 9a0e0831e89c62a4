"""Which rule sets each parameter, and each block of one that packs several.

A later rule wins over an earlier one. A rule beside a layer ("at definition") wins over those that pick by role or module
alone, and yields to one that names its parameter by `match`. Where a rule picks a block by its role (query, key, value, a
gate), the blocks of a packed parameter are chosen for one by one; where a model exists already, blocks that no rule
picks stay as they are. What the model's author set by hand (`authored`) is left by rules that pick by role or class, or all.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.schema import join
from modelfactory.init.copied import find_sources
from modelfactory.init.rules import Rule, SchemeCall, read_scheme
from modelfactory.init.schemes.table import SCHEMES
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.layer_rules import Definition
from modelfactory.parameters.roles import BLOCK_ROLES
from modelfactory.parameters.selector import Selector, nothing_picked, some_names


@dataclass(frozen=True)
class Choice:
    """Which rule set a parameter: its name in the ledger, its config path, and its scheme.

    Attributes:
        parts: where the blocks of a packed parameter have different rules, one choice a block; `call` only names them all then.
        reason: why this scheme, where `auto` chose it.
        source: of `copy`, the parameter whose values it takes over.
        follows: its values come with those of another parameter, of the weight that is computed from both.
    """

    info: ParamInfo
    rule: str
    path: str
    call: SchemeCall
    parts: tuple[Choice, ...] = ()
    reason: str = ""
    follows: bool = False
    source: ParamInfo | None = None


_KEPT = SchemeCall("as it was", kept=True)
_AUTHORED = Rule("authored", "init.rules.authored", Selector(role=("authored",)), SchemeCall("default"))
_BIASES = Rule("biases", "init.rules.biases", Selector(role=("bias",)), SchemeCall("zeros", SCHEMES["zeros"]))


def _is_meant_for_authored(rule: Rule) -> bool:
    """Whether a rule sets what the author of a model set by hand, too: it names parameters, or asks for the role."""
    return rule.selector.names_parameters or "authored" in rule.selector.role


def _holds_numbers(info: ParamInfo) -> bool:
    return info.parameter.is_floating_point() or info.parameter.is_complex()


def _fits(rule: Rule, info: ParamInfo) -> bool:
    scheme = rule.call.scheme
    return scheme is None or scheme.min_dims <= info.parameter.ndim <= scheme.max_dims


class Chooser:
    """Finds the rule that sets each parameter, and every rule that picks nothing."""

    def __init__(self, rules: Sequence[Rule], definitions: Mapping[str, Definition], problems: Problems):
        self._rules = rules
        self._problems = problems
        self.beside = {
            name: _read_definition(definition, problems) for name, definition in definitions.items() if definition.init
        }
        self.left: dict[str, list[ParamInfo]] = {}
        """By path of a broad rule, what it leaves as the model's author set it by hand."""
        self.overwritten: dict[str, list[ParamInfo]] = {}
        """By path of a rule with a glob, what it sets although the model's author set it by hand."""
        self.codes: dict[str, list[ParamInfo]] = {}
        """By path of a rule, integers that it leaves as they are."""
        self._used: set[str] = set()
        self._fitting: set[str] = set()
        self._whole = True
        self._by_kind: dict[tuple[Any, ...], Rule | None] = {}
        self._by_place = any(rule.selector.looks_at_places for rule in rules)
        self._by_block = any(BLOCK_ROLES.intersection(rule.selector.role) for rule in rules)

    def choose(
        self, infos: Sequence[ParamInfo], whole: bool = True, pretrained: Mapping[str, str] = MappingProxyType({})
    ) -> list[Choice]:
        """A choice for each parameter; with `whole`, one that no rule picks is a problem, and so is a block of one.

        Args:
            pretrained: parameter -> the file and tensor that its values come from. Rules leave it alone, unless one that
                picks it says `reinit`: then it is like any other.
        """
        choices = []
        self._whole = whole
        kept: dict[str, ParamInfo] = {}  # what is pretrained and stays so
        self._fitting = {
            rule.path for rule in self._rules if any(_fits(rule, info) and rule.selector.picks(info) for info in infos)
        }
        leading = {info.computed.name: info for info in infos if info.computed is not None and info.computed.leads}
        for info in infos:
            if info.name in pretrained and not any(rule.reinit and rule.selector.picks(info) for rule in self._rules):
                kept[info.name] = info
                choices.append(Choice(info, PRETRAINED, PRETRAINED, SchemeCall(pretrained[info.name], pretrained=True)))
                continue
            if info.follows and not self._is_named_alone(info, leading[info.key]):
                lead = self._choose(leading[info.key])
                choice = None if lead is None else replace(lead, info=info, follows=not lead.call.source)
            else:
                choice = self._choose(info) if not (self._by_block and info.packed) else self._choose_blocks(info, whole)
            if choice is not None:
                choices.append(choice)
            elif whole:
                self._problems.add("init.rules", _uncovered(info))
        beside = [rule for info in kept.values() if self.beside and (rule := self._definition(info)) is not None]
        self._used.update(report_kept(self._rules, beside, infos, kept, self._problems))
        self._report_unused(infos)
        return find_sources(choices, infos, self._problems)

    def _is_named_alone(self, info: ParamInfo, lead: ParamInfo) -> bool:
        """Whether a rule names this parameter and not the one that stands for the weight computed from both."""
        return any(rule.selector.names_parameters and rule.selector.picks(info) and not rule.selector.picks(lead) for rule in self._rules)

    def _choose(self, info: ParamInfo) -> Choice | None:
        rule = self._last(info)
        beside = self._definition(info) if self.beside else None
        if beside is not None and not (rule is not None and rule.selector.names_parameters):
            rule = beside
        if rule is not None and not rule.call.source and not _holds_numbers(info):
            rule = self._of_codes(rule, info)
        elif rule is not None and "authored" in info.roles and not rule.call.is_default:
            rule = self._of_authored(rule, info)
        return None if rule is None else Choice(info, rule.name, rule.path, rule.call)

    def _of_authored(self, rule: Rule, info: ParamInfo) -> Rule | None:
        """The rule for what the model's author set by hand: one that names it, or has the role, sets it; a broad one leaves it, to the
        last rule before it that does not, and to its author; None in a model that exists, where it is left as it is."""
        able = [each for each in self._rules if each.call.is_default or _is_meant_for_authored(each) and _fits(each, info)]
        picking = [each for each in able if each.selector.picks(info)]
        chosen = rule if _is_meant_for_authored(rule) else picking[-1] if picking else _AUTHORED if self._whole else None
        if chosen is None or chosen.call.is_default:
            self.left.setdefault(rule.path, []).append(info)
        elif any(character in glob for glob in chosen.selector.match for character in "*?["):
            self.overwritten.setdefault(chosen.path, []).append(info)
        return chosen

    def _of_codes(self, rule: Rule, info: ParamInfo) -> Rule | None:
        """The rule for integers, such as the codes of a quantised layer, which no scheme can fill: they stay as they are."""
        if info.name in rule.selector.match and not rule.call.is_default:
            kind = str(info.parameter.dtype).removeprefix("torch.")
            self._problems.add(rule.path, f"{info.name} holds {kind}, and {rule.call.name} fills floating-point numbers; leave it out")
        elif not rule.call.is_default or not self._whole:
            self.codes.setdefault(rule.path, []).append(info)
        return _AUTHORED if self._whole else None

    def _choose_blocks(self, info: ParamInfo, whole: bool) -> Choice | None:
        """One choice for all blocks, or one that holds a choice for each; without `whole` those that no rule picks are kept."""
        blocks = info.blocks()
        found = [self._choose(block) for block in blocks]
        chosen = [part for part in found if part is not None]
        if not chosen or (whole and len(chosen) < len(found)):
            return None
        if len(chosen) == len(found) and all(part.path == chosen[0].path for part in chosen):
            return Choice(info, chosen[0].rule, chosen[0].path, chosen[0].call)
        copying = next((part for part in chosen if part.call.source), None)
        if copying is not None:
            self._problems.add(copying.path, f"copy is for whole parameters, and {info.name} packs {', '.join(info.packed)}")
            return None
        if len(chosen) < len(found) and info.computed is not None:
            what = f"{info.computed.name} is computed from other parameters, so that some of its blocks cannot be set and the rest kept"
            self._problems.add(chosen[0].path, f"{what}; add a rule for all of it before this one")
            return None
        parts = [Choice(block, "", "", _KEPT) if part is None else part for block, part in zip(blocks, found, strict=True)]
        return in_blocks(info, parts)

    def _last(self, info: ParamInfo) -> Rule | None:
        if self._by_place:
            return self._search(info)
        kind = (type(info.module), info.roles, info.parameter.ndim)
        if kind not in self._by_kind:
            self._by_kind[kind] = self._search(info)
        return self._by_kind[kind]

    def _search(self, info: ParamInfo) -> Rule | None:
        """The last rule that picks it. One that can fill some of what it picks, but not this (the bias beside a matrix),
        leaves it to the rule before, and a bias that none is left for to the base rule: 0."""
        picking = [rule for rule in self._rules if rule.selector.picks(info)]
        self._used.update(rule.path for rule in picking)
        able = [rule for rule in picking if _fits(rule, info) or rule.path not in self._fitting]
        if picking and not able and "bias" in info.roles:
            return _BIASES
        return able[-1] if able else None

    def _definition(self, info: ParamInfo) -> Rule | None:
        """The rule beside the innermost layer that has one for this parameter."""
        module_name, tail = info.module_name, info.attr
        while True:
            for glob, rule in self.beside.get(module_name, ()):
                if fnmatch.fnmatchcase(tail, glob):
                    self._used.add(rule.path)
                    return rule
            if not module_name:
                return None
            module_name, _, last = module_name.rpartition(".")
            tail = f"{last}.{tail}"

    def _report_unused(self, infos: Sequence[ParamInfo]) -> None:
        for rule in self._rules:
            if rule.path not in self._used and not rule.selector.optional:
                self._problems.add(rule.path, nothing_picked(rule.selector, infos))
        for name, pairs in self.beside.items():
            inside = [info.name.removeprefix(f"{name}.") for info in infos if not name or info.name.startswith(f"{name}.")]
            for glob, rule in pairs:
                if rule.path not in self._used:
                    self._problems.add(
                        rule.path, f"{glob!r} is not a parameter of this layer{did_you_mean(glob, inside) or '; it has none'}"
                    )


def _read_definition(definition: Definition, problems: Problems) -> list[tuple[str, Rule]]:
    pairs = []
    for glob, value in definition.init.items():
        path = join(join(definition.path, "init"), glob)
        call = read_scheme(value, {}, path, problems)
        if call is not None:
            pairs.append((str(glob), Rule(path, path, Selector(match=(str(glob),)), call)))
    return pairs[::-1]


def _uncovered(info: ParamInfo) -> str:
    role = info.roles[0]
    return (
        f"no rule picks {' = '.join(info.names)} ({role}, of {type(info.module).__name__}); "
        f"add one, such as {role}{'es' if role.endswith('s') else 's'}: {{role: {role}, scheme: default}} for what its author wrote"
    )


def uses_auto_gain(choices: Iterable[Choice]) -> bool:
    """Whether any choice asks for the gain of the activation that acts on its layer."""
    return any(part.call.gain == "auto" for choice in choices for part in choice.parts or (choice,))


def in_blocks(info: ParamInfo, parts: Sequence[Choice]) -> Choice:
    """The choice of a packed parameter whose blocks have one each, named by all of them."""
    scheme = _by_blocks(info.packed, [part.call.name for part in parts])
    set_here = [(block, part) for block, part in zip(info.packed, parts, strict=True) if not part.call.kept]
    rule = _by_blocks([block for block, _ in set_here], [part.rule for _, part in set_here])
    return Choice(info, rule, set_here[0][1].path, SchemeCall(scheme, None, _filled_by_parts), tuple(parts))


def _by_blocks(blocks: Sequence[str], names: Sequence[str]) -> str:
    """Which name each block has: "query, key: xavier_uniform; value: zeros"."""
    return "; ".join(
        f"{', '.join(block for block, name in zip(blocks, names, strict=True) if name == each)}: {each}" for each in dict.fromkeys(names)
    )


def _filled_by_parts(tensor: Any) -> None:
    """Stands where a parameter's blocks have schemes of their own."""
    raise TypeError("the blocks of this parameter are filled one by one")


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
