"""Fans of each parameter, by the axes that its products of matrices sum over and bring out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modelfactory.tracing.axes import Axis, Dim
from modelfactory.tracing.contraction import Contraction, Operand, convolution_arguments
from modelfactory.tracing.graph import Node, Value
from modelfactory.tracing.layouts import reduced_dims
from modelfactory.tracing.operators import CONVOLUTIONS, TRANSPOSED
from modelfactory.tracing.steps import Steps


@dataclass(frozen=True)
class TracedFans:
    """What one product of matrices tells of a parameter.

    Attributes:
        node: the product.
        fan_in: how many of its entries meet in one output.
        fan_out: on how many outputs (of one copy) an input acts.
        summed, copied, coming_out: the parameter's own axes that are summed over, of which each position has its own
            matrix, and that come out.
        input_shape: of the signal that it is multiplied with.
    """

    node: Node
    fan_in: float
    fan_out: float
    summed: tuple[int, ...]
    copied: tuple[int, ...]
    coming_out: tuple[int, ...]
    input_shape: tuple[int, ...]


def traced_fans(steps: Steps) -> dict[str, list[TracedFans]]:
    """For each parameter that some product of matrices takes, the fans in each of them, in the order of the run.

    Example:
        >>> import torch
        >>> from modelfactory.tracing.read import read
        >>> layer = torch.nn.Linear(3, 5)
        >>> fans = traced_fans(read(layer, torch.zeros(2, 3)).steps)["weight"][0]
        >>> fans.fan_in, fans.fan_out, fans.summed
        (3.0, 5.0, (1,))
    """
    found: dict[str, list[TracedFans]] = {}
    labels = steps.labels
    stacks = stacked_axes(steps)
    for product in labels.contractions.values():
        for operand in product.operands:
            facts = labels[operand.value]
            if not facts.pure or not operand.value.floating or _meets_constants(steps, product, operand):
                continue
            for name in facts.mains:
                found.setdefault(name, []).append(_fans(steps, name, product, operand, stacks))
    return found


def _meets_constants(steps: Steps, product: Contraction, operand: Operand) -> bool:
    """Whether all other factors are constants: a power iteration, a fixed resampling."""
    if product.node.op == "linear" or product.node.op in CONVOLUTIONS:  # a layer, whatever it is given
        return False
    others = [other.value for other in product.operands if other is not operand]
    return not any(steps.labels.signal(value) or steps.labels.pure(value) for value in others)


def _fans(steps: Steps, name: str, product: Contraction, operand: Operand, stacks: set[Dim]) -> TracedFans:
    layout = steps.labels[operand.value].layout
    summed, out = product.summed(operand), product.coming_out(operand)
    copies = [axis for axis in out if len(out) > 1 and _is_of(layout.axes[axis], stacks)]
    out = [axis for axis in out if axis not in copies]
    shape = operand.value.shape
    signal = next((other.value for other in product.operands if other is not operand), operand.value)
    fan_in, fan_out = float(math.prod(shape[axis] for axis in summed)), float(math.prod(shape[axis] for axis in out))
    if product.node.op in CONVOLUTIONS or product.node.op in TRANSPOSED:
        fan_in, fan_out = convolution_fans(product.node)
    elif product.node.op == "bilinear" and len(shape) == 3:
        rows, one, other = shape
        fan_in, fan_out = float(one * other), 2 * rows * one * other / (one + other)

    def own(axes: Sequence[int]) -> tuple[int, ...]:
        dims = {atom.dim for axis in axes for atom in layout.axes[axis]}
        return tuple(sorted(dim.axis for dim in dims if dim.kind == "parameter" and dim.name == name))

    copied = {dim.axis for dim in _dims(steps, name)} - set(own(summed)) - set(own(out))
    return TracedFans(product.node, fan_in, fan_out, own(summed), tuple(sorted(copied)), own(out), signal.shape)


def _dims(steps: Steps, name: str) -> list[Dim]:
    layout = steps.labels[steps.graph.parameters[name]].layout
    return [atom.dim for axis in layout.axes for atom in axis]


def _is_of(axis: Axis, dims: set[Dim]) -> bool:
    return bool(axis) and all(atom.dim in dims for atom in axis)


def stacked_axes(steps: Steps) -> set[Dim]:
    """Axes of parameters along which copies lie: another parameter has one for each of them, or the outputs of all are added up."""
    known = steps.cache.get("stacked")
    if known is not None:
        return known
    labels = steps.labels
    found: set[Dim] = steps.cache.setdefault("stacked", set())
    for product in labels.contractions.values():
        pure = [operand for operand in product.operands if labels.pure(operand.value)]
        others = [operand for operand in product.operands if labels.signal(operand.value)]
        for operand in pure:
            letters = {operand.letters[axis] for axis in product.shared(operand)}
            for other in others:
                for letter, axis in zip(other.letters, labels[other.value].layout.axes, strict=True):
                    if letter in letters:
                        found |= {atom.dim for atom in axis if atom.dim.kind == "parameter"}
    for node in steps.graph.nodes:
        if node.op in ("sum", "mean") and node.inputs and labels.signal(node.inputs[0]):
            value = node.inputs[0]
            if value.node is not None and steps.kind(value.node) in ("product", "weights", "scale", "carry"):
                found |= _summed_over(node, value, steps)
    return found


def _summed_over(node: Node, value: Value, steps: Steps) -> set[Dim]:
    axes = steps.labels[value].layout.axes
    dims = [dim for dim in reduced_dims(node) if dim != len(axes) - 1]
    return {atom.dim for dim in dims for atom in axes[dim] if atom.dim.kind == "parameter"}


def convolution_fans(node: Node, borders: bool = True) -> tuple[float, float]:
    """Fans of a convolution's weight: means over its positions, as taps on a padding of zeros act on nothing.

    Args:
        borders: False for the fans far from every border, where the size of the input is not known.
    """
    given = convolution_arguments(node)
    x, weight = given["input"], given["weight"]
    axes, transposed, groups = len(weight.shape) - 2, node.op in TRANSPOSED, given["groups"]
    if not borders:
        kernel, stride = math.prod(weight.shape[2:]), math.prod(_setting(given["stride"], axis) for axis in range(axes))
        means = [(kernel / stride, float(kernel)) if transposed else (float(kernel), kernel / stride)]
    else:
        means = _all_taps(node, given, axes, x)
    taps_in, taps_out = math.prod(mean for mean, _ in means), math.prod(mean for _, mean in means)
    inputs = weight.shape[0] // groups if transposed else weight.shape[1]
    outputs = weight.shape[1] if transposed else weight.shape[0] // groups
    return inputs * taps_in, outputs * taps_out


def _all_taps(node: Node, given: dict[str, object], axes: int, x: Value) -> list[tuple[float, float]]:
    return [_mean_taps(node, given, axis, axes, x.shape[axis - axes]) for axis in range(axes)]


def _setting(value: object, axis: int) -> int:
    if isinstance(value, (tuple, list)):
        return int(value[axis if len(value) > 1 else 0])
    return int(value)  # pyright: ignore[reportArgumentType]


def _mean_taps(node: Node, given: dict[str, object], axis: int, axes: int, size: int) -> tuple[float, float]:
    """Along one axis: kernel taps that lie on the input, a mean over outputs; and those that reach an input, over inputs."""
    kernel = given["weight"].shape[axis + 2]  # pyright: ignore
    stride, dilation = _setting(given["stride"], axis), _setting(given["dilation"], axis)
    reach = dilation * (kernel - 1)
    left, right = _padding(given["padding"], axis, reach)
    out = node.output.shape[axis - axes]
    starts, limit = (size, out) if node.op in TRANSPOSED else (out, size)
    hits = sum(_hits(starts, stride, tap * dilation - left, limit) for tap in range(kernel))
    return hits / out, hits / size


def _padding(padding: object, axis: int, reach: int) -> tuple[int, int]:
    if isinstance(padding, str):
        return (0, 0) if padding == "valid" else (reach // 2, reach - reach // 2)
    width = _setting(padding, axis)
    return width, width


def _hits(starts: int, stride: int, offset: int, limit: int) -> int:
    """How many n in [0, starts) have 0 <= n * stride + offset < limit."""
    first = max(0, -(offset // stride))
    last = min(starts - 1, (limit - 1 - offset) // stride)
    return max(0, last - first + 1)
