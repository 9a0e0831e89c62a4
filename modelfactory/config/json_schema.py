"""JSON schemas of values as the reader of configs takes them: by the annotation of a field or an argument, and its limits."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

Schema = dict[str, Any]
INTERPOLATION: Schema = {"type": "string", "pattern": r"\$\{|^[?]{3}$"}
DEFAULTS: Schema = {"type": "array", "description": "configs that this one begins with"}
_NUMBERS = {"min": "minimum", "above": "exclusiveMinimum", "max": "maximum"}
_PLAIN = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null", dict: "object", list: "array"}


def ref(name: str) -> Schema:
    """Refer to a definition of the same schema."""
    return {"$ref": f"#/$defs/{name}"}


def nullable(schema: Schema) -> Schema:
    """What a schema takes, or a word that stands for nothing."""
    return {"anyOf": [schema, {"type": ["null", "string", "boolean"]}]}


def one_of(*schemas: Schema) -> Schema:
    """What one of these schemas takes, or an interpolation.

    Example:
        >>> one_of({"type": "null"})
        {'anyOf': [{'type': 'null'}, {'$ref': '#/$defs/interpolation'}]}
    """
    return {"anyOf": [*schemas, ref("interpolation")]}


def mapping_of(properties: Mapping[str, Schema], more: Any = False) -> Schema:
    """A mapping with these keys, and `more`: what other keys may have."""
    return {"type": "object", "properties": dict(properties), "additionalProperties": more}


def of_hint(hint: Any, limits: Mapping[str, Any] = types.MappingProxyType({})) -> Schema:
    """The values that `modelfactory.config.schema.check_value` takes.

    Example:
        >>> of_hint(int, {"min": 1})["anyOf"][0]
        {'type': 'integer', 'minimum': 1}
    """
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    found = [of_option(option, limits) for option in options]
    if {} in found or hint is None:
        return {}
    choices = limits.get("choices", ())
    nullable = type(None) in options and bool not in options
    if "none" in choices or nullable:  # what switches off
        words = ["none", "off"] if "none" in choices or choices or str not in options else []
        found.append({"enum": [None, False, *words]})
    return one_of(*found)


def of_option(option: Any, limits: Mapping[str, Any]) -> Schema:
    """The values of one alternative of an annotation."""
    origin, args = typing.get_origin(option), typing.get_args(option)
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin in (tuple, list):
        return {"type": "array", "items": of_hint(args[0], limits) if args else {}}
    if option is str and "choices" in limits:
        return {"enum": list(limits["choices"])}
    bounds = {_NUMBERS[name]: limit for name, limit in limits.items() if name in _NUMBERS} if option in (int, float) else {}
    kind = _PLAIN.get(option if origin is None else origin)
    return {} if kind is None else {"type": kind, **bounds}


def of_spec(spec: type, more: Any = False) -> Schema:
    """A mapping with the keys of a dataclass that reads a group."""
    return mapping_of({"defaults": DEFAULTS, **fields_of(spec)}, more)


def fields_of(spec: type) -> dict[str, Schema]:
    """The values of the fields of a dataclass, by name.

    Example:
        >>> from modelfactory.sweeping.spec import SweepSpec
        >>> fields_of(SweepSpec)["on_error"]["anyOf"][0]
        {'enum': ['continue', 'stop']}
    """
    hints = typing.get_type_hints(spec)
    return {field.name: of_hint(hints[field.name], field.metadata) for field in fields(spec)}
