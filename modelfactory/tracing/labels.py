"""For every value of a graph: where its axes come from, whether it is of the signal, and which parameters it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from modelfactory.tracing.axes import Axis, Layout, fresh, one
from modelfactory.tracing.contraction import Contraction, contraction
from modelfactory.tracing.graph import Graph, Node, Value
from modelfactory.tracing.layouts import RULES, checked
from modelfactory.tracing.operators import CONVOLUTIONS, JOINS, LOOKUPS, NORMS, RECURRENT

_NONE: frozenset[str] = frozenset()
_INDEXING = frozenset({"getitem", "index_select", "gather", "take_along_dim", "masked_fill", "where", "select", "narrow", "one_hot"})


class ValueFacts(NamedTuple):
    """What is known of one value.

    Attributes:
        layout: where its axes come from.
        signal: whether it depends on the numbers that the model is given, or on what was looked up by them.
        mains: of a value made of parameters alone, those that have its size.
        scales: those that only scale or shift it.
    """

    layout: Layout
    signal: bool
    mains: frozenset[str] = _NONE
    scales: frozenset[str] = _NONE

    @property
    def pure(self) -> bool:
        """Whether it is made of parameters (and constants) alone."""
        return not self.signal and bool(self.mains)


class Labels:
    """The facts of a graph's values, and its contractions.

    Attributes:
        contractions: by the index of their node.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.contractions: dict[int, Contraction] = {}
        self._facts: list[ValueFacts | None] = [None] * len(graph.values)
        for value in graph.values:
            if value.node is None:
                self._facts[value.index] = _of_leaf(value)
        for node in graph.nodes:
            self._label(node)

    def __getitem__(self, value: Value) -> ValueFacts:
        return self._facts[value.index]  # pyright: ignore[reportReturnType]

    def pure(self, value: Value) -> bool:
        return self[value].pure

    def signal(self, value: Value) -> bool:
        return self[value].signal

    def _label(self, node: Node) -> None:
        found = contraction(node)
        if found is not None:
            self.contractions[node.index] = found
        layouts = self._layouts(node, found)
        signal = self._is_signal(node)
        mains, scales = (_NONE, _NONE) if signal else self._standing_for(node, found)
        for value, layout in zip(node.outputs, layouts, strict=True):
            self._facts[value.index] = ValueFacts(layout, signal, mains, scales)

    def _is_signal(self, node: Node) -> bool:
        if node.op in LOOKUPS or node.op in RECURRENT:
            return True
        if node.op == "linear" or node.op in CONVOLUTIONS:  # what a layer is given is a signal, also where it is a parameter
            return self.signal(node.inputs[0]) or len(node.inputs) > 1 and (self.pure(node.inputs[1]) or self.pure(node.inputs[0]))
        inputs = node.inputs
        if node.op in _INDEXING:
            inputs = [value for value in inputs if value.floating] or inputs
        elif any(value.floating for value in node.outputs):
            inputs = [value for value in inputs if value.floating] or inputs
        return any(map(self.signal, inputs))

    def _standing_for(self, node: Node, found: Contraction | None) -> tuple[frozenset[str], frozenset[str]]:
        """Which parameters a value of parameters stands for, and which only scale it."""
        inputs = [value for value in node.inputs if self.pure(value)]
        if not inputs:
            return _NONE, _NONE
        if found is not None or node.op in JOINS:
            main = inputs
        else:
            largest = max(value.numel for value in inputs)
            main = [value for value in inputs if value.numel == largest]
            if node.op == "div" and len(main) > 1:
                main = main[:1]
            if node.op in NORMS or node.op == "_weight_norm":
                main = inputs[:1]
        mains = frozenset().union(*(self[value].mains for value in main))
        every = frozenset().union(*(self[value].mains | self[value].scales for value in inputs))
        return mains, every - mains

    def _layouts(self, node: Node, found: Contraction | None) -> Sequence[Layout]:
        output = node.outputs
        if found is not None and len(output) == 1:
            return [self._contracted(node, found)]
        rule = RULES.get(node.op)
        if rule is not None:
            layouts = rule(node, self)
            if layouts is not None and len(layouts) >= len(output):
                return [checked(layout, value) for layout, value in zip(layouts, output, strict=False)]
        return [self._aligned(node, value) for value in output]

    def _layouts_under(self, node: Node, labels: Any) -> Sequence[Layout]:
        """The layouts of what a view or a slice gives, under other labels of its input."""
        rule = RULES.get(node.op)
        layouts = None if rule is None else rule(node, labels)
        if layouts is None or len(layouts) < len(node.outputs):
            layouts = [labels[node.inputs[0]].layout] * len(node.outputs)
        return [checked(layout, value) for layout, value in zip(layouts, node.outputs, strict=False)]

    def _contracted(self, node: Node, found: Contraction) -> Layout:
        where: dict[str, Axis] = {}
        starts: dict[Any, int] = {}
        for operand in found.operands:
            layout = self[operand.value].layout
            starts.update(layout.starts)
            for letter, axis in zip(operand.letters, layout.axes, strict=True):
                if axis or letter not in where:
                    where.setdefault(letter, axis)
        axes = [where.get(letter, one(size)) for letter, size in zip(found.output, node.output.shape, strict=True)]
        x = found.operands[0].value
        if found.groups > 1 and len(x.shape) == len(found.output):
            channel = len(found.output) - len(node.inputs[1].shape) + 1
            if x.shape[channel] == node.output.shape[channel] == found.groups:  # depthwise: each channel stays itself
                axes[channel] = self[x].layout.axes[channel]
        return checked(Layout(tuple(axes), starts), node.output)

    def _aligned(self, node: Node, value: Value) -> Layout:
        """Elementwise, broadcast: each axis is that of the first input that has it."""
        axes: list[Axis] = []
        inputs = [item for item in node.inputs if len(item.shape) <= len(value.shape)]
        inputs.sort(key=lambda item: not self.signal(item))
        starts: dict[Any, int] = {}
        used: set[int] = set()
        for place in range(-len(value.shape), 0):
            size = value.shape[place]
            source = next((item for item in inputs if len(item.shape) >= -place and item.shape[place] == size), None) if size > 1 else None
            axes.append(() if size == 1 else one(size) if source is None else self[source].layout.axes[place])
            if source is not None:
                used.add(source.index)
        for item in inputs:
            if item.index in used:
                starts.update({dim: start for dim, start in self[item].layout.starts.items() if dim not in starts})
        return Layout(tuple(axes), starts)


def _of_leaf(value: Value) -> ValueFacts:
    if value.kind == "parameter":
        name = value.name or ""
        return ValueFacts(fresh(value.shape, "parameter", name), False, frozenset({name}))
    return ValueFacts(fresh(value.shape, value.kind), value.kind == "input")
