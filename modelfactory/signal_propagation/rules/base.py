"""What every rule works with: how a call's arguments are read, and averages over pairs of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modelfactory.signal_propagation.fusing import Roots
from modelfactory.signal_propagation.graph import NodeRef, SignalGraph, SignalNode
from modelfactory.signal_propagation.state import Gradient, State, WeightMoments


@dataclass(frozen=True)
class Context:
    """What a prediction is made with.

    Attributes:
        graph: of the model.
        weights: the moments of its parameters.
        batch: how many inputs at once, for norms over the batch and for what differs by chance.
    """

    graph: SignalGraph
    weights: WeightMoments
    batch: int

    @cached_property
    def roots(self) -> Roots:
        """Which calls are one function of one signal."""
        return Roots(self.graph)

    def places(self, node: SignalNode, unit: int) -> int:
        """How many places (pixels, tokens) an output has."""
        others = [size for dim, size in enumerate(node.shape) if dim not in (0, unit)]
        return max(math.prod(others), 1)

    def places_before(self, node: SignalNode) -> int:
        """How many places the input of a pool has."""
        return math.prod(self.graph.nodes[node.inputs[0]].shape[2:])

    def over_pairs(self, node: SignalNode, state: State, function: Callable[[float], float]) -> float:
        """The mean of `function(cosine)` over all pairs of entries of a unit, over the batch and the places."""
        places, batch = self.places(node, state.unit), self.batch
        near, far, other, apart = state.cosines
        beside = sum(2 * (1 - 1 / size) for dim, size in enumerate(node.shape) if dim not in (0, state.unit))
        rest = max(places - 1 - beside, 0.0)
        between = (near - far) / (1 - far) if far < 1 else 0.0
        apart_beside = apart + (other - apart) * between
        total = batch * places
        shares = (
            (1.0, 1),
            (near, min(beside, places - 1)),
            (_without(far, places - 1, near, beside), rest),
            (other, batch - 1),
            (apart_beside, (batch - 1) * min(beside, places - 1)),
            (_without(apart, places - 1, apart_beside, beside), (batch - 1) * rest),
        )
        return sum(function(cosine) * count for cosine, count in shares if count) / total

    def pair_mean(self, node: SignalNode, state: State) -> float:
        """The mean product of two entries of a unit, over the batch and the places: the power of the unit's mean."""
        return state.second * self.over_pairs(node, state, lambda cosine: cosine)


def _without(mean: float, count: float, part: float, of: float) -> float:
    """The mean of the others, where `of` among `count` have the mean `part`."""
    return (mean * count - part * of) / (count - of) if count > of else mean


@dataclass(frozen=True)
class PropagationRule:
    """How a call passes a signal on, and a gradient back (one for each of `node.inputs`; None where nothing goes)."""

    forward: Callable[[Context, SignalNode, list[State]], State]
    backward: Callable[[Context, SignalNode, list[State], State, Gradient], list[Gradient | None]]


def arguments(node: SignalNode, names: tuple[str, ...]) -> dict[str, Any]:
    """A call's arguments by name, None where not given.

    Args:
        names: of the positional ones, in order.
    """
    given = dict.fromkeys(names)
    given.update(zip(names, node.args, strict=False))
    given.update(node.kwargs)
    return given


def first_shape(context: Context, node: SignalNode) -> tuple[int, ...]:
    """The shape of the first signal a call takes."""
    return context.graph.nodes[node.inputs[0]].shape


def is_signal(value: Any) -> bool:
    return isinstance(value, NodeRef)
