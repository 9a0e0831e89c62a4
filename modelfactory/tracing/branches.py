"""Residual branches: sums one of whose terms the others are made of, and what ends each of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelfactory.tracing.graph import Node, Value
from modelfactory.tracing.operators import CONVOLUTIONS
from modelfactory.tracing.steps import BENDS, Steps

_PARTS = frozenset({"chunk", "split", "unbind", "select", "gather", "index_select", "split_with_sizes", "tensor_split", "narrow"})
_ONLY_CARRY = frozenset({"carry"})


@dataclass(eq=False)
class TracedBranch:
    """What is added to a signal that goes around it.

    Attributes:
        node: the sum.
        trunk: the value that the branch begins at.
        term: what is added.
        weights: the parameters of its products of matrices, in the order of the run; gates beside the way left out.
        inside: every parameter that some call of it takes, those of gates, norms and biases too.
        ends: those whose outputs are added, with nothing of another between.
        norm: the scale of the norm between the ends and the sum, None without one.
        layers: how many products of matrices follow each other in it.
        crosses: whether it attends to something beside the trunk, as a decoder does to its encoder.
        width: of what is added.
        stream: the sums that the trunk goes through, as the index of the first of them.
        in_decoder: whether some branch of its stream crosses.
    """

    node: Node
    trunk: Value
    term: Value
    weights: tuple[str, ...]
    inside: frozenset[str]
    ends: tuple[str, ...]
    norm: str | None
    layers: int
    crosses: bool
    width: int
    stream: int = 0
    in_decoder: bool = False


def traced_branches(steps: Steps) -> list[TracedBranch]:
    """The residual branches of a model, in the order of its run.

    A sum is residual where one of its terms is what another is made of, as it is or after one linear projection of its own
    (a shortcut), and the other bends the signal and multiplies it with weights. A linear map beside the signal itself counts if
    it is a full matrix; a filter of each channel alone is a part of one larger filter.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from modelfactory.tracing.read import read
        >>> branches = traced_branches(read(nn.TransformerEncoderLayer(8, 2), torch.zeros(1, 3, 8)).steps)
        >>> [branch.ends for branch in branches]
        [('self_attn.out_proj.weight',), ('linear2.weight',)]
    """
    return _Branches(steps).find()


class _Branches:
    def __init__(self, steps: Steps):
        self.steps = steps
        self._above = self._ancestors()

    def _ancestors(self) -> list[int]:
        """For each value, the values of the signal that it is made of, as bits."""
        above = [0] * len(self.steps.graph.values)
        for node in self.steps.graph.nodes:
            bits = 0
            for value in self.steps.signals(node):
                bits |= above[value.index] | 1 << value.index
            for output in node.outputs:
                above[output.index] = bits
        return above

    def _is_above(self, value: Value, other: Value) -> bool:
        return bool(self._above[other.index] >> value.index & 1)

    def find(self) -> list[TracedBranch]:
        found: list[tuple[TracedBranch, bool, frozenset[int]]] = []
        for node in self.steps.graph.nodes:
            if self.steps.kind(node) == "sum" and self._inner_sum(node.output) is None:
                found += self._of_sum(node)
        inside = [(branch, region) for branch, _, region in found]
        branches = [
            branch
            for branch, scaled, _ in found
            if not (scaled and any(branch.node.index in region for other, region in inside if other.node is not branch.node))
        ]
        self._note_streams(branches)
        return branches

    def _inner_sum(self, value: Value) -> Node | None:
        """The sum that alone takes a value, by which the two are one sum of more terms."""
        while len(value.users) == 1:
            node = value.users[0]
            kind = self.steps.kind(node)
            if kind == "sum" and len(self.steps.signals(node)) > 1:
                return node
            if kind != "carry" or len(node.outputs) != 1 or node.output.numel != value.numel:
                return None
            value = node.output
        return None

    def _terms(self, node: Node) -> Iterator[Value]:
        for value in self.steps.signals(node):
            inner = self.steps.carried(value, _ONLY_CARRY).node
            if inner is not None and self.steps.kind(inner) == "sum" and self._inner_sum(inner.output) is node:
                yield from self._terms(inner)
            else:
                yield value

    def _of_sum(self, node: Node) -> list[tuple[TracedBranch, bool, frozenset[int]]]:
        terms = list(dict.fromkeys(self._terms(node)))
        best: tuple[tuple[int, int], Value, Value, bool, list[tuple[Value, frozenset[int]]]] | None = None
        for term in terms:
            others = [other for other in terms if other is not term]
            for trunk, cost, scaled in self._shortcut(term):
                made = [other for other in others if self._is_above(trunk, other)]
                others = [other for other in others if other not in made]  # the nearest fork decides
                plain = cost == 0 and not scaled
                regions = [(other, region) for other in made if self._bends(region := self._region(trunk, other), plain)]
                if regions:
                    if best is None or (cost, -len(regions)) < best[0]:
                        best = (cost, -len(regions)), term, trunk, scaled, regions
                    break
        if best is None:
            return []
        _, _, trunk, scaled, regions = best
        found = []
        for term, region in _apart(self.steps, regions):
            branch = self._branch(node, trunk, term, region)
            if branch is not None:
                found.append((branch, scaled, region))
        return found

    def _shortcut(self, term: Value) -> Iterator[tuple[Value, int, bool]]:
        """A term and what it is a linear map of, with how many weights and norms lie between, and whether a parameter scales it."""
        cost, scaled, products = 0, False, 0
        value = term
        while True:
            yield value, cost, scaled
            node = value.node
            kind = self.steps.kind(node)
            if node is None or not self._keeps_all(node, kind):
                return
            signals = self.steps.signals(node)
            if len(signals) != 1:
                return
            if kind in ("scale", "shift"):
                scaled = scaled or any(self.steps.labels.pure(item) for item in node.inputs)
            if kind in ("weights", "norm"):
                products += kind == "weights"
                cost += 10 if kind == "weights" else 1
                if products > 1:
                    return
            value = signals[0]

    def _keeps_all(self, node: Node, kind: str) -> bool:
        if kind == "carry":
            if node.op == "getitem":
                index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
                return all(item is None or item is Ellipsis or isinstance(item, slice) for item in index)
            return node.op not in _PARTS
        return kind in ("scale", "shift", "weights", "norm") or (kind in ("mean", "max") and "pool" in node.op)

    def _region(self, trunk: Value, term: Value) -> frozenset[int]:
        """The calls on the way from the trunk to a term."""
        begin = -1 if trunk.node is None else trunk.node.index
        ahead, seen = [term], set[int]()
        while ahead:
            value = ahead.pop()
            node = value.node
            if node is None or value is trunk or node.index <= begin or node.index in seen:
                continue
            if not self._is_above(trunk, value):
                continue
            seen.add(node.index)
            ahead += self.steps.signals(node)
        return frozenset(seen)

    def _bends(self, region: frozenset[int], plain: bool) -> bool:
        """Whether a way is a branch: it multiplies with weights and bends, or (around it the signal itself) has a full matrix."""
        nodes = [self.steps.graph.nodes[index] for index in region]
        kinds = {self._bend_of(node) for node in nodes}
        if "weights" not in kinds:
            return False
        weights = [node for node in nodes if self.steps.kind(node) == "weights"]
        return "bends" in kinds or plain and not all(is_depthwise(self.steps, node) for node in weights)

    def _bend_of(self, node: Node) -> str:
        kind = self.steps.kind(node)
        if kind == "norm" and node.op in ("batch_norm", "instance_norm"):
            return ""
        return "bends" if kind in BENDS else kind

    def _branch(self, node: Node, trunk: Value, terms: tuple[Value, ...], region: frozenset[int]) -> TracedBranch | None:
        ends: list[Node] = []
        norm: str | None = None
        for term in terms:
            found, norm = self._ends(term, region)
            ends += found
        names = [name for end in ends for name in self.steps.weight_names(end)]
        if not names:
            return None
        path = self._path(terms, region)
        order = sorted(index for index in path if self.steps.kind(self.steps.graph.nodes[index]) == "weights")
        weights = [name for index in order for name in self.steps.weight_names(self.steps.graph.nodes[index])]
        width = self._width(ends[-1])
        crosses = self._crosses(trunk, region)
        return TracedBranch(
            node, trunk, terms[0], tuple(dict.fromkeys(weights)), self._inside(region), tuple(dict.fromkeys(names)),
            norm if len(terms) == 1 else None, self._longest(path), crosses, width,
        )  # fmt: skip

    def _inside(self, region: frozenset[int]) -> frozenset[str]:
        labels = self.steps.labels
        taken = (value for index in region for value in self.steps.graph.nodes[index].inputs if labels.pure(value))
        return frozenset(name for value in taken for name in labels[value].mains)

    def _width(self, end: Node) -> int:
        product = self.steps.labels.contractions[end.index]
        weight = next(operand for operand in product.operands if self.steps.labels.pure(operand.value))
        size = 1
        for axis in product.coming_out(weight):
            size *= weight.value.shape[axis]
        return size

    def _ends(self, term: Value, region: frozenset[int]) -> tuple[list[Node], str | None]:
        """The products with weights first met backwards from a term, and the scale of a norm between."""
        ends: list[Node] = []
        norm: str | None = None
        scale: str | None = None
        alone = True
        ahead, seen = [term], set[int]()
        while ahead:
            node = ahead.pop().node
            if node is None or node.index not in region or node.index in seen:
                continue
            seen.add(node.index)
            kind = self.steps.kind(node)
            if kind == "weights":
                ends.append(node)
                continue
            if kind == "scale" and alone:
                pure = [item for item in node.inputs if self.steps.labels.pure(item)]
                scale = next((name for item in pure for name in self.steps.labels[item].mains), scale)
            if kind == "norm" and alone and norm is None:
                norm = norm_scale(self.steps, node) or scale
            follow = self.follow(node, ends_only=True)
            alone = alone and len(follow) == 1
            ahead += follow
        return ends, norm

    def follow(self, node: Node, ends_only: bool = False) -> list[Value]:
        """What of its inputs a call carries on: not the gate by which a signal is multiplied, nor the shares of an attention."""
        steps = self.steps
        kind, signals = steps.kind(node), steps.signals(node)
        if kind == "norm" and (base := steps.normalised_in(node)) is not None:
            return [base]
        if kind == "mix" and ends_only:
            if node.op == "scaled_dot_product_attention":
                return [node.inputs[2]]
            shares = [value for value in signals if steps.kind(steps.carried(value).node) == "softmax"]
            return [value for value in signals if value not in shares] or signals
        if kind == "product" and len(signals) == 2:
            one, other = signals
            for main, gate in ((one, other), (other, one)):
                if self._is_above(main, gate) or gate.numel < main.numel:
                    return [main]
            if ends_only:
                gates = [value for value in signals if steps.kind(steps.carried(value).node) in ("activation", "softmax")]
                return [value for value in signals if value not in gates] or signals
        return signals

    def _path(self, terms: tuple[Value, ...], region: frozenset[int]) -> frozenset[int]:
        ahead, seen = list(terms), set[int]()
        while ahead:
            node = ahead.pop().node
            if node is not None and node.index in region and node.index not in seen:
                seen.add(node.index)
                ahead += self.follow(node)
        return frozenset(seen)

    def _longest(self, path: frozenset[int]) -> int:
        depth: dict[int, int] = {}
        for index in sorted(path):
            node = self.steps.graph.nodes[index]
            before = [depth.get(value.node.index, 0) for value in self.follow(node) if value.node is not None]
            depth[index] = max(before, default=0) + (self.steps.kind(node) == "weights")
        return max(depth.values(), default=0)

    def _crosses(self, trunk: Value, region: frozenset[int]) -> bool:
        """Whether an attention in the region takes keys from what the trunk is not."""
        steps = self.steps
        for index in region:
            node = steps.graph.nodes[index]
            if steps.kind(node) != "mix":
                continue
            for value in steps.signals(node):
                made = steps.carried(value, frozenset({"carry", "scale", "shift", "norm", "join", "sum"})).node
                if made is None or steps.kind(made) != "weights":
                    continue
                source = steps.signals(made)[0]
                if not self._is_above(trunk, source) and source is not trunk:
                    return True
        return False

    def _note_streams(self, branches: list[TracedBranch]) -> None:
        """Which branches lie on one stream: the trunk of each is the sum of the one before, by steps that keep it."""
        keeps = frozenset({"carry", "scale", "shift", "norm", "mean", "weights", "activation", "max", "bend", "join"})
        streams: dict[int, int] = {}
        for branch in branches:
            before = self.steps.carried(branch.trunk, keeps).node
            known = None if before is None else streams.get(before.index)
            streams[branch.node.index] = branch.stream = branch.node.index if known is None else known
        crossing = {branch.stream for branch in branches if branch.crosses}
        for branch in branches:
            branch.in_decoder = branch.stream in crossing


def _apart(steps: Steps, regions: list[tuple[Value, frozenset[int]]]) -> list[tuple[tuple[Value, ...], frozenset[int]]]:
    """Terms that share weights are one branch."""
    groups: list[tuple[tuple[Value, ...], frozenset[int]]] = []
    for term, region in regions:
        weights = {index for index in region if steps.kind(steps.graph.nodes[index]) == "weights"}
        joined = next((place for place, (_, other) in enumerate(groups) if weights & other), None)
        if joined is None:
            groups.append(((term,), region))
        else:
            terms, other = groups[joined]
            groups[joined] = ((*terms, term), region | other)
    return groups


def norm_scale(steps: Steps, node: Node) -> str | None:
    """The parameter that scales what a norm layer gives, None of one without."""
    weight = {"batch_norm": (3, "weight"), "instance_norm": (3, "weight")}.get(node.op, (2, "weight"))
    value = node.argument(*weight)
    if isinstance(value, Value) and steps.labels.pure(value):
        return next(iter(steps.labels[value].mains))
    return None


def is_depthwise(steps: Steps, node: Node) -> bool:
    """Whether a product with weights is a convolution of each channel alone."""
    product = steps.labels.contractions[node.index]
    return node.op in CONVOLUTIONS and product.groups > 1 and product.groups == node.output.shape[1]
