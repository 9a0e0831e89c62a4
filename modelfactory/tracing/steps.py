"""What each call of a graph does to the signal: carry it, bend it, weigh it, mix it, add it, normalise it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modelfactory.tracing.graph import Graph, Node, Value
from modelfactory.tracing.labels import Labels
from modelfactory.tracing.operators import (
    ACTIVATIONS,
    ADDS,
    ATTENTION,
    COPIES,
    GATED,
    JOINS,
    LOOKUPS,
    MASKS,
    MAXIMA,
    MEANS,
    MOVES,
    NORMS,
    PERMUTES,
    PRODUCTS,
    RECURRENT,
    RESHAPES,
    SLICES,
    SMOOTH,
    SOFTMAXES,
    SPREAD_OF,
    SPREADS,
    WRITES,
)

CARRY = frozenset({"carry", "scale", "shift"})
"""Steps that leave a signal what it is, but for a constant or a parameter by which it is scaled or shifted."""
BENDS = frozenset({"activation", "softmax", "norm", "product", "mix", "glu", "recurrent", "max", "bend", "other"})
"""Steps by which an output is no linear map of the input."""

_BY_OPERATOR = {
    **dict.fromkeys(RESHAPES | PERMUTES | SLICES | COPIES | SPREADS | MOVES, "carry"),
    **dict.fromkeys(MEANS, "mean"),
    **dict.fromkeys(MAXIMA, "max"),
    **dict.fromkeys(SPREAD_OF, "statistic"),
    **dict.fromkeys(SMOOTH | {"clamp", "clip", "clamp_min", "clamp_max", "maximum", "minimum", "round", "sign", "where"}, "bend"),
    "neg": "scale",
    **dict.fromkeys(NORMS, "norm"),
    **dict.fromkeys(SOFTMAXES, "softmax"),
    **dict.fromkeys(ACTIVATIONS, "activation"),
    **dict.fromkeys(GATED, "glu"),
    **dict.fromkeys(LOOKUPS, "lookup"),
    **dict.fromkeys(RECURRENT, "recurrent"),
    **dict.fromkeys(ATTENTION, "mix"),
    **dict.fromkeys(WRITES, "write"),
}


class Steps:
    """The kind of each call, and the walks from a value to what it is made of.

    Kinds: `carry` (views, copies, slices), `scale` and `shift` (by a number, a constant or a parameter), `sum` (of
    signals), `join` (concatenation), `write` (into a part), `mean`, `max`, `statistic`, `bend` (elementwise, no activation by itself),
    `activation`, `softmax`, `norm` (also one written by hand), `product` (of signals), `mix` (a product of matrices of
    signals, attention), `weights` (a product with a parameter), `glu`, `lookup`, `recurrent`, `pure` (of parameters alone), `other`.
    """

    def __init__(self, graph: Graph, labels: Labels):
        self.graph, self.labels = graph, labels
        self.kinds: list[str] = []
        self.cache: dict[str, Any] = {}
        self.source: dict[int, Value] = {}  # of a value that is elementwise a function of one other, by its index: that other
        for node in graph.nodes:
            self.kinds.append(self._kind(node))
            self._note_source(node)

    def kind(self, node: Node | None) -> str:
        """What a call does; "input" of a value that no call made."""
        return "input" if node is None else self.kinds[node.index]

    def signals(self, node: Node) -> list[Value]:
        """The values of the signal that a call takes, once each."""
        found = dict.fromkeys(value for value in node.inputs if value.floating and self.labels.signal(value))
        return list(found) or list(dict.fromkeys(value for value in node.inputs if self.labels.signal(value)))

    def carried(self, value: Value, kinds: frozenset[str] = CARRY) -> Value:
        """What a value is, before the steps of these kinds."""
        while value.node is not None and self.kind(value.node) in kinds:
            signals = self.signals(value.node)
            if not signals:
                break
            value = signals[0]
        return value

    def uses(self, value: Value, kinds: frozenset[str] = CARRY) -> Iterator[tuple[Node, Value]]:
        """The calls that take a value, or what it becomes by steps of these kinds, each with the value that it takes."""
        ahead, seen = [value], {value.index}
        while ahead:
            taken = ahead.pop()
            for node in dict.fromkeys(taken.users):
                if self.kind(node) not in kinds:
                    yield node, taken
                    continue
                for output in node.outputs:
                    if output.index not in seen:
                        seen.add(output.index)
                        ahead.append(output)

    def weight(self, node: Node) -> Value | None:
        """The parameter, or what is made of parameters, that a product of matrices multiplies the signal with."""
        found = self.labels.contractions.get(node.index)
        if found is None:
            return None
        pure = [operand.value for operand in found.operands if self.labels.pure(operand.value)]
        return pure[-1] if pure else None

    def weight_names(self, node: Node) -> list[str]:
        """The parameters that the weight of a product stands for."""
        weight = self.weight(node)
        return [] if weight is None else sorted(self.labels[weight].mains)

    def _kind(self, node: Node) -> str:
        signals = self.signals(node)
        if not node.outputs or not self.labels.signal(node.output):
            return "pure"
        found = self.labels.contractions.get(node.index)
        if found is not None:
            if self.weight(node) is not None:
                return "weights"
            return "mix" if sum(self.labels.signal(operand.value) for operand in found.operands) > 1 else "mean"
        op = node.op
        if op in ADDS:
            return "sum" if len(signals) > 1 else "shift"
        if op in PRODUCTS:
            return self._product(node, signals)
        if op in ("addcmul", "addcdiv"):
            return "sum" if len(signals) > 1 else "scale"
        if op == "lerp":
            return "sum"
        if op in JOINS or op in MASKS:
            return "join" if len(signals) > 1 or any(self.labels.pure(value) for value in node.inputs) else "carry"
        return _BY_OPERATOR.get(op, "other")

    def _product(self, node: Node, signals: list[Value]) -> str:
        if len(signals) < 2:
            if len([value for value in node.inputs if value in signals]) > 1:
                return "bend"  # x * x
            if node.op == "rdiv" or (node.op in ("div", "divide", "true_divide") and signals and node.inputs[0] is not signals[0]):
                return "bend"  # 1 / x
            return "scale"
        if self.normalised_in(node) is not None:
            return "norm"
        sources = {self.source.get(value.index, value).index for value in signals}
        return "activation" if len(sources) == 1 else "product"

    def _note_source(self, node: Node) -> None:
        """Notes of which one value the output is an elementwise function."""
        kind = self.kinds[node.index]
        if kind not in ("activation", "bend", "scale", "shift", "sum", "product") or len(node.outputs) != 1:
            return
        signals = self.signals(node)
        if kind in ("scale", "shift") and any(value not in signals for value in node.inputs if value.numel > 1):
            return
        sources = {self.source.get(value.index, value) for value in signals}
        if len(sources) == 1:
            self.source[node.output.index] = sources.pop()

    def normalised_in(self, node: Node) -> Value | None:
        """Of a product or a quotient by which a signal is normalised (x / rms of x), that signal."""
        signals = self.signals(node)
        if len(signals) != 2:
            return None
        for whole, part in (signals, signals[::-1]):
            if part.numel < whole.numel and (base := self._centred(whole)) & self._made_of(part):
                return whole if whole in base else next(iter(base))
        return None

    def _centred(self, value: Value) -> set[Value]:
        """A value and, where it is one less its mean, what that is."""
        found = {value, self.carried(value)}
        node = self.carried(value).node
        if node is not None and self.kind(node) == "sum" and node.op in ("sub", "subtract"):
            found |= {self.carried(item) for item in node.inputs} | set(node.inputs)
        return found

    def _made_of(self, value: Value) -> set[Value]:
        """What a statistic is of, by steps that a norm is written in; nothing where there is no statistic on the way."""
        found: set[Value] = set()
        ahead, met = [value], False
        while ahead and len(found) < 40:
            item = ahead.pop()
            if item in found:
                continue
            found.add(item)
            node = item.node
            if node is None:
                continue
            kind = self.kind(node)
            if kind in ("mean", "max", "statistic"):
                met = True
            if kind in ("bend", "carry", "scale", "shift", "mean", "statistic", "max", "sum", "product") or node.op in ("sqrt", "rsqrt"):
                ahead += self.signals(node)
        return found if met else set()


def normalised(steps: Steps, value: Value) -> bool:
    """Whether a value is what a norm gives, before it is scaled and shifted."""
    node = steps.carried(value).node
    return steps.kind(node) == "norm"
