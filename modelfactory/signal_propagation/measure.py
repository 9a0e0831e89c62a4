"""Measures on one batch what is predicted: one pass forward and one back, a norm and a sum a layer, and one wait for the device.

The gradient is that of the model's output times standard normal numbers, so that no loss and no targets are needed. Its
way back ends at the first layers: no parameter gets a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor as is_wrapped  # of torch.func, whose numbers do not outlive it
from torch.autograd.graph import GradientEdge, get_gradient_edge

from modelfactory.config.errors import contained
from modelfactory.signal_propagation.axes import unit_of_input
from modelfactory.signal_propagation.graph import SignalGraph, SignalNode, call_of, results, tensors, trace, walk
from modelfactory.signal_propagation.keeping import buffers_kept, random_state_of
from modelfactory.signal_propagation.masking import HIDDEN, WEIGHING, is_mask
from modelfactory.signal_propagation.rules.table import RULES
from modelfactory.signal_propagation.state import KINDS, Input, State

_SAMPLED = 32  # inputs whose outputs are looked at one by one


@dataclass
class Measured:
    """What a batch showed, by node.

    Attributes:
        graph: of the run.
        batch: how many inputs there were.
        data: what the (first) input was like.
        second, mean, other: of the output: second moment, mean, and mean product of one place of two inputs; without what a
            mask hides.
        gradient: second moment of the gradient by the output.
        effect: what changes of places by a share of each do to the loss: the sum of the squares of signal times gradient, a unit.
        gradient_far: of what no rule leads a gradient to, the mean product of it at two places, by node and dimension of the units.
        sums: of the output over the batch, where asked for.
        states: full states, of inputs and of what no rule predicts, for each dimension that the units may lie in.
        stopped: what a gradient does not go back through: detached, or computed without gradients.
        samples: some outputs and gradients, where histograms were asked for.
        output: what the model returned, without its graph; None where it is more than one tensor.
        logits: of what it returned the tensor that a loss is of, and its place among all; None where that cannot be told.
        failures: what could not be looked at, each with its place and the reason.
    """

    graph: SignalGraph = field(default_factory=SignalGraph)
    batch: int = 0
    data: Input = field(default_factory=Input)
    second: dict[int, float] = field(default_factory=dict)
    mean: dict[int, float] = field(default_factory=dict)
    other: dict[int, float] = field(default_factory=dict)
    gradient: dict[int, float] = field(default_factory=dict)
    effect: dict[int, float] = field(default_factory=dict)
    gradient_far: dict[tuple[int, int], float] = field(default_factory=dict)
    sums: dict[int, Tensor] = field(default_factory=dict)
    parts: dict[int, Tensor] = field(default_factory=dict)
    states: dict[int, tuple[State, ...]] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)
    samples: dict[int, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    output: Any = None
    logits: tuple[Tensor, int] | None = None
    failures: list[str] = field(default_factory=list)


def measure(model: nn.Module, example: Any, seed: int = 0, histograms: bool = False) -> Measured:
    """Runs the model on a batch, in the mode it is in, and back from its output.

    Parameters, gradients, buffers (running statistics), hooks, modes and global random state are afterwards as they were,
    also when the model fails. What the model raises comes out; what looking at it raises is kept in `failures`.

    Args:
        model: any module, on the device of the batch.
        example: a batch, a tuple of positional arguments, or a mapping of named ones.
        seed: of the numbers that the output is weighted by.
        histograms: keep some of the outputs and gradients of activations.

    Example:
        >>> found = measure(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(8, 4))
        >>> sorted(found.second), sorted(found.gradient)
        ([0, 1, 2], [1, 2])
    """
    args, kwargs = call_of(example)
    given = {id(tensor): _leaf(tensor) for tensor in tensors((args, kwargs))}
    if not given:
        raise ValueError("the example has no tensor")
    leaves = [given[id(tensor)] for tensor in tensors((args, kwargs))]
    first = leaves[0]
    with torch.inference_mode(False), torch.enable_grad(), random_state_of(first.device, seed), buffers_kept(model):
        # a copy of each, since a forward may overwrite what it is given
        copies = {key: leaf.clone() if leaf.requires_grad else leaf for key, leaf in given.items()}
        own = _replaced((args, kwargs), copies)
        collector = _Collector(first.shape[0] if first.ndim else 1, histograms)
        graph, output = trace(model, own[1] or own[0], collector)
        with contained("the gradient of the model", collector.failures):
            collector.go_back(graph, results(output), leaves)
        found = collector.result(graph, leaves)
    found.output = output.detach() if isinstance(output, Tensor) else None
    found.logits = _logits(output)
    return found


def _logits(output: Any) -> tuple[Tensor, int] | None:
    every, made = tensors(output), [tensor for tensor in results(output) if tensor.is_floating_point()]
    if len(made) != 1 and not (made and isinstance(output, tuple)):
        return None
    return made[0].detach(), next((place for place, tensor in enumerate(every) if tensor is made[0]), 0)


def _leaf(tensor: Tensor) -> Tensor:
    """The same numbers in a tensor of our own that a gradient can reach."""
    return tensor.detach().requires_grad_() if tensor.is_floating_point() or tensor.is_complex() else tensor


def _replaced(value: Any, by: dict[int, Tensor]) -> Any:
    """Nested arguments with other tensors in them; what an object of another kind holds stays as it is."""
    if isinstance(value, Tensor):
        return by[id(value)]
    if type(value) in (tuple, list):
        return type(value)(_replaced(item, by) for item in value)
    return {key: _replaced(item, by) for key, item in value.items()} if type(value) is dict else value


class _Collector:
    """Takes the statistics of each output at once, as numbers that stay on the device."""

    def __init__(self, batch: int, histograms: bool):
        self._batch, self._histograms = batch, histograms
        self._scalars: dict[tuple[str, int], Tensor] = {}
        self._sizes: dict[int, int] = {}
        self._pairs: dict[int, int] = {}  # how many inputs the sums over the batch are of
        self._places: dict[int, Tensor] = {}  # the norm of every place
        self._edges: dict[int, GradientEdge] = {}
        self._live: set[int] = set()  # nodes that a gradient can reach
        self._masked: set[int] = set()  # nodes some of whose entries a mask hides
        self._continued: set[int] = set()  # nodes that no rule leads a gradient to
        self._handles: list[Any] = []
        self._found = Measured(batch=batch)
        self.failures = self._found.failures

    def __call__(self, node: SignalNode, output: Tensor) -> None:
        number = node.index
        if any(index in self._live for index in node.inputs) and not output.requires_grad:
            self._found.stopped.add(number)
        if output.requires_grad:
            self._live.add(number)
            if node.op != "input":
                self._edges[number] = get_gradient_edge(output)
        if not output.is_floating_point() or output.numel() == 0 or is_wrapped(output):
            return
        values = output.detach()
        self._sizes[number] = values.numel()
        if self._is_masked(node):
            self._look_behind_mask(number, values)
        else:
            together = self._over_inputs(number, values)
            self._places[number] = _by_place(values)
            self._scalars["norm", number] = torch.linalg.vector_norm(self._places[number]).float()
            self._scalars["sum", number] = together.sum()
            self._scalars["together", number] = torch.linalg.vector_norm(together)
            if node.op == "activation":
                self._found.sums[number] = together
                self._found.parts[number] = values[:_SAMPLED].clone()
            if node.op != "input" and node.op.removeprefix("_") not in RULES:
                self._found.states[number] = tuple(state_of(values, unit) for unit in sorted({1, values.ndim - 1}))
                self._continued.update(node.inputs)
        if output.requires_grad and node.op != "input":
            self._handles.append(output.register_hook(self._gradient_of(number)))

    def _over_inputs(self, number: int, values: Tensor) -> Tensor:
        """The sum over the batch, also where windows or heads are folded into its dimension."""
        batch, shape = self._batch, values.shape
        if values.ndim > 1 and shape[0] != batch and shape[1] == batch:
            self._pairs[number] = batch
            return values.sum(1, dtype=torch.float32)
        if values.ndim and shape[0] % batch == 0:
            self._pairs[number] = batch
            return values.reshape(batch, -1, *shape[1:]).sum(0, dtype=torch.float32)
        self._pairs[number] = 1
        return values.to(torch.float32)

    def _is_masked(self, node: SignalNode) -> bool:
        """Whether a call hides entries: by a number, or a constant, so far below all others that softmax makes 0 of it."""
        if node.op in WEIGHING:
            return False
        if any(index in self._masked for index in node.inputs):
            return True
        return any(isinstance(item, float) and item <= HIDDEN or is_mask(item) for item in walk((node.args, node.kwargs)))

    def _look_behind_mask(self, number: int, values: Tensor) -> None:
        shown = values > HIDDEN
        self._masked.add(number)
        kept = torch.where(shown, values, torch.zeros_like(values)).float()
        self._scalars["count", number] = shown.sum()
        self._scalars["norm", number], self._scalars["sum", number] = _norm(kept), kept.sum()

    def _gradient_of(self, number: int) -> Any:
        def look(gradient: Tensor) -> None:
            with contained(f"the gradient by call {number}", self.failures):
                places = _by_place(gradient)
                self._scalars["gradient", number] = torch.linalg.vector_norm(places).float()
                if number in self._places:
                    self._scalars["effect", number] = torch.linalg.vector_norm(places * self._places.pop(number)).float()
                if number in self._continued and gradient.ndim > 2:
                    for dim in {1, gradient.ndim - 1}:
                        self._scalars[f"far {dim}", number] = torch.linalg.vector_norm(_over_places(gradient, dim))
                if self._histograms and number in self._found.parts:
                    self._found.samples[number] = (self._found.parts[number], gradient[:_SAMPLED].detach().clone())

        return look

    def go_back(self, graph: SignalGraph, outputs: list[Tensor], leaves: list[Tensor]) -> None:
        """Goes back from outputs that are weighted by standard normal numbers."""
        outputs = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in outputs if tensor.requires_grad]
        ends = self._ends(graph) or [leaf for leaf in leaves if leaf.requires_grad]
        try:
            if outputs and ends:
                # a number to go back from: giving autograd gradients to start with imports sympy, half a second
                weighted = [(tensor * torch.randn(tensor.shape, device=tensor.device)).sum().float() for tensor in outputs]
                torch.autograd.grad(torch.stack(weighted).sum(), ends, allow_unused=True)
        finally:
            for handle in self._handles:
                handle.remove()

    def _ends(self, graph: SignalGraph) -> list[Any]:
        """Where the way back ends: the outputs of the first calls that a gradient can reach, before which there is none to measure."""
        ends, reached = [], set[int]()
        for node in graph:
            goes_on = any(index in reached for index in node.inputs)
            if node.index in self._edges and not goes_on:
                ends.append(self._edges[node.index])
            if node.index in self._edges or goes_on:
                reached.add(node.index)
        return ends

    def result(self, graph: SignalGraph, leaves: list[Tensor]) -> Measured:
        found = self._found
        found.graph = graph
        found.failures[:0] = graph.failures
        for index, leaf in enumerate(leaves):
            with contained(f"input {index}", found.failures):
                unit = unit_of_input(graph, index)
                described = describe_input(leaf, unit)
                if leaf.is_floating_point():
                    found.states[index] = (described.state(leaf.ndim),)
                if index == 0:
                    found.data = described
        keys = list(self._scalars)
        values = torch.stack([self._scalars[key].to(torch.float32) for key in keys]).tolist() if keys else []
        known = dict(zip(keys, values, strict=True))
        for (what, number), value in known.items():
            size = known.get(("count", number), self._sizes[number]) or math.nan
            if what == "norm":
                found.second[number] = value**2 / size
            elif what == "sum":
                found.mean[number] = value / size
            elif what == "gradient":
                found.gradient[number] = value**2 / self._sizes[number]
            elif what == "effect":
                found.effect[number] = value**2 / _units(graph.nodes[number].shape)
            elif what == "together" and self._pairs[number] > 1:
                count = self._pairs[number]
                found.other[number] = (value**2 - known["norm", number] ** 2) / (size * (count - 1))
            elif what.startswith("far "):
                dim = int(what.removeprefix("far "))
                places = math.prod(graph.nodes[number].shape[1:]) // graph.nodes[number].shape[dim]
                if places > 1:
                    far = (value**2 - known["gradient", number] ** 2) / (size * (places - 1))
                    found.gradient_far[number, dim] = far / max(known["gradient", number] ** 2 / size, 1e-300)
        return found


def _over_places(gradient: Tensor, unit: int) -> Tensor:
    """The sum over all dimensions but the batch and the units."""
    return gradient.float().sum([dim for dim in range(1, gradient.ndim) if dim != unit])


def state_of(values: Tensor, unit: int) -> State:
    """The state of a batch of outputs [N, ...], whose units lie in dimension `unit`, as it is.

    Example:
        >>> state = state_of(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), 1)
        >>> state.second, state.mean, state.cosines[2]
        (1.0, 0.5, 0.0)
    """
    x = values.detach().to(torch.float64 if values.device.type == "cpu" else torch.float32)
    if x.ndim < 2:
        x = x.reshape(1, -1)
    unit = min(unit, x.ndim - 1)
    inputs, units = x.shape[0], x.shape[unit]
    flat = x.movedim(unit, 1).reshape(inputs, units, -1)
    places = flat.shape[2]
    total = (flat * flat).sum()
    by_unit, by_place = flat.sum(2), flat.sum(0)
    whole = by_unit.sum(0)
    other = ((by_place**2).sum() - total) / max(inputs * (inputs - 1) * units * places, 1)
    far = ((by_unit**2).sum() - total) / max(places * (places - 1) * units * inputs, 1)
    rest = (whole**2).sum() - (by_unit**2).sum() - (by_place**2).sum() + total
    apart = rest / max(inputs * (inputs - 1) * places * (places - 1) * units, 1)
    second = total / flat.numel()
    near = _neighbours(x, unit) if places > 1 else second
    if places == 1:
        far, apart = second, other
    numbers = torch.stack([second, flat.mean(), near, far, other, apart]).double().cpu()
    power = numbers[0].reshape((1,) * x.ndim)
    return State(power, numbers[1].item(), numbers[2:], unit)


def _neighbours(x: Tensor, unit: int) -> Tensor:
    """The mean product of entries beside each other, along every dimension of places."""
    dims = [dim for dim in range(1, x.ndim) if dim != unit and x.shape[dim] > 1]
    products = [(x.narrow(dim, 0, x.shape[dim] - 1) * x.narrow(dim, 1, x.shape[dim] - 1)).mean() for dim in dims]
    return torch.stack(products).mean()


def describe_input(values: Tensor, unit: int = 1) -> Input:
    """What a batch of inputs is like; images with their second moment place by place.

    Args:
        unit: the dimension that their units (channels, features) lie in; 0: they are places of one unit.
    """
    if values.ndim < 1 or not values.is_floating_point():
        return Input()
    state = state_of(values, unit) if unit else state_of(values.unsqueeze(1), 1)
    if not math.isfinite(state.second):
        return Input()
    power = None
    if values.ndim > 2:
        power = values.detach().double().square().mean((0, unit) if unit else 0, keepdim=True).cpu()
    scale = 1 / state.second if state.second > 0 else 0.0
    pairs = {kind: value * scale for kind, value in zip(KINDS, state.pairs.tolist(), strict=True)}
    return Input(mean=state.mean, second=state.second, power=power, unit=unit, **pairs)


def _norm(values: Tensor) -> Tensor:
    """The norm, summed in float32 at least."""
    return torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32)).float()


def _unit_of(shape: Sequence[int]) -> int:
    """The dimension that units commonly lie in: 1 of images, the last of tokens."""
    return 1 if len(shape) > 3 else len(shape) - 1


def _units(shape: Sequence[int]) -> int:
    return shape[_unit_of(shape)] if len(shape) > 1 else 1


def _by_place(values: Tensor) -> Tensor:
    """The norm of every place of every input over its units, summed in float32 at least."""
    if values.ndim < 2:
        return values.abs()
    return torch.linalg.vector_norm(values, dim=_unit_of(values.shape), dtype=torch.promote_types(values.dtype, torch.float32))
