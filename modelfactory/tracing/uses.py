"""What each parameter is used for: multiplied with the signal, added to it, looked up, a scale of it."""

from __future__ import annotations

from typing import NamedTuple

from modelfactory.tracing.axes import Axis
from modelfactory.tracing.graph import Node, Value
from modelfactory.tracing.labels import Labels
from modelfactory.tracing.operators import ADDS, LOOKUPS, MASKS, NORMS, PRODUCTS, RECURRENT, WRITES
from modelfactory.tracing.steps import Steps, normalised


class Use(NamedTuple):
    """One meeting of a parameter with the signal.

    Attributes:
        kind: weight, bias, norm, norm_bias, embedding, scale, activation, recurrent or other.
        node: the call.
        value: what the call takes: the parameter, or what is made of it.
    """

    kind: str
    node: Node
    value: Value


def uses_of_parameters(steps: Steps) -> dict[str, list[Use]]:
    """By parameter, in the order of the run.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from modelfactory.tracing.read import read
        >>> uses = uses_of_parameters(read(nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3)), torch.zeros(1, 2)).steps)
        >>> {name: found[0].kind for name, found in uses.items()}
        {'0.weight': 'weight', '0.bias': 'bias', '1.weight': 'norm', '1.bias': 'norm_bias'}
    """
    found: dict[str, list[Use]] = {}
    for node in steps.graph.nodes:
        for value in dict.fromkeys(node.inputs):
            facts = steps.labels[value]
            if not facts.pure:
                continue
            kind = _kind(steps, node, value)
            if kind is None:
                continue
            for name in sorted(facts.mains):
                found.setdefault(name, []).append(Use(_of_table(kind, name, node, value, steps), node, value))
            for name in sorted(facts.scales):
                found.setdefault(name, []).append(Use("scale", node, value))
    return found


def _kind(steps: Steps, node: Node, value: Value) -> str | None:
    """What a value of parameters is to a call; None where the result is one of parameters still."""
    labels, op = steps.labels, node.op
    product = labels.contractions.get(node.index)
    if op in LOOKUPS:
        return "embedding" if value is node.argument(1, "weight") else None
    if op in RECURRENT:
        return "recurrent"
    if product is not None:
        if product.bias is value:
            return "bias" if labels.signal(node.output) else None
        others = [operand.value for operand in product.operands if operand.value is not value]
        if op == "linear" or op.startswith("conv"):
            return "embedding" if value is node.inputs[0] else "weight"
        return "weight" if any(labels.signal(item) or labels.pure(item) for item in others) else None
    if op in NORMS:
        if labels.signal(node.inputs[0]):
            return "norm_bias" if value is _norm_bias(node) else "norm"
        return None if value is node.inputs[0] else "scale"
    if not node.outputs or not labels.signal(node.output):
        return None
    if op == "prelu":
        return "activation"
    if op in ADDS or op in PRODUCTS or op in ("addcmul", "lerp"):
        return _elementwise(steps, node, value)
    if steps.kind(node) == "join" or op in MASKS or op in WRITES:
        return "embedding" if value.shape and value.shape[-1] > 1 else "other"
    if op == "scaled_dot_product_attention":
        return "embedding"
    return "other"


def _norm_bias(node: Node) -> object:
    return node.argument(4 if node.op in ("batch_norm", "instance_norm") else 3, "bias")


def _elementwise(steps: Steps, node: Node, value: Value) -> str:
    labels = steps.labels
    other = next((item for item in node.inputs if labels.signal(item)), None)
    if other is None:
        return "other"
    multiplies = node.op in PRODUCTS or (node.op == "addcmul" and value is not node.inputs[0])
    if multiplies:
        return "norm" if normalised(steps, other) else "scale"
    if normalised(steps, other) and _is_channel(labels, other, value):
        return "norm_bias"
    return "bias" if _is_channel(labels, other, value) else "embedding"


def _is_channel(labels: Labels, other: Value, value: Value) -> bool:
    """Whether what is added has a number for each output of a weight (or one axis alone), and none for each position."""
    axes = labels[other].layout.axes
    long = [place for place in range(-len(value.shape), 0) if value.shape[place] > 1]
    if len(long) <= 1:
        return True
    return all(len(axes) >= -place and _is_made_by_weights(axes[place]) for place in long)


def _is_made_by_weights(axis: Axis) -> bool:
    return bool(axis) and all(atom.dim.kind == "parameter" for atom in axis)


def _of_table(kind: str, name: str, node: Node, value: Value, steps: Steps) -> str:
    """A row of a table that is added is an embedding, and no bias; but of a stack of experts it is the bias of one."""
    if kind not in ("bias", "norm_bias", "embedding") or (node.op not in ADDS):
        return kind
    labels, own = steps.labels, steps.graph.parameters[name]
    dims = {atom.dim for axis in labels[own].layout.axes for atom in axis}
    left = {atom.dim for axis in labels[value].layout.axes for atom in axis}
    if len(dims) <= 1 or dims <= left or not dims & left:
        return kind
    made = next((steps.carried(item).node for item in node.inputs if labels.signal(item)), None)
    weight = steps.weight(made) if made is not None and steps.kind(made) == "weights" else None
    of_stack = weight is not None and any(len(steps.graph.parameters[main].shape) > 2 for main in labels[weight].mains)
    return "bias" if of_stack else "embedding"


def biases_of_weights(steps: Steps) -> dict[str, list[str]]:
    """By parameter that multiplies the signal, those that are added to what it gives."""
    found: dict[str, list[str]] = {}
    for index, product in steps.labels.contractions.items():
        node = steps.graph.nodes[index]
        weight = steps.weight(node)
        if weight is None or steps.kind(node) != "weights":
            continue
        added = [product.bias] if product.bias is not None else []
        for user, _ in steps.uses(node.output, frozenset({"carry"})) if len(node.output.users) == 1 else ():
            if steps.kind(user) == "shift":
                added += [value for value in user.inputs if steps.labels.pure(value) and _kind(steps, user, value) == "bias"]
        names = sorted({name for value in added if steps.labels.pure(value) for name in steps.labels[value].mains})
        for name in steps.labels[weight].mains:
            found.setdefault(name, [])
            found[name] += [bias for bias in names if bias not in found[name]]
    return found
