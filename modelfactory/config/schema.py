"""Reads a mapping of a config into a frozen dataclass, and gathers all that is wrong with it."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING
from functools import cache
from typing import Any, TypeVar

from modelfactory.config.errors import Problems, did_you_mean

T = TypeVar("T")

_STAYS = object()
_PLURALS = {int: "whole numbers", float: "numbers", str: "texts"}

_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a mapping",
    list: "a list",
    type(None): "null",
}


def key(
    default: Any = MISSING,
    *,
    min: float | None = None,
    above: float | None = None,
    max: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A field of a spec with its allowed range: `min` and `max` are allowed themselves, `above` is not.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class LoopSpec:
        ...     epochs: int = key(20, min=1)
        >>> problems = Problems()
        >>> read(LoopSpec, {"epochs": 0}, "trainer", problems), [str(p) for p in problems]
        (None, ['trainer.epochs: 0 is too small; give a whole number >= 1'])
    """
    limits = {"min": min, "above": above, "max": max, "choices": choices}
    metadata = {name: limit for name, limit in limits.items() if limit is not None}
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    if default is MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def read(spec_class: type[T], mapping: Any, path: str, problems: Problems) -> T | None:
    """The mapping as a `spec_class`, or None after adding each thing that is wrong to `problems`.

    The annotations of the fields are the accepted types; whole numbers are accepted where a number is, and
    NaN and infinity never are.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class StepSpec:
        ...     lr: float
        >>> problems = Problems()
        >>> read(StepSpec, {"lrr": 0.1}, "optimizer", problems)
        >>> print(*problems, sep="\\n")
        optimizer.lrr: not a key of optimizer; did you mean 'lr'?
        optimizer.lr: missing; give a number
    """
    found = len(problems)
    values = read_values(spec_class, mapping, path, problems)
    return spec_class(**values) if len(problems) == found else None


def read_values(spec_class: type, mapping: Any, path: str, problems: Problems) -> dict[str, Any]:
    """The values of the fields of a `spec_class`, defaults where the mapping has none, without those that are wrong: as `read` does.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class LoopSpec:
        ...     epochs: int = 20
        ...     device: str = "auto"
        >>> read_values(LoopSpec, {"device": 3}, "trainer", Problems())
        {'epochs': 20}
    """
    if not isinstance(mapping, Mapping):
        problems.add(path, f"{mapping!r} is not a mapping; give its keys: {', '.join(_hints(spec_class))}")
        return {}
    fields = {field.name: field for field in dataclasses.fields(spec_class)}  # pyright: ignore[reportArgumentType]
    for name in mapping:
        if name not in fields:
            problems.add(join(path, name), f"not a key of {path or 'the config'}{did_you_mean(str(name), fields)}")
    values = {}
    for name, field in fields.items():
        hint, found = _hints(spec_class)[name], len(problems)
        if name in mapping:
            value = check_value(mapping[name], hint, join(path, name), problems, field.metadata)
            values |= {name: value} if len(problems) == found else {}
        elif field.default is not MISSING:
            values[name] = field.default
        elif field.default_factory is not MISSING:
            values[name] = field.default_factory()
        else:
            problems.add(join(path, name), f"missing; give {describe(hint, field.metadata)}")
    return values


def read_seed(config: Mapping[str, Any], problems: Problems) -> int:
    """The `seed` of a config: 0 where there is none.

    Example:
        >>> read_seed({"seed": 3}, Problems())
        3
    """
    seed = check_value(config.get("seed", 0), int, "seed", problems, {"min": 0})
    if isinstance(seed, int) and seed >= 2**63:
        problems.add("seed", f"{seed} is too large; give a whole number below 2^63")
    return seed


def join(path: str, name: object) -> str:
    """The config path of `name` under `path`.

    Example:
        >>> join("model.layers", "fc1"), join("", "seed")
        ('model.layers.fc1', 'seed')
    """
    return f"{path}.{name}" if path else str(name)


def paths_of(name: str, config: Mapping[Any, Any], most: int = 3) -> list[str]:
    """Where in a config, however deep, keys of this name are: the `most` that are the least deep.

    Example:
        >>> paths_of("lr", {"seed": 0, "optimizer": {"lr": 0.1, "groups": {"body": {"lr": 0.01}}}})
        ['optimizer.lr', 'optimizer.groups.body.lr']
    """
    found, level = [], [("", config)]
    while level and len(found) < most:
        found += [join(path, name) for path, node in level if name in node]
        below = ((join(path, key), item) for path, node in level for key, item in node.items())
        level = [(path, item) for path, item in below if isinstance(item, Mapping)]
    return found[:most]


