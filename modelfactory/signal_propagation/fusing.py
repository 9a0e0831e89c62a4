"""Several calls that are one function of one signal, entry by entry: `x * sigmoid(1.7 x)`, a GELU written out, `x + relu(x)`.

Taken call by call they would be sums and products of signals that go together; as one function they are an activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from modelfactory.signal_propagation.graph import NodeRef, SignalGraph, SignalNode, TensorRef, walk

_BINARY = frozenset("add sub rsub mul multiply div truediv true_divide divide pow maximum minimum where lerp addcmul addcdiv".split())
_UNARY = frozenset(
    "activation abs neg exp expm1 log log1p sqrt rsqrt sin cos tan erf square reciprocal clamp clamp_min clamp_max sign atan rdiv rpow "
    "clone contiguous".split()
)
_MOVING = frozenset("view reshape unsqueeze squeeze expand permute transpose mT T flatten unflatten repeat".split())
_STRAIGHT = frozenset("add sub rsub mul multiply div truediv true_divide divide neg clone contiguous".split())
_PRODUCTS = frozenset("mul multiply div truediv".split())


@dataclass(frozen=True, eq=False)
class Fused:
    """Calls as one function of the entry that they begin with.

    Attributes:
        graph: that they are in.
        root: the node whose output is the argument.
        end: the last of the calls.
    """

    graph: SignalGraph
    root: int
    end: int

    @property
    def __name__(self) -> str:
        return self.graph.nodes[self.end].called

    def __call__(self, x: Tensor) -> Tensor:
        known = {self.root: x}

        def value(item: Any) -> Any:
            if isinstance(item, NodeRef):
                return known[item.node]
            return item.tensor.to(x) if isinstance(item, TensorRef) else item

        for index in between(self.graph, self.root, self.end):
            node = self.graph.nodes[index]
            named = {name: value(item) for name, item in node.kwargs.items() if name != "inplace"}
            known[index] = node.function(*map(value, node.args), **named)
        return known[self.end]


def between(graph: SignalGraph, root: int, end: int) -> list[int]:
    """The calls from a root to an end, in order, the end included."""
    found, waiting = set[int](), [end]
    while waiting:
        index = waiting.pop()
        if index != root and index not in found:
            found.add(index)
            waiting.extend(graph.nodes[index].inputs)
    return sorted(found)


class Roots:
    """By node, which signal it is an elementwise function of: itself where it is none of another one."""

    def __init__(self, graph: SignalGraph):
        self._graph = graph
        self._roots: list[int] = []
        self._sources: list[int] = []
        for node in graph:
            self._roots.append(self._root(node))
            self._sources.append(self._source(node))

    def _root(self, node: SignalNode) -> int:
        if node.op not in _BINARY | _UNARY or not node.floating or not node.inputs:
            return node.index
        roots = {self._roots[index] for index in node.inputs}
        alike = all(self._graph.nodes[index].shape == node.shape for index in node.inputs)
        return roots.pop() if len(roots) == 1 and alike and not _constants(node) else node.index

    def _source(self, node: SignalNode) -> int:
        root = self._roots[node.index]
        moves = root == node.index and node.op in _MOVING and len(node.inputs) == 1
        return self._sources[node.inputs[0]] if moves else root

    def of(self, index: int) -> int:
        """The signal that a node is an elementwise function of."""
        return self._roots[index]

    def fused(self, node: SignalNode) -> SignalNode | None:
        """A call that is a function of one signal together with calls before it, as one activation; None for another call.

        Straight lines are left by themselves: a factor, or a number added, changes what a bend gets and not how it bends.
        """
        root = self._roots[node.index]
        if root == node.index or node.inputs == [root]:
            return None
        before = [self._graph.nodes[index] for index in between(self._graph, root, node.index)[:-1]]
        if len(node.inputs) < 2 and (_is_straight(node) or all(map(_is_straight, before))):
            return None
        function: Callable[[Tensor], Tensor] = Fused(self._graph, root, node.index)
        return replace(node, op="activation", function=function, args=(NodeRef(root),), kwargs={})

    def is_product_with_itself(self, node: SignalNode) -> bool:
        """Whether a call multiplies a signal with another arrangement of itself."""
        return node.op in _PRODUCTS and len(node.inputs) == 2 and len({self._sources[index] for index in node.inputs}) == 1


def _is_straight(node: SignalNode) -> bool:
    """Whether a call multiplies by a number, adds one, or does nothing."""
    return len(node.inputs) == 1 and node.op in _STRAIGHT


def _constants(node: SignalNode) -> bool:
    """Whether a call takes a tensor that is no single number."""
    values = [item for item in walk((node.args, node.kwargs)) if isinstance(item, TensorRef)]
    return any(item.name is not None or item.tensor.numel() != 1 or item.tensor.is_meta for item in values)
