"""What each parameter is there for, by what is done with it and with what comes of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from modelfactory.tracing.branches import TracedBranch, is_depthwise
from modelfactory.tracing.fans import stacked_axes
from modelfactory.tracing.graph import Node, Value
from modelfactory.tracing.operators import ATTENTION, RECURRENT
from modelfactory.tracing.packed import Part
from modelfactory.tracing.steps import Steps
from modelfactory.tracing.uses import Use

_TO_PROJECTION = frozenset({"carry", "scale", "shift", "sum", "join", "norm", "write"})
_PLAINLY = frozenset({"carry", "scale", "shift"})
_TO_GATE = _PLAINLY | {"bend"}
_TO_CHOICE = frozenset({"carry", "scale", "shift", "softmax", "activation", "norm", "sum", "bend", "join"})
_TO_OUTPUT = frozenset({"carry", "scale", "shift", "softmax", "activation", "mean", "norm", "max", "join", "bend", "sum"})
_FROM_INPUT = frozenset({"carry", "scale", "shift", "join", "sum", "norm"})
_CHOOSING = frozenset({"topk", "argmax", "argmin", "sort", "argsort", "multinomial"})


@dataclass(eq=False)
class TracedRoles:
    """Roles of parameters, and of the parts of those that pack several matrices.

    Attributes:
        kinds: by parameter, what it is used for first: weight, bias, norm, norm_bias, embedding, scale, activation, recurrent, other.
        more: by parameter, further roles: query, key, value, gate, up, down, router, modulation, head, stem.
        of_parts: by parameter, for each of its parts its name: query, key, value, gate, up, or "" where it has none.
    """

    kinds: dict[str, str] = field(default_factory=dict)
    more: dict[str, list[str]] = field(default_factory=dict)
    of_parts: dict[str, list[str]] = field(default_factory=dict)

    def roles(self, name: str) -> list[str]:
        return self.more.get(name, [])


def traced_roles(steps: Steps, uses: dict[str, list[Use]], parts: dict[str, list[Part]], branches: Sequence[TracedBranch]) -> TracedRoles:
    """The roles of every parameter that takes part in the run.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from modelfactory.tracing.read import read
        >>> found = read(nn.TransformerEncoderLayer(8, 2), torch.zeros(1, 3, 8)).roles
        >>> found.kinds["self_attn.in_proj_weight"], found.of_parts["self_attn.in_proj_weight"]
        ('weight', ['query', 'key', 'value'])
    """
    return _Reader(steps, uses, parts, branches).read()


class _Reader:
    def __init__(self, steps: Steps, uses: dict[str, list[Use]], parts: dict[str, list[Part]], branches: Sequence[TracedBranch]):
        self.steps, self.parts = steps, parts
        self.found = TracedRoles(kinds={name: _first_kind(items) for name, items in uses.items()})
        self._sums = {branch.node.index for branch in branches}
        self._by_value: dict[int, list[tuple[str, int]]] = {}
        for name, items in parts.items():
            self.found.of_parts[name] = [""] * len(items)
            for place, part in enumerate(items):
                for value in part.values:
                    self._by_value.setdefault(value.index, []).append((name, place))

    def read(self) -> TracedRoles:
        for node in self.steps.graph.nodes:
            kind = self.steps.kind(node)
            if node.op in ATTENTION:
                query, key, value = node.inputs[:3]
                self._name(((query, "query"), (key, "key"), (value, "value")))
            elif kind == "softmax":
                self._attention(node)
            elif kind == "product":
                self._gated(node)
                self._modulated(node)
                self._routed(node)
            elif kind == "glu":
                self._halved(node)
            elif node.op in _CHOOSING:
                self._note(self._projections(node.inputs[0], _TO_CHOICE), "router")
            elif kind == "mix":
                self._routed_mix(node)
        self._ends()
        return self.found

    # Walks

    def _projections(self, value: Value, kinds: frozenset[str], depthwise: bool = True) -> list[tuple[Node, set[int]]]:
        """The products with weights that a value comes from by steps of these kinds, each with the values on the way."""
        found: list[tuple[Node, set[int]]] = []
        seen: set[int] = set()
        ahead = [value]
        while ahead:
            item = ahead.pop()
            if item.index in seen:
                continue
            seen.add(item.index)
            node = item.node
            kind = self.steps.kind(node)
            if node is None or node.index in self._sums:
                continue
            if kind == "weights" and not (depthwise and is_depthwise(self.steps, node)):
                found.append((node, seen))
            elif kind == "weights" or kind in kinds:
                base = self.steps.normalised_in(node) if kind == "norm" else None
                ahead += [base] if base is not None else self.steps.signals(node)
        return found

    def _note(self, projections: Iterable[tuple[Node, set[int]]], role: str) -> None:
        """Gives a role to the weights of projections, or to the parts of them that lie on the way."""
        for node, seen in projections:
            for name in self.steps.weight_names(node):
                met = {place for index in seen for owner, place in self._by_value.get(index, ()) if owner == name}
                if name in self.parts and role not in ("router", "modulation", "head", "stem", "down"):
                    for place in met:
                        self.found.of_parts[name][place] = role
                    continue
                roles = self.found.more.setdefault(name, [])
                if role not in roles:
                    roles.append(role)

    def _name(self, pairs: Iterable[tuple[Value, str]]) -> None:
        for value, role in pairs:
            if self.steps.labels.signal(value):
                self._note(self._projections(value, _TO_PROJECTION), role)

    # Attention written out: scores, a softmax, and the mean by its shares

    def _attention(self, node: Node) -> None:
        scores = self._scores(node)
        if scores is None:
            return
        values = []
        ahead = [node.output]
        while ahead:
            for user, taken in self.steps.uses(ahead.pop(), frozenset({"carry", "scale", "shift", "norm", "activation"})):
                if self.steps.kind(user) == "mix":
                    values += [item for item in self.steps.signals(user) if item is not taken]
                elif self.steps.kind(user) == "weights" and self._mixes_heads(user):
                    ahead.append(user.output)
        if not values:
            return
        product = self.steps.labels.contractions[scores.index]
        signals = [operand for operand in product.operands if self.steps.labels.signal(operand.value)]
        dim = node.argument(1, "dim", -1)
        dim = -1 if not isinstance(dim, int) or len(node.output.shape) != len(product.output) else dim
        letter = product.output[dim]
        keys = [operand for operand in signals if letter in operand.letters]
        if len(keys) != 1 or len(signals) != 2:
            return
        query = next(operand for operand in signals if operand is not keys[0])
        self._name([(query.value, "query"), (keys[0].value, "key"), *((value, "value") for value in values)])

    def _scores(self, node: Node) -> Node | None:
        """The product of two signals of which a softmax takes shares."""
        ahead, seen = list(self.steps.signals(node)), set[int]()
        while ahead:
            made = ahead.pop().node
            if made is None or made.index in seen:
                continue
            seen.add(made.index)
            kind = self.steps.kind(made)
            if kind == "mix" and made.index in self.steps.labels.contractions:
                return made
            if kind in ("carry", "scale", "shift", "sum", "activation", "join", "bend", "norm", "product"):
                ahead += self.steps.signals(made)
            if kind == "weights" and len(self.steps.signals(made)) == 1 and self._mixes_heads(made):
                ahead += self.steps.signals(made)
        return None

    def _mixes_heads(self, node: Node) -> bool:
        """Whether weights act on the heads of scores, and not on features: a small square matrix."""
        weight = self.steps.weight(node)
        return weight is not None and len(set(weight.shape)) == 1 and weight.shape[0] <= 64

    # Products of two signals

    def _gated(self, node: Node) -> None:
        """A gated unit: one projection through an activation times another, and the projection of the product."""
        one, other = self.steps.signals(node)
        if one.numel != other.numel:
            return
        for gate, plain in ((one, other), (other, one)):
            bent = self.steps.carried(gate).node
            if self.steps.kind(bent) != "activation" or bent is None:
                continue
            source = self.steps.source.get(bent.output.index) or self.steps.signals(bent)[0]
            gates, ups = self._projections(source, _TO_GATE), self._projections(plain, _TO_GATE)
            if gates and ups and self._different(gates, ups):
                self._note(gates, "gate")
                self._note(ups, "up")
                self._downs(node)
                return

    def _different(self, gates: Sequence[tuple[Node, set[int]]], ups: Sequence[tuple[Node, set[int]]]) -> bool:
        """Whether they are two projections, or two parts of one."""
        if {node.index for node, _ in gates} != {node.index for node, _ in ups}:
            return True
        names = {name for node, _ in gates for name in self.steps.weight_names(node)}
        return any(name in self.parts for name in names)

    def _downs(self, node: Node) -> None:
        for user, _ in self.steps.uses(node.output):
            if self.steps.kind(user) == "weights":
                self._note([(user, set())], "down")

    def _halved(self, node: Node) -> None:
        for name in {name for found, _ in self._projections(node.inputs[0], _PLAINLY) for name in self.steps.weight_names(found)}:
            for place, part in enumerate(self.parts.get(name, ())):
                named = next((value.name for value in part.values if value.node is node and value.name), None)
                if named is not None:
                    self.found.of_parts[name][place] = named
        self._downs(node)

    def _modulated(self, node: Node) -> None:
        """A normalised signal that is scaled by a projection of another: adaLN, FiLM."""
        one, other = self.steps.signals(node)
        for main, scale in ((one, other), (other, one)):
            if scale.numel <= main.numel and self.steps.kind(self.steps.carried(main).node) == "norm":
                made = self.steps.carried(scale).node
                if made is not None and self.steps.kind(made) == "weights":
                    self._note([(made, set())], "modulation")

    def _routed(self, node: Node) -> None:
        """Shares of a softmax by which the outputs of stacked experts are weighed."""
        one, other = self.steps.signals(node)
        for main, shares in ((one, other), (other, one)):
            stacks = stacked_axes(self.steps)
            axes = self.steps.labels[main].layout.axes
            of_stack = any(axis and all(atom.dim in stacks for atom in axis) for axis in axes)
            if of_stack and self.steps.kind(self.steps.carried(shares).node) in ("softmax", "activation"):
                self._note(self._projections(shares, _TO_CHOICE), "router")

    def _routed_mix(self, node: Node) -> None:
        product = self.steps.labels.contractions.get(node.index)
        signals = [] if product is None else [operand for operand in product.operands if self.steps.labels.signal(operand.value)]
        if product is None or len(signals) != 2:
            return
        for shares, main in (signals, signals[::-1]):
            letters = {shares.letters[axis] for axis in product.summed(shares)}
            axes = self.steps.labels[main.value].layout.axes
            pairs = zip(main.letters, axes, strict=True)
            summed = [axis for letter, axis in pairs if letter in letters and axis]
            stacked = summed and all(atom.dim in stacked_axes(self.steps) for axis in summed for atom in axis)
            if stacked and self.steps.kind(self.steps.carried(shares.value).node) == "softmax":
                self._note(self._projections(shares.value, _TO_CHOICE), "router")

    # First and last

    def _ends(self) -> None:
        for value in self.steps.graph.outputs:
            last = self._projections(value, _TO_OUTPUT, depthwise=False)
            self._note([(node, seen) for node, seen in last if self._is_last(node)], "head")
        for node in self.steps.graph.nodes:
            kind = self.steps.kind(node)
            if kind == "weights" and self._is_first(node):
                self._note([(node, set())], "stem")
            elif kind in ("lookup", "recurrent"):
                index = node.inputs[0]
                if self.steps.labels.signal(index) and self._is_first(node):
                    for value in self._taking_the_input(node):
                        for name in sorted(self.steps.labels[value].mains):
                            roles = self.found.more.setdefault(name, [])
                            roles += [] if "stem" in roles else ["stem"]

    def _taking_the_input(self, node: Node) -> list[Value]:
        """Of the weights of a lookup or a recurrent layer, those that act on its input and not on its state."""
        if node.op not in RECURRENT:
            return node.inputs[1:]
        names = [(value, name.rpartition(".")[2]) for value in node.inputs[1:] for name in self.steps.labels[value].mains]
        return [value for value, attr in names if "_hh" not in attr and ("_l" not in attr or "_l0" in attr)]

    def _is_last(self, node: Node) -> bool:
        """Whether no weights see what a call gives."""
        ahead, seen = list(node.outputs), set[int]()
        while ahead:
            for user in ahead.pop().users:
                if user.index in seen:
                    continue
                seen.add(user.index)
                if self.steps.kind(user) in ("weights", "recurrent", "lookup"):
                    return False
                ahead += user.outputs
        return True

    def _is_first(self, node: Node) -> bool:
        """Whether a call takes the model's input, with nothing but views and norms between."""
        ahead, seen = list(self.steps.signals(node)), set[int]()
        while ahead:
            value = ahead.pop()
            if value.index in seen:
                continue
            seen.add(value.index)
            if value.kind == "input":
                return True
            if value.node is None or self.steps.kind(value.node) not in _FROM_INPUT:
                return False
            ahead += self.steps.signals(value.node)
        return False


def _first_kind(items: Sequence[Use]) -> str:
    kinds = [item.kind for item in items]
    for kind in ("embedding", "weight", "recurrent"):
        if kind in kinds and (kind != "embedding" or any(item.node.op.startswith("embedding") for item in items) or kinds[0] == kind):
            return kind
    return kinds[0]
