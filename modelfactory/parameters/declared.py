"""What a class, or a config beside a layer, declares of the parameters inside: roles, packed blocks, the axes of fans, and what is tied.

Each but the last is an attribute of the class or of the module: `modelfactory_roles`, `modelfactory_blocks` and `modelfactory_fans`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from modelfactory.config.errors import Problems
from modelfactory.config.schema import join

ROLES_OF, BLOCKS, FANS = "modelfactory_roles", "modelfactory_blocks", "modelfactory_fans"
"""The attributes by which a class or a module declares."""


def globs_of(roles: Mapping[str, Any], role: str) -> tuple[str, ...]:
    """The globs that a declaration has for a role, one or a list."""
    given = roles.get(role, ())
    return (given,) if isinstance(given, str) else tuple(given)


def is_called(names: Sequence[str], prefix: str, glob: str) -> bool:
    """Whether a glob inside of module `prefix` is of a parameter of one of these names, or of a module that it is in."""
    full = join(prefix, glob)
    return any(fnmatch.fnmatchcase(name, full) or fnmatch.fnmatchcase(name, f"{full}.*") for name in names)


def declared_axes(declared: Mapping[str, Any], item: Any, prefix: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The axes of a parameter that are declared to be summed over and to come out; None where nothing is declared of it.

    `{in: [1], out: [0]}` is of every matrix of the layer itself, `{kernel: {in: [0], out: [1]}}` of those that a glob picks.
    """
    if "in" in declared or "out" in declared:
        own = item.module_name == prefix and item.parameter.ndim >= 2
        chosen = declared if own else None
    else:
        chosen = next((axes for glob, axes in declared.items() if is_called(item.names, prefix, glob)), None)
    if chosen is None:
        return None
    ndim = item.parameter.ndim
    return tuple(axis % ndim for axis in chosen.get("in", ())), tuple(axis % ndim for axis in chosen.get("out", ()))


def declared_blocks(declared: Mapping[str, Any], item: Any, prefix: str) -> dict[str, int | None] | None:
    """The names of the matrices that a parameter is declared to pack, each with its size where that is given."""
    chosen = next((names for glob, names in declared.items() if is_called(item.names, prefix, glob)), None)
    if chosen is None:
        return None
    return dict(chosen) if isinstance(chosen, Mapping) else dict.fromkeys(chosen)


def read_tie(given: Any, path: str, problems: Problems) -> dict[str, str]:
    """The `tie` beside a layer, {} after adding what is wrong; which names there are is known when the model stands.

    Example:
        >>> problems = Problems()
        >>> read_tie("tokens.weight", "model.layers.head.tie", problems)
        {}
        >>> print(*problems)
        model.layers.head.tie: 'tokens.weight' is not a mapping of names; give parameter: full name, like {weight: tokens.weight}
    """
    if isinstance(given, Mapping) and all(isinstance(name, str) and isinstance(other, str) for name, other in given.items()):
        return dict(given)
    if given is not None:
        problems.add(path, f"{given!r} is not a mapping of names; give parameter: full name, like {{weight: tokens.weight}}")
    return {}


def read_fans(given: Any, path: str, problems: Problems) -> dict[str, Any]:
    """The `fans` beside a layer, {} after adding what is wrong.

    Example:
        >>> read_fans({"in": [0], "out": [1]}, "model.fans", Problems())
        {'in': [0], 'out': [1]}
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not given:
        problems.add(path, f"{given!r} is not a mapping; give the axes that are summed over and come out, like {{in: [1], out: [0]}}")
        return {}
    if not {"in", "out"} & set(given):
        return {str(glob): read_fans(axes, join(path, str(glob)), problems) for glob, axes in given.items()}
    found: dict[str, Any] = {}
    for side, axes in given.items():
        axes = [axes] if isinstance(axes, int) and not isinstance(axes, bool) else axes
        if side not in ("in", "out"):
            problems.add(join(path, str(side)), "not a key of fans; they are in and out")
        elif not isinstance(axes, (list, tuple)) or not all(isinstance(axis, int) and not isinstance(axis, bool) for axis in axes):
            problems.add(join(path, side), f"{axes!r} is not a list of axes; give their numbers, like [1]")
        else:
            found[side] = list(axes)
    return found


def read_blocks(given: Any, path: str, problems: Problems) -> dict[str, Any]:
    """The `blocks` beside a layer, {} after adding what is wrong.

    Example:
        >>> read_blocks({"qkv": ["query", "key", "value"]}, "model.blocks", Problems())
        {'qkv': ['query', 'key', 'value']}
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        problems.add(path, f"{given!r} is not a mapping; give a parameter and the names of its blocks, like {{qkv: [query, key, value]}}")
        return {}
    found: dict[str, Any] = {}
    for glob, names in given.items():
        if isinstance(names, Mapping) and names and all(isinstance(size, int) and size > 0 for size in names.values()):
            found[str(glob)] = {str(name): size for name, size in names.items()}
        elif isinstance(names, (list, tuple)) and len(names) > 1 and all(isinstance(name, str) and name for name in names):
            found[str(glob)] = list(names)
        else:
            problems.add(join(path, str(glob)), f"{names!r} is no list of names; give two or more, or names with their sizes")
    return found
