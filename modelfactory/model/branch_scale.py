"""The `scale` beside a residual branch: a number, a learned one, or one over the number of branches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.schema import check_value, join
from modelfactory.model.arguments import channel_dim
from modelfactory.model.blueprint import Chain, Node
from modelfactory.model.infer import UNKNOWN, Incoming, shape_of
from modelfactory.model.layers.containers import Residual

_KEYS = ("learn", "per", "base_branches")


def read_scale(scale: Any, path: str, branch: Incoming, nodes: list[Node], problems: Problems) -> dict[str, Any]:
    """The arguments of `Residual` that a scale says, without what is wrong, which goes to `problems`.

    Args:
        branch: what leaves the branch, whose layers are `nodes`.

    Example:
        >>> read_scale({"learn": 0.0}, "model.layers.body.scale", UNKNOWN, [], Problems())
        {'learn_scale': 0.0}
    """
    if not isinstance(scale, Mapping):
        return {} if scale is None else {"scale": check_value(scale, float, path, problems)}
    for name in set(scale) - set(_KEYS):
        problems.add(join(path, name), f"not a key of scale{did_you_mean(str(name), _KEYS)}")
    if "base_branches" in scale:
        for name in ("learn", "per"):
            if name in scale:
                problems.add(join(path, name), "is of a learned scale, and base_branches of a fixed one; give one of them")
        base = check_value(scale["base_branches"], float | None, join(path, "base_branches"), problems, {"above": 0})
        return {} if base is None else {"base_branches": base}
    options: dict[str, Any] = {}
    if scale.get("learn") is None:
        problems.add(join(path, "learn"), "missing; give the number that the scale starts at, such as 0.0")
    else:
        options["learn_scale"] = check_value(scale["learn"], float, join(path, "learn"), problems)
    per = check_value(scale.get("per", "all"), str, join(path, "per"), problems, {"choices": ("all", "channel")})
    shape = shape_of(branch)
    if per == "channel" and shape is not None:
        dim = channel_dim(nodes, len(shape))
        options.update(channels=shape[dim], channel_dim=dim)
    elif per == "channel" and branch is UNKNOWN:
        problems.add(join(path, "per"), "channel needs the shape of the branch, which is not known; give data.input_shape")
    return options


def divide_branches(node: Node) -> Node:
    """The blueprint with the scale of each branch that has `base_branches`: that over the number of branches.

    Example:
        >>> from torch import nn
        >>> from modelfactory.parameters.layer_rules import Definition
        >>> block = Chain(Definition("b"), Residual, (), {"base_branches": 2.0})
        >>> model = divide_branches(Chain(Definition("model"), nn.Sequential, tuple((str(n), block) for n in range(8))))
        >>> model.children[7][1].options
        {'base_branches': 2.0, 'scale': 0.25}
    """
    known: dict[int, tuple[int, bool]] = {}
    count, any_divides = _count(node, known)
    return _divided(node, count, {}) if any_divides else node


def _count(node: Node, known: dict[int, tuple[int, bool]]) -> tuple[int, bool]:
    """How many residual containers there are, and whether any has a base; a repeated part is looked at once."""
    if id(node) not in known:
        below = [_count(child, known) for _, child in node.children] if isinstance(node, Chain) else []
        own = isinstance(node, Chain) and node.container is Residual
        divides = isinstance(node, Chain) and "base_branches" in node.options
        known[id(node)] = own + sum(count for count, _ in below), divides or any(any_below for _, any_below in below)
    return known[id(node)]


def _divided(node: Node, count: int, made: dict[int, Node]) -> Node:
    if not isinstance(node, Chain):
        return node
    if id(node) not in made:
        children = tuple((name, _divided(child, count, made)) for name, child in node.children)
        base = node.options.get("base_branches")
        options = node.options if base is None else {**node.options, "scale": base / count}
        made[id(node)] = replace(node, children=children, options=options)
    return made[id(node)]
