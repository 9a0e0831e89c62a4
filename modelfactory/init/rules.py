"""Init rules: which scheme fills which parameter.

Rules have names and an order; a later one wins over an earlier one. A rule beside a layer ("at definition") wins over
the rules of the `init` group that pick by role or module alone, and yields to one that names its parameter by `match`.
Every parameter must be picked by a rule, and every rule must pick a parameter unless it is optional. A rule whose scheme
is for matrices may pick a layer whole: its bias goes to the rule before, or is 0.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from modelfactory.activation import gain as computed_gain
from modelfactory.definition import Definition
from modelfactory.errors import Problems, SchemeError, did_you_mean, nearest
from modelfactory.init.kept import PRETRAINED, report_kept
from modelfactory.init.schemes import SCHEMES, Scheme, arguments, check_scheme_arguments
from modelfactory.select import SELECTOR_KEYS, ParamInfo, Selector, nothing_picked
from modelfactory.spec import check_value, join
from modelfactory.target import check_arguments, resolve

# What init=NAME gives a scheme beyond its own defaults; conf/init says the same.
_NAMED_ARGUMENTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("xavier_uniform", "xavier_normal", "orthogonal", "delta_orthogonal"), {"gain": "auto"}),
    **dict.fromkeys(("kaiming_uniform", "kaiming_normal"), {"mode": "fan_in", "nonlinearity": "relu"}),
    "normal": {"mean": 0.0, "std": 0.02},
    "trunc_normal": {"mean": 0.0, "std": 0.02, "a": -0.04, "b": 0.04},
    "uniform": {"a": 0.0, "b": 1.0},
    "constant": {"val": 0.01},
    "sparse": {"sparsity": 0.1, "std": 0.01},
    "variance_scaling": {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"},
    "critical": {"activation": "tanh", "q": 1.0},
}
_GROUP_KEYS = ("rules", "calibrate", "fans")
_RULE_KEYS = (*SELECTOR_KEYS, "scheme", "reinit")


@dataclass(frozen=True)
class SchemeCall:
    """A scheme with its arguments.

    Attributes:
        name: its name in the catalogue, `default`, or the dotted name of a function of the user's own.
        scheme: the row of the catalogue; None for `default` and for a function of one's own.
        function: a function of one's own, called as function(tensor, generator=..., **args) when it takes a generator.
        args: keyword arguments, without the gain.
        gain: a number, "auto", or None when the scheme has none or it is left at the scheme's own.
        pretrained: nothing is drawn; `name` is the file and the tensor in it that the values come from.
    """

    name: str
    scheme: Scheme | None = None
    function: Callable[..., Any] | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    gain: float | str | None = None
    pretrained: bool = False

    @property
    def is_default(self) -> bool:
        return self.scheme is None and self.function is None and not self.pretrained


@dataclass(frozen=True)
class Rule:
    """One named rule; `path` is where the config says it."""

    name: str
    path: str
    selector: Selector
    call: SchemeCall
    reinit: bool = False


@dataclass(frozen=True)
class InitSpec:
    """The `init` group: its rules in order, and whether fans are the operator's or torch's own."""

    rules: tuple[Rule, ...]
    fans: str = "effective"


@dataclass(frozen=True)
class Choice:
    """Which rule set a parameter: its name in the ledger, its config path, and its scheme."""

    info: ParamInfo
    rule: str
    path: str
    call: SchemeCall


def read_init(value: Any, path: str, problems: Problems) -> InitSpec | None:
    """The `init` group, or None after adding all that is wrong to `problems`.

    Args:
        value: a mapping with `rules`; the name of a scheme (weights by it, biases 0, the rest its author's); None,
            which leaves every parameter its author's init.

    Example:
        >>> problems = Problems()
        >>> spec = read_init({"rules": {"all": {"match": "*", "scheme": "normal", "std": 0.1}}}, "init", problems)
        >>> spec.rules[0].call.args
        {'std': 0.1}
        >>> read_init("kaiming_normall", "init", problems)
        >>> print(*problems)
        init: 'kaiming_normall' is not a scheme; did you mean 'kaiming_normal'?
    """
    found = len(problems)
    if value is None or isinstance(value, str):
        value = {"rules": _named(value, path, problems)}
    if not isinstance(value, Mapping):
        problems.add(path, f"{value!r} is not an init; give rules, or the name of a scheme")
        return None
    for name in value:
        if name not in _GROUP_KEYS:
            problems.add(join(path, name), f"not a key of init{did_you_mean(str(name), _GROUP_KEYS)}")
    if value.get("calibrate") is not None:
        problems.add(join(path, "calibrate"), f"{value['calibrate']!r} is not a calibration; only null is")
    fans = check_value(value.get("fans", "effective"), str, join(path, "fans"), problems, {"choices": ("effective", "torch")})
    rules = read_rules(value.get("rules"), join(path, "rules"), problems)
    return InitSpec(rules, fans) if len(problems) == found else None


def read_rules(rules: Any, path: str, problems: Problems) -> tuple[Rule, ...]:
    """Named rules, in order.

    Example:
        >>> problems = Problems()
        >>> read_rules({"a": {"role": "wieght", "scheme": "zeros"}}, "init.rules", problems)
        ()
        >>> print(*problems)
        init.rules.a.role: 'wieght' is not a role; did you mean 'weight'?
    """
    if not isinstance(rules, Mapping) or not rules:
        problems.add(
            path,
            f"{'is empty' if rules is None or rules == {} else repr(rules) + ' is not a mapping'}; give name: {{match: ..., scheme: ...}}",
        )
        return ()
    read = (_read_rule(str(name), rule, join(path, name), problems) for name, rule in rules.items() if rule is not None)
    return tuple(rule for rule in read if rule is not None)


def _read_rule(name: str, rule: Any, path: str, problems: Problems) -> Rule | None:
    if not isinstance(rule, Mapping):
        problems.add(path, f"{rule!r} is not a rule; give a mapping of match, module or role, and scheme")
        return None
    selector = Selector.read(rule, path, problems)
    reinit = check_value(rule.get("reinit", False), bool, join(path, "reinit"), problems)
    given = {key: value for key, value in rule.items() if key not in _RULE_KEYS}
    for key in [key for key in given if _is_misspelt(key, rule)]:
        problems.add(join(path, key), f"not a key of a rule{did_you_mean(str(key), _RULE_KEYS)}")
        del given[key]
    if "scheme" not in rule:
        problems.add(join(path, "scheme"), f"missing; give default, or one of {', '.join(sorted(SCHEMES))}")
        return None
    call = read_scheme(rule["scheme"], given, path, problems)
    return None if selector is None or call is None else Rule(name, path, selector, call, reinit)


def _is_misspelt(key: Any, rule: Mapping[str, Any]) -> bool:
    """Whether a key is nearly one of a rule's own that the rule has not, and no argument of any scheme."""
    close = nearest(str(key), _RULE_KEYS)
    return close is not None and close not in rule and not any(key in arguments(scheme) for scheme in SCHEMES)


def read_scheme(value: Any, given: Mapping[str, Any], path: str, problems: Problems) -> SchemeCall | None:
    """A scheme by name with the arguments beside it, or as `{_target_: my_pkg.my_scheme_, ...}`.

    Example:
        >>> read_scheme("normal", {"std": 0.5}, "init.rules.a", Problems()).args
        {'std': 0.5}
    """
    if isinstance(value, Mapping):
        if "_target_" in value:
            return _own_scheme(value["_target_"], {k: v for k, v in value.items() if k != "_target_"}, given, path, problems)
        return read_scheme(value.get("scheme"), {**given, **{k: v for k, v in value.items() if k != "scheme"}}, path, problems)
    if isinstance(value, str) and "." in value and not value.startswith("torch.nn.init."):
        return _own_scheme(value, {}, given, path, problems)
    where = join(path, "scheme") if path.startswith("init.rules") or ".rules." in path else path
    if value == "default":
        for name in given:
            problems.add(join(path, name), "not an argument of default, which takes none")
        return SchemeCall("default")
    if not isinstance(value, str) or value not in SCHEMES:
        word = value.removeprefix("torch.nn.init.").rstrip("_") if isinstance(value, str) else ""
        problems.add(where, f"{value!r} is not a scheme{did_you_mean(word, ('default', *SCHEMES), limit=40)}")
        return None
    scheme, args, found = SCHEMES[value], dict(given), len(problems)
    gain = args.pop("gain", None) if scheme.uses_gain else None
    if isinstance(gain, str) and gain != "auto":
        gain = _gain_of(gain, join(path, "gain"), problems)
    elif gain is not None and gain != "auto":
        gain = check_value(gain, float, join(path, "gain"), problems, {"above": 0})
    check_scheme_arguments(value, args, path, problems)
    return SchemeCall(value, scheme, None, args, gain) if len(problems) == found else None


def _gain_of(activation: str, path: str, problems: Problems) -> float | None:
    """The gain of an activation named in a config: by torch.nn.functional's name, or as `my_pkg.MyActivation`."""
    found = resolve(activation, path, problems, "activation") if "." in activation else activation
    try:
        return None if found is None else computed_gain(found)
    except SchemeError as error:
        problems.add(path, f"{error}; or give a number > 0, or auto")
        return None


def _own_scheme(
    target: Any, inside: Mapping[str, Any], given: Mapping[str, Any], path: str, problems: Problems
) -> SchemeCall | None:
    function = resolve(target, join(path, "scheme._target_" if inside else "scheme"), problems, "scheme")
    if function is None:
        return None
    checked = check_arguments(function, {**given, **inside}, path, problems, inferred=("tensor", "generator"))
    return None if checked is None else SchemeCall(str(target), None, function, checked)


def _named(name: str | None, path: str, problems: Problems) -> dict[str, Any]:
    """The rules that `init=NAME` stands for."""
    author = {"author": {"match": "*", "scheme": "default", "optional": True}}
    if name is None or name == "default":
        return author
    if name not in SCHEMES:
        problems.add(path, f"{name!r} is not a scheme{did_you_mean(name, ('default', *SCHEMES), limit=40)}")
        return author
    return {
        **author,
        "biases": {"role": "bias", "scheme": "zeros", "optional": True},
        "weights": {"role": "weight", "scheme": name, **_NAMED_ARGUMENTS.get(name, {})},
    }


_BIASES = Rule("biases", "init.rules.biases", Selector(role=("bias",)), SchemeCall("zeros", SCHEMES["zeros"]))


def _fits(rule: Rule, info: ParamInfo) -> bool:
    return rule.call.scheme is None or rule.call.scheme.min_dims <= info.parameter.ndim


class Chooser:
    """Finds the rule that sets each parameter, and every rule that picks nothing."""

    def __init__(self, rules: Sequence[Rule], definitions: Mapping[str, Definition], problems: Problems):
        self._rules = rules
        self._problems = problems
        self._beside = {
            name: _read_definition(definition, problems) for name, definition in definitions.items() if definition.init
        }
        self._used: set[str] = set()
        self._fitting: set[str] = set()
        self._by_kind: dict[tuple[Any, ...], Rule | None] = {}
        self._named = any(rule.selector.names_parameters for rule in rules)

    def choose(
        self, infos: Sequence[ParamInfo], whole: bool = True, pretrained: Mapping[str, str] = MappingProxyType({})
    ) -> list[Choice]:
        """A choice for each parameter; with `whole`, one that no rule picks is a problem.

        Args:
            pretrained: parameter -> the file and tensor that its values come from. Rules leave it alone, unless one that
                picks it says `reinit`: then it is like any other.
        """
        choices = []
        kept: dict[str, ParamInfo] = {}  # what is pretrained and stays so
        self._fitting = {
            rule.path for rule in self._rules if any(_fits(rule, info) and rule.selector.picks(info) for info in infos)
        }
        for info in infos:
            if info.name in pretrained and not any(rule.reinit and rule.selector.picks(info) for rule in self._rules):
                kept[info.name] = info
                choices.append(Choice(info, PRETRAINED, PRETRAINED, SchemeCall(pretrained[info.name], pretrained=True)))
                continue
            rule = self._last(info)
            beside = self._definition(info) if self._beside else None
            if beside is not None and not (rule is not None and rule.selector.names_parameters):
                rule = beside
            if rule is not None:
                choices.append(Choice(info, rule.name, rule.path, rule.call))
            elif whole:
                self._problems.add("init.rules", _uncovered(info))
        beside = [rule for info in kept.values() if self._beside and (rule := self._definition(info)) is not None]
        self._used.update(report_kept(self._rules, beside, infos, kept, self._problems))
        self._report_unused(infos)
        return choices

    def _last(self, info: ParamInfo) -> Rule | None:
        if self._named:
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
            for glob, rule in self._beside.get(module_name, ()):
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
        for name, pairs in self._beside.items():
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
    return any(choice.call.gain == "auto" for choice in choices)
