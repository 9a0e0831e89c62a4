"""The selector language: one way to pick parameters for init rules, freezing, optimizer groups and re-initialisation.

A selector is a mapping with any of `match` (a glob, or a list of globs, over the whole parameter name), `module` (the
name of a class, or a list; subclasses included), `role`, and `before` and `after` (the name of a layer, whole or its
end, in the order in which the model registers its modules); all that are given must hold:

    {match: "backbone.layer4.*", module: [Conv2d, Linear], role: weight}
    {match: "backbone.*", before: layer4}
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from torch import nn

from modelfactory.config.errors import Problems, did_you_mean, nearest
from modelfactory.config.schema import check_value, join
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.residual import NORMS, Outline
from modelfactory.parameters.roles import MISSING, ROLES

SELECTOR_KEYS = ("match", "module", "role", "before", "after", "optional")

@dataclass(frozen=True)
class Selector:
    """Picks parameters; every criterion that is given must hold.

    Attributes:
        match: globs over the whole name, one of which must match; empty picks any.
        module: class names, one of which the owner or a base of it must have; empty picks any.
        role: roles, one of which the parameter must have; empty picks any.
        before, after: a layer; picks the parameters registered before its first, or after its last.
        optional: whether it may pick nothing.

    Example:
        >>> from modelfactory.parameters.roles import describe
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Conv1d(3, 3, 1))
        >>> [info.name for info in Selector(module=("Linear",), role=("weight",)).select(describe(model))]
        ['0.weight']
        >>> [info.name for info in Selector(before="1").select(describe(model))]
        ['0.weight', '0.bias']
    """

    match: tuple[str, ...] = ()
    module: tuple[str, ...] = ()
    role: tuple[str, ...] = ()
    before: str = ""
    after: str = ""
    optional: bool = field(default=False, compare=False)

    @classmethod
    def read(cls, mapping: Mapping[str, Any], path: str, problems: Problems) -> Selector | None:
        """The selector among the keys of `mapping` (other keys are the caller's), or None after saying what is wrong."""
        found = len(problems)
        given = {key: _words(mapping.get(key), join(path, key), problems) for key in ("match", "module", "role")}
        for word in given["role"]:
            if word not in ROLES:
                problems.add(join(path, "role"), f"{word!r} is not a role{did_you_mean(word, ROLES, limit=20)}")
        optional = check_value(mapping.get("optional", False), bool, join(path, "optional"), problems)
        layers = {key: check_value(mapping.get(key) or "", str, join(path, key), problems) for key in ("before", "after")}
        if not any(given.values()) and not any(layers.values()) and len(problems) == found:
            problems.add(path, "picks nothing: give match, module or role, or a layer as before or after")
        return cls(**given, **layers, optional=optional) if len(problems) == found else None

    @property
    def looks_at_places(self) -> bool:
        """Whether what it picks depends on names or places, so that parameters of one kind can differ."""
        return self.names_parameters or bool(self.before or self.after)

    @property
    def names_parameters(self) -> bool:
        """Whether it picks by name, and not merely everything or by kind."""
        return any(glob.strip("*") for glob in self.match)

    def picks(self, info: ParamInfo) -> bool:
        """Whether it picks this parameter."""
        if self.role and not set(self.role).intersection(info.roles):
            return False
        if self.module and not _class_names(type(info.module)).intersection(self.module):
            return False
        if self.before or self.after:
            bounds = [info.outline.find(layer) for layer in (self.before, self.after) if layer]
            if any(len(found) != 1 for found in bounds):
                return False
            first, last = info.outline.spans[bounds[0][0]][0], info.outline.spans[bounds[-1][0]][1]
            if self.before and info.index >= first or self.after and info.index < last:
                return False
        return not self.match or any(pattern(name) for name in info.known_as for pattern in self._patterns)

    def picks_state(self, name: str, module: nn.Module, outline: Outline) -> bool:
        """Whether it picks the buffers of a module that has no parameters, by their names, the module's class and its place."""
        if self.role and not ("norm" in self.role and isinstance(module, NORMS)):
            return False
        if self.module and not _class_names(type(module)).intersection(self.module):
            return False
        if not outline.is_between(name, self.before, self.after):
            return False
        names = [join(name, own) for own, buffer in module._buffers.items() if buffer is not None]
        return any(not self.match or any(pattern(own) for pattern in self._patterns) for own in names)

    def select(self, infos: Iterable[ParamInfo]) -> list[ParamInfo]:
        """Those of `infos` that it picks, in their order."""
        return [info for info in infos if self.picks(info)]

    @cached_property
    def _patterns(self) -> list[Any]:
        return [re.compile(fnmatch.translate(glob)).match for glob in self.match]

    def __str__(self) -> str:
        parts = [f"{key}: {', '.join(words)}" for key in ("match", "module", "role") if (words := getattr(self, key))]
        parts += [f"{key}: {layer}" for key in ("before", "after") if (layer := getattr(self, key))]
        return "{" + ", ".join(parts) + "}"


def read_selector(value: Any, path: str, problems: Problems) -> Selector | None:
    """A selector given as a mapping of `match`, `module`, `role` and `optional` alone, or as a glob.

    Example:
        >>> print(read_selector("backbone.*", "freeze", Problems()))
        {match: backbone.*}
    """
    if isinstance(value, str):
        value = {"match": value}
    if not isinstance(value, Mapping):
        problems.add(path, f"{value!r} is not a selector; give a glob or a mapping of match, module, role")
        return None
    for name in set(value) - set(SELECTOR_KEYS):
        problems.add(join(path, name), f"not a key of a selector{did_you_mean(str(name), SELECTOR_KEYS)}")
    return Selector.read(value, path, problems)


def nothing_picked(selector: Selector, infos: Sequence[ParamInfo]) -> str:
    """What to say of a selector that picks none of `infos`, with the nearest that there is.

    Example:
        >>> from modelfactory.parameters.roles import describe
        >>> from torch import nn
        >>> infos = describe(nn.Sequential(nn.Linear(2, 3)))
        >>> nothing_picked(Selector(match=("0.weigth",)), infos)
        "{match: 0.weigth} picks no parameter; did you mean '0.weight'? (optional: true allows it)"
    """
    hint = _no_layer(selector, infos) if selector.before or selector.after else ""
    if not hint and selector.match and not Selector(match=selector.match).select(infos):
        names = [name for info in infos for name in info.names]
        close = nearest(selector.match[0], names)
        hint = f"; did you mean {close!r}?" if close else f"; the parameters are {some_names(names)}"
    elif not hint and selector.module and not Selector(module=selector.module).select(infos):
        hint = did_you_mean(selector.module[0], sorted({type(info.module).__name__ for info in infos}))
    elif not hint and selector.role:
        here = ", ".join(role for role in ROLES if any(role in info.roles for info in infos)) or "none"
        lacking = next((MISSING[role] for role in selector.role if role in MISSING), None)
        hint = f"; the roles here are {here}" + (f": {lacking}" if lacking is not None else "")
    return f"{selector} picks no parameter{hint} (optional: true allows it)"


def _no_layer(selector: Selector, infos: Sequence[ParamInfo]) -> str:
    """What is wrong with the layers that a selector names."""
    for layer in (selector.before, selector.after):
        found = infos[0].outline.find(layer) if infos and layer else []
        if layer and infos and not found:
            layers = [name for name in infos[0].outline.spans if name]
            ends = {name.rpartition(".")[2]: name for name in reversed(layers)}
            return f"; there is no layer {layer!r}{did_you_mean(layer, [*layers, *(end for end in ends if end not in layers)])}"
        if len(found) > 1:
            return f"; several layers are named {layer!r}: {some_names(found)}; give the whole name of one"
    return ""


def some_names(names: Sequence[str], limit: int = 8) -> str:
    """The first of many names, in a row.

    Example:
        >>> some_names(["a", "b", "c"], 2)
        'a, b, ...'
    """
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def _words(value: Any, path: str, problems: Problems) -> tuple[str, ...]:
    if value is None:
        return ()
    words = value if isinstance(value, (list, tuple)) else [value]
    if not words or not all(isinstance(word, str) and word for word in words):
        problems.add(path, f"{value!r} is not a text; give one, or a list of them")
        return ()
    return tuple(words)


@cache
def _class_names(owner: type) -> frozenset[str]:
    return frozenset(name for base in owner.__mro__ for name in (base.__name__, f"{base.__module__}.{base.__qualname__}"))
