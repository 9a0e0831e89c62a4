"""Init rules: which scheme fills which parameter.

Rules have names and an order; a later one wins over an earlier one. A rule beside a layer ("at definition") wins over
the rules of the `init` group that pick by role or module alone, and yields to one that names its parameter by `match`.
Every parameter must be picked by a rule, and every rule must pick a parameter unless it is optional. A rule whose scheme
is for matrices may pick a layer whole: its bias goes to the rule before, or is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any

from modelfactory.config.errors import Problems, SchemeError, did_you_mean, nearest
from modelfactory.config.schema import check_value, join
from modelfactory.config.target import check_arguments, resolve
from modelfactory.init.calibrate import CalibrateSpec, read_calibrate
from modelfactory.init.recipes import recipe, recipe_names
from modelfactory.init.schemes.table import REQUIRED, SCHEMES, Scheme, arguments, check_scheme_arguments
from modelfactory.numerics.activation import gain as computed_gain
from modelfactory.parameters.selector import SELECTOR_KEYS, Selector

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
        automatic: `auto`, which the model is still to be asked about.
        pretrained: nothing is drawn; `name` is the file and the tensor in it that the values come from.
        source: of `copy`, the module or the parameter whose values it takes over.
        kept: nothing is drawn: no rule picks this block of a packed parameter, whose numbers stay as they are.
    """

    name: str
    scheme: Scheme | None = None
    function: Callable[..., Any] | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    gain: float | str | None = None
    pretrained: bool = False
    automatic: bool = False
    kept: bool = False
    source: str = ""

    @property
    def is_default(self) -> bool:
        elsewhere = self.pretrained or self.automatic or self.kept or self.source
        return self.scheme is None and self.function is None and not elsewhere


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
    """The `init` group: its rules in order, whether fans are the operator's or torch's own, and the calibration after them."""

    rules: tuple[Rule, ...]
    fans: str = "effective"
    calibrate: CalibrateSpec | None = None


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
        value = _named(value, path, problems)
    if not isinstance(value, Mapping):
        problems.add(path, f"{value!r} is not an init; give rules, or the name of a scheme")
        return None
    for name in value:
        if name not in _GROUP_KEYS:
            problems.add(join(path, name), f"not a key of init{did_you_mean(str(name), _GROUP_KEYS)}")
    calibrate = read_calibrate(value.get("calibrate"), join(path, "calibrate"), problems)
    fans = check_value(value.get("fans", "effective"), str, join(path, "fans"), problems, {"choices": ("effective", "torch")})
    rules = read_rules(value.get("rules"), join(path, "rules"), problems)
    return InitSpec(rules, fans, calibrate) if len(problems) == found else None


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
    if value == "auto":
        for name in given:
            problems.add(join(path, name), "not an argument of auto, which takes none")
        return SchemeCall("auto", automatic=True)
    if value == "copy":
        return _copying(given, path, problems)
    if not isinstance(value, str) or value not in SCHEMES:
        word = value.removeprefix("torch.nn.init.").rstrip("_") if isinstance(value, str) else ""
        problems.add(where, f"{value!r} is not a scheme{did_you_mean(word, ('auto', 'copy', 'default', *SCHEMES), limit=40)}")
        return None
    scheme, args, found = SCHEMES[value], dict(given), len(problems)
    gain = args.pop("gain", None) if scheme.uses_gain else None
    if isinstance(gain, str) and gain != "auto":
        gain = _gain_of(gain, join(path, "gain"), problems)
    elif gain is not None and gain != "auto":
        gain = check_value(gain, float, join(path, "gain"), problems, {"above": 0})
    check_scheme_arguments(value, args, path, problems)
    args |= dict.fromkeys(_left_to_the_model(scheme, args), "auto")
    return SchemeCall(value, scheme, None, args, gain) if len(problems) == found else None


def _copying(given: Mapping[str, Any], path: str, problems: Problems) -> SchemeCall | None:
    """`scheme: copy`, which takes `of` and nothing else."""
    found = len(problems)
    for name in given:
        if name != "of":
            problems.add(join(path, name), "not an argument of copy, which takes `of`")
    source = given.get("of")
    if not isinstance(source, str) or not source:
        what = "missing" if source is None else f"{source!r} is not a name"
        problems.add(join(path, "of"), f"{what}; give the module, or the parameter, whose values it takes over")
    return SchemeCall("copy", args={"of": source}, source=str(source)) if len(problems) == found else None


def _left_to_the_model(scheme: Scheme, given: Mapping[str, Any]) -> list[str]:
    """The arguments that the structure of the model says; where a rule says the depth itself, the rest keeps its defaults."""
    needed = [name for name in scheme.structural if arguments(scheme.name)[name] is REQUIRED]
    left = needed if any(name in given for name in needed) else scheme.structural
    return [name for name in left if name not in given and not (name == "priors" and "p" in given)]


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
    first = _tensor_of(function)
    args = {**given, **inside}
    if first is None:
        problems.add(path, f"{target} takes no tensor to fill: its first parameter has to be that, by position")
        return None
    for name in {first, "generator"}.intersection(args):
        problems.add(join(path, name), f"given by the factory, and not by a rule; {target} is called with what it is to fill")
        return None
    checked = check_arguments(function, args, path, problems, inferred=(first, "generator"))
    return None if checked is None else SchemeCall(str(target), None, function, checked)


def _tensor_of(function: Callable[..., Any]) -> str | None:
    """The name that a function gives to what it is to fill: its first parameter by position; None where it has none."""
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
    return next((name for name, each in signature(function).parameters.items() if each.kind in kinds), None)


def _named(name: str | None, path: str, problems: Problems) -> dict[str, Any]:
    """The group that `init=NAME` stands for."""
    found = recipe("default" if name is None else name)
    if found is None:
        problems.add(path, f"{name!r} is not a scheme{did_you_mean(str(name), recipe_names(), limit=40)}")
        return recipe("default") or {}
    return found