def check_value(
    value: Any, hint: Any, path: str, problems: Problems, limits: Mapping[str, Any] = types.MappingProxyType({})
) -> Any:
    """`value` in the type that `hint` asks for; what is wrong goes to `problems`, with the value as it was written.

    Example:
        >>> problems = Problems()
        >>> check_value("1e-3", float, "optimizer.lr", problems)
        '1e-3'
        >>> print(*problems)
        optimizer.lr: '1e-3' is a text; give a number (YAML reads 1e-3 as text: write 0.001)
    """
    accepted, converted = _convert(value, hint)
    switched_off = _off(value, hint, limits)
    if switched_off is not _STAYS:
        return switched_off
    if not accepted:
        shown = list(value) if isinstance(value, tuple) else value
        problems.add(path, f"{_short(shown)} {_what_it_is(shown, hint)}; give {describe(hint, limits)}{_text_number(value, hint)}")
    elif isinstance(converted, (int, float)) and not isinstance(converted, bool) and (wrong := _outside(converted, limits)):
        problems.add(path, f"{value!r} {wrong}; give {describe(hint, limits)}")
    elif "choices" in limits and converted is not None and converted not in limits["choices"]:
        problems.add(path, f"{value!r} is not a choice{did_you_mean(str(value), limits['choices'])}")
    return converted


def _off(value: Any, hint: Any, limits: Mapping[str, Any]) -> Any:
    """What switches off here, where false, null, off or none is given in its place: the choice `none`, or else null."""
    choices = limits.get("choices")
    if choices is not None and "none" in choices:
        return "none" if value is None or value is False or value == "off" else _STAYS
    nullable = type(None) in _options(hint) and not {bool, Any}.intersection(_options(hint))
    named = isinstance(value, str) and value in ("none", "off") and (choices is not None or str not in _options(hint))
    return None if nullable and (value is False or named) else _STAYS


def describe(hint: Any, limits: Mapping[str, Any] = types.MappingProxyType({})) -> str:
    """What a value must be, in words.

    Example:
        >>> describe(int | None, {"min": 1})
        'a whole number >= 1, or null'
    """
    signs = {"min": ">=", "above": ">", "max": "<="}
    bounds = " and ".join(f"{signs[name]} {limit:g}" for name, limit in limits.items() if name in signs)
    words = []
    for option in _options(hint):
        if typing.get_origin(option) is typing.Literal or option is str and "choices" in limits:
            words.append("one of " + ", ".join(map(str, limits.get("choices", typing.get_args(option)))))
        elif option in (int, float, str) and bounds:
            words.append(f"{_NAMES[option]} {bounds}")
        else:
            words.append(_type_name(option))
    return ", or ".join(dict.fromkeys(words))


def _type_name(option: Any) -> str:
    origin, args = typing.get_origin(option), typing.get_args(option)
    if origin in (tuple, list):
        return f"a list of {_PLURALS.get(args[0] if args else None, 'values')}"
    if origin in (dict, Mapping):
        return "a mapping"
    return _NAMES.get(option, getattr(option, "__name__", str(option)))


def _options(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _convert(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether `value` is of one of the types of `hint`, and the value in that type."""
    for option in _options(hint):
        accepted, converted = _convert_one(value, option)
        if accepted:
            return True, converted
    return False, value


def _convert_one(value: Any, option: Any) -> tuple[bool, Any]:
    origin, args = typing.get_origin(option), typing.get_args(option)
    if option is Any:
        return True, value
    if origin is typing.Literal:
        return value in args and type(value) in {type(arg) for arg in args}, value
    if origin in (tuple, list):
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            return False, value
        results = [_convert(item, args[0]) for item in value]
        return all(ok for ok, _ in results), origin(item for _, item in results)
    if origin is not None:
        return isinstance(value, origin), value
    if option is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False, value
        return _is_finite(value), float(value) if _is_finite(value) else value
    if option is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if option is dict:
        return isinstance(value, Mapping), value
    return isinstance(value, option), value


def _short(value: Any, most: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= most else text[:most] + "..."


def _outside(value: float, limits: Mapping[str, Any]) -> str:
    if "min" in limits and value < limits["min"] or "above" in limits and value <= limits["above"]:
        return "is too small"
    return "is too large" if "max" in limits and value > limits["max"] else ""


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _what_it_is(value: Any, hint: Any) -> str:
    if isinstance(value, (int, float)) and not _is_finite(value):
        return "is not finite"
    lists = [option for option in _options(hint) if typing.get_origin(option) in (tuple, list)]
    if isinstance(value, list) and lists:
        item = next((item for item in value if not _convert(item, typing.get_args(lists[0])[0])[0]), None)
        return f"holds {item!r}"
    return f"is {_NAMES.get(type(value), 'a ' + type(value).__name__)}"


def _text_number(value: Any, hint: Any) -> str:
    if not isinstance(value, str) or not {int, float} & set(_options(hint)):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    if not math.isfinite(number):
        return ""
    quoted = value.strip("+-").replace(".", "", 1).isdigit()  # which YAML itself would not take for a text
    return f" (leave the quotes out: {value})" if quoted else f" (YAML reads {value} as text: write {number:g})"


@cache
def _hints(spec_class: type) -> dict[str, Any]:
    return typing.get_type_hints(spec_class)
