"""What acts on the input of each layer: an activation, a product of two branches, a norm, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.tracing.graph import Node, Value
from modelfactory.tracing.operators import RECURRENT
from modelfactory.tracing.steps import CARRY, Steps

_FEATURE_NORMS = frozenset({"layer_norm", "rms_norm"})
_OVER_FEATURES = frozenset({"features"})
_PASSES = frozenset({"carry", "mean", "max", "write"})


@dataclass(frozen=True)
class Composed:
    """A function of one tensor that is written in several calls, such as x * sigmoid(x), done again.

    Attributes:
        source: the value that it is a function of.
        result: what it gives.
        nodes: the calls between, in order.
    """

    source: Value
    result: Value
    nodes: tuple[Node, ...]

    def __call__(self, x: Tensor) -> Tensor:
        known = {self.source.index: x}

        def filled(item: Any) -> Any:
            if isinstance(item, Value):
                if item.index in known:
                    return known[item.index]
                if item.tensor is None or item.tensor.is_meta:
                    raise ValueError("it takes a tensor whose numbers are not known")
                return item.tensor.to(x.dtype) if item.tensor.is_floating_point() else item.tensor
            if isinstance(item, tuple):
                return tuple(map(filled, item))
            return item

        for node in self.nodes:
            args, kwargs = filled(node.args), {key: filled(item) for key, item in node.kwargs.items() if key not in ("inplace", "out")}
            args = (args[0].clone(), *args[1:]) if isinstance(args[0], Tensor) else args
            known[node.output.index] = node.function(*args, **kwargs)
        return known[self.result.index]


@dataclass(frozen=True)
class TracedActivation:
    """What acts on the input of a layer.

    Attributes:
        function: an elementwise activation (a module, or a function of one tensor); None where none acts.
        source: where it is, in words: a layer's name with its class, or a function.
        gated: whether the input is the product of what the activation gives with another branch, which is linear.
        shape: of the layer's input, in the run.
        averaged: over how many places a mean is taken between the two; 1 without one.
        normed: whether nothing but norms takes what the layer gives, so that its scale is lost.
        in_stream: whether nothing but norms, and residual sums that only such norms take, do: a pre-norm stream, whose scale is free.
    """

    function: nn.Module | Callable[[Tensor], Tensor] | None
    source: str
    shape: tuple[int, ...]
    gated: bool = False
    averaged: float = 1.0
    normed: bool = False
    in_stream: bool = False


def traced_activations(steps: Steps) -> dict[str, TracedActivation]:
    """By parameter that is multiplied with the signal, looked up or added to it, what acts on its layer's input.

    Example:
        >>> import torch
        >>> from modelfactory.tracing.read import read
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(), nn.Linear(4, 2))
        >>> acting = traced_activations(read(model, torch.zeros(1, 4)).steps)
        >>> acting["3.weight"].source, acting["0.weight"].source
        ('1 (Tanh)', 'the input')
    """
    return _Reader(steps).read()


class _Reader:
    def __init__(self, steps: Steps):
        self.steps = steps
        self._known: dict[int, TracedActivation] = {}

    def read(self) -> dict[str, TracedActivation]:
        found: dict[str, TracedActivation] = {}
        labels = self.steps.labels
        for node in self.steps.graph.nodes:
            signals = self.steps.signals(node)
            pure = [value for value in node.inputs if labels.pure(value)]
            if self.steps.kind(node) == "weights" and not signals:
                signals = node.inputs[:1]
            if not pure or not signals or not node.outputs or not labels.signal(node.output):
                continue
            if node.op in RECURRENT:
                self._recurrent(node, signals[0], pure, found)
                continue
            acting = self.acting(signals[0])
            if self.steps.kind(node) == "weights":
                sums, norms = self._taken_by(node.output)
                acting = replace(acting, normed=bool(norms) and not sums, in_stream=norms == _OVER_FEATURES and sums)
            for value in pure:
                for name in labels[value].mains | labels[value].scales:
                    found.setdefault(name, acting)
        return found

    def _recurrent(self, node: Node, signal: Value, pure: list[Value], found: dict[str, TracedActivation]) -> None:
        """Weights of the first layer see the input, all others a state."""
        first = self.acting(signal)
        own = TracedActivation(_state_of(node), f"{node.layer} (its own state)", signal.shape)
        for value in pure:
            for name in self.steps.labels[value].mains:
                attr = name.rpartition(".")[2]
                found.setdefault(name, first if attr in _SEE_THE_INPUT or attr.removesuffix("_reverse") in _SEE_THE_INPUT else own)

    def _taken_by(self, value: Value) -> tuple[bool, frozenset[str]]:
        """Whether residual sums take a value, and the kinds of norms that take it or those sums; none where anything else does."""
        ahead, seen, sums, norms = [value], {value.index}, False, set[str]()
        while ahead:
            taken = ahead.pop()
            if taken in self.steps.graph.outputs:
                return sums, frozenset()
            for node in dict.fromkeys(taken.users):
                kind = self.steps.kind(node)
                if kind == "norm":
                    norms.add("features" if node.op in _FEATURE_NORMS else "places")
                elif kind in CARRY or kind == "sum":
                    sums = sums or kind == "sum"
                    ahead += [output for output in node.outputs if output.index not in seen]
                    seen |= {output.index for output in node.outputs}
                else:
                    return sums, frozenset()
        return sums, frozenset(norms)

    def acting(self, value: Value) -> TracedActivation:
        """What acts on a value that a layer takes."""
        known = self._known.get(value.index)
        if known is None:
            known = self._known[value.index] = self._find(value)
        return known

    def _find(self, value: Value) -> TracedActivation:
        before = self.steps.carried(value, _PASSES)
        found = self._found(before, value.shape)
        averaged = self._averaged(value, before)
        return found if averaged == 1 else replace(found, averaged=averaged * found.averaged)

    def _averaged(self, value: Value, before: Value) -> float:
        """Over how many places the means between two values are, which lie in one line of steps."""
        averaged = 1.0
        while value is not before and value.node is not None:
            came = self.steps.signals(value.node)[0]
            if self.steps.kind(value.node) == "mean":
                averaged *= max(came.numel / max(value.numel, 1), 1.0)
            value = came
        return averaged

    def _found(self, carried: Value, shape: tuple[int, ...]) -> TracedActivation:
        steps = self.steps
        node = carried.node
        if node is None:
            return TracedActivation(None, "the input" if carried.kind == "input" else "a constant", shape)
        kind = steps.kind(node)
        if kind == "activation" or self._is_composed(node, carried):
            return TracedActivation(self._function(node, carried), self._place(node), shape)
        if kind == "join":
            ends = [self.acting(item) for item in steps.signals(node)]
            if ends and ends[0].function is not None and all(_same(end.function, ends[0].function) for end in ends):
                return TracedActivation(ends[0].function, ends[0].source, shape)
        if kind == "product":
            return self._product(node, shape)
        if kind == "glu":
            return TracedActivation(torch.sigmoid, f"{self._place(node)}, the sigmoid of one half times the other,", shape, gated=True)
        if node.op in RECURRENT:
            return TracedActivation(_state_of(node), self._place(node), shape)
        return TracedActivation(None, self._place(node), shape)

    def _is_composed(self, node: Node, value: Value) -> bool:
        """Whether a value is a function of one other that a single module writes in several calls; `x + f(x)` is a residual sum."""
        source = self.steps.source.get(value.index)
        if source is None or source in node.inputs and self.steps.kind(node) == "sum":
            return False
        nodes = self._between(source, value)
        if any(item.layer != node.layer for item in nodes):
            return False
        return any(self.steps.kind(item) in ("activation", "bend", "product") for item in nodes)

    def _product(self, node: Node, shape: tuple[int, ...]) -> TracedActivation:
        """A product of two branches: of an activation with what is linear, or of neither."""
        one, other = self.steps.signals(node)
        for gate, plain in ((one, other), (other, one)):
            if one.numel != other.numel:
                break
            bent, straight = self.acting(gate), self.acting(plain)
            if bent.function is not None and not bent.gated and straight.function is None:
                return TracedActivation(bent.function, f"{bent.source} times {straight.source}", shape, gated=True)
        return TracedActivation(None, f"{node.op} (function)", shape)

    def _place(self, node: Node) -> str:
        """Where a call is made: its module where that makes no other, and else the function."""
        module = node.module
        if node.layer and not module._modules:
            return f"{node.layer} ({type(module).__name__})"
        if self.steps.kind(node) in ("weights", "lookup", "recurrent", "norm"):
            weights = [name for value in node.inputs for name in sorted(self.steps.labels[value].mains) if self.steps.labels.pure(value)]
            if weights:
                return weights[0].removesuffix(".weight")
        return f"{node.op} (function)"

    def _function(self, node: Node, value: Value) -> nn.Module | Callable[[Tensor], Tensor]:
        """The activation itself: its module where it is one call of a module of torch, else its calls done again."""
        module = node.module
        if node.layer and not module._modules and type(module).__module__.startswith("torch.nn.modules.activation"):
            return module
        source = self.steps.source.get(value.index)
        if source is None:
            source = self.steps.signals(node)[0]
        nodes = self._between(source, value)
        if len(nodes) == 1 and not any(isinstance(item, Value) for item in (*node.args[1:], *node.kwargs.values())):
            return applied(node)
        return Composed(source, value, nodes)

    def _between(self, source: Value, value: Value) -> tuple[Node, ...]:
        ahead, found = [value], {}
        while ahead:
            item = ahead.pop()
            if item is source or item.node is None or item.node.index in found:
                continue
            found[item.node.index] = item.node
            ahead += item.node.inputs
        return tuple(found[index] for index in sorted(found))


_SEE_THE_INPUT = frozenset({"weight_ih_l0", "bias_ih_l0", "weight_ih", "bias_ih"})


def _state_of(node: Node) -> Callable[[Tensor], Tensor] | None:
    return {"rnn_tanh": torch.tanh, "rnn_relu": torch.relu, "rnn_tanh_cell": torch.tanh, "rnn_relu_cell": torch.relu}.get(node.op)


@dataclass(frozen=True)
class Applied:
    """An activation as it was called: the function and its other arguments."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x.clone() if self.__name__.endswith("_") else x, *self.args, **dict(self.kwargs))


def applied(node: Node) -> Applied:
    """The activation that a call is, as a function of its first tensor."""
    kwargs = tuple(sorted((key, item) for key, item in node.kwargs.items() if key not in ("input", "inplace")))
    return Applied(node.function, node.args[1:], kwargs)


def _same(one: Any, other: Any) -> bool:
    """Whether two activations are one function: the same call, or modules of one class with the same settings."""
    if isinstance(one, nn.Module) and type(one) is type(other):
        return one.extra_repr() == other.extra_repr()
    return one == other
