"""What every rule works with: how a call's arguments are read, and averages over pairs of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelfactory.signal_propagation.graph import Graph, Node, Signal
from modelfactory.signal_propagation.state import Gradient, State, Weights


@dataclass(frozen=True)
class Context:
    """What a prediction is made with.

    Attributes:
        graph: of the model.
        weights: the moments of its parameters.
        batch: how many inputs at once, for norms over the batch and for what differs by chance.
    """

    graph: Graph
    weights: Weights
    batch: int

    def places(self, node: Node, unit: int) -> int:
        """How many places (pixels, tokens) an output has."""
        others = [size for dim, size in enumerate(node.shape) if dim not in (0, unit)]
        return max(math.prod(others), 1)

    def places_before(self, node: Node) -> int:
        """How many places the input of a pool has."""
        return math.prod(self.graph.nodes[node.inputs[0]].shape[2:])

    def over_pairs(self, node: Node, state: State, function: Callable[[float], float]) -> float:
        """The mean of `function(cosine)` over all pairs of entries of a unit, over the batch and the places."""
        places, batch = self.places(node, state.unit), self.batch
        near, far, other, apart = state.cosines
        total = batch * places
        shares = ((1.0, 1), (far, places - 1), (other, batch - 1), (apart, (batch - 1) * (places - 1)))
        return sum(function(cosine) * count for cosine, count in shares if count) / total

    def pair_mean(self, node: Node, state: State) -> float:
        """The mean product of two entries of a unit, over the batch and the places: the power of the unit's mean."""
        return state.second * self.over_pairs(node, state, lambda cosine: cosine)


@dataclass(frozen=True)
class Rule:
    """How a call passes a signal on, and a gradient back (one for each of `node.inputs`; None where nothing goes)."""

    forward: Callable[[Context, Node, list[State]], State]
    backward: Callable[[Context, Node, list[State], State, Gradient], list[Gradient | None]]


def arguments(node: Node, names: tuple[str, ...]) -> dict[str, Any]:
    """A call's arguments by name, None where not given.

    Args:
        names: of the positional ones, in order.
    """
    given = dict.fromkeys(names)
    given.update(zip(names, node.args, strict=False))
    given.update(node.kwargs)
    return given


def first_shape(context: Context, node: Node) -> tuple[int, ...]:
    """The shape of the first signal a call takes."""
    return context.graph.nodes[node.inputs[0]].shape


def is_signal(value: Any) -> bool:
    return isinstance(value, Signal)
