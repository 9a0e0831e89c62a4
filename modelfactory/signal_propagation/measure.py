"""Measures on one batch what is predicted: one pass forward and one back, a norm and a sum a layer, and one wait for the device.

The gradient is that of the model's output times standard normal numbers, so that no loss and no targets are needed. Its
way back ends at the first layers: no parameter gets a gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from modelfactory.signal_propagation.graph import Graph, Node, tensors, trace
from modelfactory.signal_propagation.rules.table import RULES
from modelfactory.signal_propagation.state import KINDS, Input, State

_SAMPLED = 32  # inputs whose outputs are looked at one by one


@dataclass
class Measured:
    """What a batch showed, by node.

    Attributes:
        graph: of the run.
        batch: how many inputs there were.
        data: what the input was like.
        second, mean, other: of the output: second moment, mean, and mean product of one place of two inputs.
        gradient: second moment of the gradient by the output.
        sums: of the output over the batch, where asked for.
        states: full states, of what no rule predicts.
        samples: some outputs and gradients, where histograms were asked for.
        output: what the model returned, without its graph.
    """

    graph: Graph = field(default_factory=Graph)
    batch: int = 0
    data: Input = field(default_factory=Input)
    second: dict[int, float] = field(default_factory=dict)
    mean: dict[int, float] = field(default_factory=dict)
    other: dict[int, float] = field(default_factory=dict)
    gradient: dict[int, float] = field(default_factory=dict)
    sums: dict[int, Tensor] = field(default_factory=dict)
    parts: dict[int, Tensor] = field(default_factory=dict)
    states: dict[int, State] = field(default_factory=dict)
    samples: dict[int, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    output: Any = None


def measure(model: nn.Module, example: Any, seed: int = 0, histograms: bool = False) -> Measured:
    """Runs the model on a batch, in the mode it is in, and back from its output.

    Parameters, gradients, buffers (running statistics), hooks, modes and global random state are afterwards as they were,
    also when the model fails.

    Args:
        model: any module, on the device of the batch.
        example: a batch, or a tuple of positional arguments.
        seed: of the numbers that the output is weighted by.
        histograms: keep some of the outputs and gradients of activations.

    Example:
        >>> found = measure(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(8, 4))
        >>> sorted(found.second), sorted(found.gradient)
        ([0, 1, 2], [1, 2])
    """
    arguments = tuple(_leaf(value) for value in (example if isinstance(example, tuple) else (example,)))
    first = next((tensor for tensor in tensors(arguments)), None)
    if first is None:
        raise ValueError("the example has no tensor")
    device = first.device
    with torch.inference_mode(False), torch.enable_grad(), _random_state_of(device, seed), _buffers_kept(model):
        collector = _Collector(first.shape[0] if first.ndim else 1, histograms)
        graph, output = trace(model, arguments, collector)
        results = [tensor for tensor in tensors(output) if tensor.requires_grad]
        if results:
            # a number to go back from: giving autograd gradients to start with imports sympy, half a second
            weighted = torch.stack([(tensor * torch.randn(tensor.shape, device=tensor.device)).sum().float() for tensor in results]).sum()
            torch.autograd.grad(weighted, collector.ends(graph, arguments), allow_unused=True)
        found = collector.result(graph)
    found.output = output.detach() if isinstance(output, Tensor) else None
    return found


def _leaf(value: Any) -> Any:
    """The same numbers in a tensor of our own that a gradient can reach."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().requires_grad_()
    return value


@contextmanager
def _random_state_of(device: torch.device, seed: int) -> Iterator[None]:
    """Seeds the CPU and this device alone, and puts back afterwards what was there."""
    on_cpu = device.type == "cpu"
    with torch.random.fork_rng([] if on_cpu else [device], device_type="cuda" if on_cpu else device.type):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if buffer.numel()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, values in kept:
                if not torch.equal(buffer, values) or buffer.isnan().any():
                    buffer.copy_(values)


class _Collector:
    """Takes the statistics of each output at once, as numbers that stay on the device."""

    def __init__(self, batch: int, histograms: bool):
        self._batch, self._histograms = batch, histograms
        self._scalars: dict[tuple[str, int], Tensor] = {}
        self._sizes: dict[int, int] = {}
        self._edges: dict[int, GradientEdge] = {}
        self._found = Measured(batch=batch)

    def __call__(self, node: Node, output: Tensor) -> None:
        if not output.is_floating_point() or output.numel() == 0:
            return
        values = output.detach()
        number = node.index
        over = 1 if values.ndim > 1 and values.shape[0] != self._batch and values.shape[1] == self._batch else 0
        together = values.sum(over, dtype=torch.float32) if values.ndim else values
        self._scalars["norm", number] = _norm(values)
        self._scalars["together", number] = torch.linalg.vector_norm(together)
        self._scalars["sum", number] = together.sum()
        self._sizes[number] = values.numel()
        if node.op == "activation":
            self._found.sums[number] = together
            self._found.parts[number] = values[:_SAMPLED].clone()
        if node.op == "input" and number == 0:
            self._found.data = describe_input(values)
        elif node.op.removeprefix("_") not in RULES:
            self._found.states[number] = state_of(values, 1)
        if output.requires_grad and node.op != "input":
            self._edges[number] = get_gradient_edge(output)
            output.register_hook(self._gradient_of(number))

    def _gradient_of(self, number: int) -> Any:
        def look(gradient: Tensor) -> None:
            self._scalars["gradient", number] = _norm(gradient)
            if self._histograms and number in self._found.parts:
                self._found.samples[number] = (self._found.parts[number], gradient[:_SAMPLED].detach().clone())

        return look

    def ends(self, graph: Graph, arguments: tuple[Any, ...]) -> list[Any]:
        """Where the way back ends: the outputs of the first calls, before which there is nothing to measure."""
        first = [node.index for node in graph if node.op != "input" and all(graph.nodes[i].op == "input" for i in node.inputs)]
        edges: list[Any] = [self._edges[index] for index in first if index in self._edges]
        return edges or [tensor for tensor in tensors(arguments) if tensor.requires_grad]

    def result(self, graph: Graph) -> Measured:
        found = self._found
        found.graph = graph
        if not self._scalars:
            return found
        keys = list(self._scalars)
        values = torch.stack([self._scalars[key].to(torch.float32) for key in keys]).tolist()
        for (what, number), value in zip(keys, values, strict=True):
            size = self._sizes[number]
            if what == "norm":
                found.second[number] = value**2 / size
            elif what == "sum":
                found.mean[number] = value / size
            elif what == "gradient":
                found.gradient[number] = value**2 / size
        for (what, number), value in zip(keys, values, strict=True):
            if what == "together" and self._batch > 1:
                own = found.second[number] * self._sizes[number]
                found.other[number] = (value**2 - own) / (self._sizes[number] * (self._batch - 1))
        return found


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


def describe_input(values: Tensor) -> Input:
    """What a batch of inputs is like; images with their second moment place by place."""
    if values.ndim < 1 or not values.is_floating_point():
        return Input()
    state = state_of(values, 1)
    power = None
    if values.ndim > 2:
        power = values.detach().double().square().mean((0, 1), keepdim=True).cpu()
    second = state.second
    scale = 1 / second if second > 0 else 0.0
    pairs = {kind: value * scale for kind, value in zip(KINDS, state.pairs.tolist(), strict=True)}
    return Input(mean=state.mean, second=second if math.isfinite(second) else 1.0, power=power, **pairs)


def _norm(values: Tensor) -> Tensor:
    """The norm, summed in float32 at least."""
    return torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32)).float()
