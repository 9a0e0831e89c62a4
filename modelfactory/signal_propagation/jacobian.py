"""Predicts the spectrum of the Jacobian by the input: mean and variance of its squared singular values, where theory knows them.

Of a product of free matrices (Pennington, Schoenholz & Ganguli 2017): with `r` the mean of the fourth powers of singular values over the
square of that of the second powers, a weight `W` of [n', n] makes of it `(r + r_W - 1) n'/n`, and an activation adds
`E f'^4/(E f'^2)^2 - 1`. So L square layers have the relative variance L (Gaussian) or 0 (orthogonal) where they are linear, and 2 L or L
with relu.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from modelfactory.numerics.activation import resolve, value_and_derivative
from modelfactory.signal_propagation.graph import NodeRef, SignalGraph, SignalNode, TensorRef
from modelfactory.signal_propagation.rules.base import arguments
from modelfactory.signal_propagation.state import State

_SAME = frozenset("view reshape flatten unflatten contiguous clone permute transpose t squeeze unsqueeze identity movedim to float".split())


@dataclass(frozen=True)
class _Spectrum:
    """Of `J J^T` of one output by the input: the mean over its outputs, and `r`."""

    mean: float
    ratio: float


def predict_spectrum(graph: SignalGraph, states: list[State]) -> dict[int, tuple[float, float]]:
    """Give mean and relative variance of the squared singular values, by node; a node that theory says nothing of has none.

    They are over `min(inputs, outputs)` singular values, as others are 0.

    Args:
        states: what is predicted of each node's output.
    """
    found: dict[int, _Spectrum] = {0: _Spectrum(1.0, 1.0)}
    told: dict[int, tuple[float, float]] = {}
    size = math.prod(graph.nodes[0].shape[1:])
    if not graph.nodes[0].floating:
        return told
    for node in graph.nodes[1:]:
        before = found.get(node.inputs[0]) if len(node.inputs) == 1 else None
        after = None if before is None else _after(node, before, states)
        if after is not None:
            found[node.index] = after
            outputs = math.prod(node.shape[1:])
            least = min(size, outputs)
            told[node.index] = after.mean * outputs / least, after.ratio * least / outputs - 1
    return told


def _after(node: SignalNode, before: _Spectrum, states: list[State]) -> _Spectrum | None:
    if node.op in _SAME or node.op.startswith("dropout") and not node.training:
        return before
    if node.op == "activation":
        law = states[node.inputs[0]].points
        squares = value_and_derivative(resolve(node.function).function, law.x)[1].square()
        slope, fourth = (law.weight * squares).sum().item(), (law.weight * squares.square()).sum().item()
        return _Spectrum(before.mean * slope, before.ratio + fourth / slope**2 - 1) if slope > 0 and math.isfinite(fourth) else None
    given = arguments(node, ("input", "weight", "bias")) if node.op == "linear" else {}
    weight = given.get("weight")
    if not isinstance(given.get("input"), NodeRef) or not isinstance(weight, TensorRef) or weight.tensor.is_meta or weight.tensor.ndim != 2:
        return None
    own = _of_weight(weight.tensor)
    if own is None:
        return None
    wide = weight.tensor.shape[0] / weight.tensor.shape[1]
    return _Spectrum(before.mean * own.mean / wide, (before.ratio + own.ratio - 1) * wide)


def _of_weight(weight: Tensor) -> _Spectrum | None:
    """Of `W^T W`: the mean of its eigenvalues, and `r`."""
    matrix = weight.detach().double()
    gram = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    total, squares, columns = gram.trace().item(), gram.square().sum().item(), matrix.shape[1]
    return _Spectrum(total / columns, columns * squares / total**2) if total > 0 else None
