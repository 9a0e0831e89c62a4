"""Predicts how a signal and its gradient travel through a model, from what is known of its weights: no weight is looked at.

Mean-field theory, layer by layer over the traced graph: forward the second moments and what two inputs have in common, backward the
second moment of a gradient that is standard normal at the output.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.model.clone import shadow_of
from modelfactory.numerics.fixed_point import depth_scale
from modelfactory.numerics.gaussian_moments import correlation
from modelfactory.signal_propagation.graph import Graph, Node, trace
from modelfactory.signal_propagation.row import Numbers, Row
from modelfactory.signal_propagation.rules.activations import response_of
from modelfactory.signal_propagation.rules.base import Context, arguments
from modelfactory.signal_propagation.rules.table import PARTS, PERMUTES, SHAPING, rule_of
from modelfactory.signal_propagation.state import Gradient, Input, NotPredicted, State, Weights, flat
from modelfactory.signal_propagation.table import SignalTable
from modelfactory.signal_propagation.verdict import judge

_BATCH = 64  # inputs at once, where nothing says how many


@dataclass
class Predicted:
    """States by node.

    Attributes:
        states: of each node's output.
        gradients: of the loss, here a sum weighted by standard normal numbers, by each node's output.
        notes: what is to be said of a node, such as why it is not predicted.
    """

    states: list[State]
    gradients: list[Gradient | None]
    notes: dict[int, str] = field(default_factory=dict)


def predict(
    model: nn.Module,
    incoming: Any,
    moments: Mapping[str, tuple[float, float]] | None = None,
    data: Input | None = None,
    batch: int | None = None,
) -> SignalTable:
    """A table of what is to be expected of each layer, before there are data or, on the meta device, weights.

    Args:
        model: on any device; on the meta device nothing is allocated.
        incoming: an example input or a tuple of them, or the shape of one, batch first. Its numbers do not matter.
        moments: mean and std of each parameter by name; of those that it leaves out, or gives as NaN, the values are asked.
        data: what is known of the inputs; None: independent standard normal numbers.
        batch: inputs at once, for norms over the batch; None: as many as `incoming` has, 64 if it is on the meta device.

    Example:
        >>> model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
        >>> table = predict(model, torch.empty(64, 256), {"0.weight": (0, 1 / 16), "2.weight": (0, 2**0.5 / 16)})
        >>> [round(row.predicted.forward, 2) for row in table]
        [1.0, 0.71, 1.0]
    """
    if isinstance(incoming, (torch.Size, list)) or isinstance(incoming, tuple) and all(isinstance(n, int) for n in incoming):
        incoming = torch.empty(tuple(incoming), device="meta")
    graph = trace_on_meta(model, incoming)
    first = next((tensor for tensor in _tensors(incoming)), None)
    if batch is None:
        batch = _BATCH if first is None or first.is_meta else first.shape[0]
    context = Context(graph, Weights(moments, model), batch)
    with torch.no_grad(), torch.device("cpu"):
        return tabulate(context, follow(context, data or Input()))


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [t for item in value for t in _tensors(item)] if isinstance(value, tuple) else []


def trace_on_meta(model: nn.Module, incoming: Any) -> Graph:
    """The model's graph, by a run on the meta device, in the modes (training or not) that the modules are in."""
    arguments = incoming if isinstance(incoming, tuple) else (incoming,)
    double = model
    if any(not tensor.is_meta for tensors in (model.parameters(), model.buffers()) for tensor in tensors):
        double, _ = shadow_of(model)
    example = tuple(torch.empty(t.shape, dtype=t.dtype, device="meta") if isinstance(t, Tensor) else t for t in arguments)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        graph, _ = trace(double, example)
    return graph


def follow(context: Context, data: Input, measured: Mapping[int, State] | None = None) -> Predicted:
    """Goes through the graph, forward and back.

    Args:
        measured: states by node, from which to go on where a call is not predicted; without one, from a second moment of 1.
    """
    found = Predicted([], [])
    for node in context.graph:
        found.states.append(_forward(context, node, data, found, measured or {}))
    found.gradients = [None] * len(context.graph)
    for index in context.graph.outputs:
        found.gradients[index] = Gradient(flat(1.0, max(len(context.graph.nodes[index].shape), 1)))
    for node in reversed(context.graph.nodes):
        _backward(context, node, found)
    return found


def _forward(context: Context, node: Node, data: Input, found: Predicted, measured: Mapping[int, State]) -> State:
    if node.op == "input":
        return data.state(len(node.shape))
    try:
        rule, node = rule_of(node)
        return rule.forward(context, node, [found.states[index] for index in node.inputs])
    except NotPredicted as reason:
        if node.index in measured:
            found.notes[node.index] = f"not predicted ({reason}): goes on from what was measured"
            return measured[node.index]
        found.notes[node.index] = f"not predicted ({reason}): goes on from a second moment of 1"
        return Input().state(max(len(node.shape), 1))


def _backward(context: Context, node: Node, found: Predicted) -> None:
    gradient = found.gradients[node.index]
    if gradient is None or node.op == "input":
        return
    states = [found.states[index] for index in node.inputs]
    try:
        rule, node = rule_of(node)
        passed = rule.backward(context, node, states, found.states[node.index], gradient)
    except NotPredicted:
        shapes = [context.graph.nodes[index].shape for index in node.inputs]
        passed = [Gradient(flat(gradient.second, max(len(shape), 1)), 0.0, gradient.chance) for shape in shapes]
    for index, part in zip(node.inputs, passed, strict=False):
        if part is not None:
            found.gradients[index] = _added(found.gradients[index], part)


def _added(one: Gradient | None, other: Gradient) -> Gradient:
    """The gradient of something used twice: both parts are independent, as they came by different weights."""
    if one is None:
        return other
    same = one.power.ndim == other.power.ndim
    power = one.power + other.power if same else one.power + other.second
    share = one.second / power.mean().item() if power.mean() > 0 else 0.5
    rest = 1 - share
    return Gradient(power, share * one.far + rest * other.far, share**2 * one.chance + rest**2 * other.chance)


def tabulate(context: Context, found: Predicted) -> SignalTable:
    """The table's rows: everything that does something to the numbers."""
    rows = []
    start = found.states[0]
    for node in context.graph:
        if not is_shown(node):
            continue
        numbers = Numbers() if node.index in found.notes else _numbers(context, node, found)
        rows.append(
            Row(
                node.index,
                node.layer,
                node.label,
                _kind(node),
                node.shape,
                numbers,
                chance=_chance(node, found),
                note=found.notes.get(node.index, ""),
                **_scales(context, node, found),
            )
        )
    return judge(SignalTable(rows, math.sqrt(max(start.second, 0.0)), start.cosines[2]), context.graph)


def is_shown(node: Node) -> bool:
    """Whether a node is a row of the table: not the input, and nothing that only arranges."""
    if node.op == "input" or not node.floating or node.op in SHAPING | PARTS | PERMUTES:
        return False
    return not (node.op.startswith("dropout") and not node.training)


def _kind(node: Node) -> str:
    if node.op.startswith("conv") or node.op in ("linear", "embedding"):
        return "weights"
    return "norm" if node.op.endswith("norm") else node.op


def _chance(node: Node, found: Predicted) -> tuple[float, float]:
    """One standard deviation of the logs of the two second moments over draws of the weights."""
    state, gradient = found.states[node.index], found.gradients[node.index]
    return math.sqrt(state.chance + state.own), math.nan if gradient is None else math.sqrt(gradient.chance)


def _scales(context: Context, node: Node, found: Predicted) -> dict[str, Any]:
    """chi_1 and the depth scales of weights together with the activation before them."""
    if _kind(node) != "weights" or node.op == "embedding" or node.index in found.notes:
        return {}
    index = node.inputs[0]
    after = found.states[index]
    while context.graph.nodes[index].op in SHAPING | PERMUTES | PARTS and context.graph.nodes[index].inputs:
        index = context.graph.nodes[index].inputs[0]
    before = context.graph.nodes[index]
    if before.op != "activation" or after.second <= 0:
        return {}
    state = found.states[before.inputs[0]]
    response = response_of(before, state)
    weight = (found.states[node.index].second - _bias_power(context, node)) / after.second
    if state.variance <= 0:
        return {"chi_1": weight * response.slope}
    together = response.slopes_together(state.correlations[2])
    return {
        "chi_1": weight * response.slope,
        "xi_q": depth_scale(weight * response.growth * response.second / state.variance),
        "xi_c": depth_scale(weight * together),
    }


def _bias_power(context: Context, node: Node) -> float:
    bias = arguments(node, ("input", "weight", "bias"))["bias"]
    if bias is None:
        return 0.0
    mean, variance = context.weights.moments(bias.name, bias.tensor)
    return mean * mean + variance


def _numbers(context: Context, node: Node, found: Predicted) -> Numbers:
    state, gradient = found.states[node.index], found.gradients[node.index]
    saturated = dead = math.nan
    if node.op == "activation":
        before = found.states[node.inputs[0]]
        response = response_of(node, before)
        saturated, dead = response.saturated, _dead(context, node, before, response.inactive)
    return Numbers(
        forward=math.sqrt(max(state.second, 0.0)),
        gradient=math.nan if gradient is None else math.sqrt(max(gradient.second, 0.0)),
        mean=state.mean,
        cosine=state.cosines[2],
        saturated=saturated,
        dead=dead,
    )


def _dead(context: Context, node: Node, before: State, inactive: float) -> float:
    """The share of units off for all inputs of a batch: `E Phi((t - sqrt(r) z)/sqrt(1 - r))^M`, `Phi(t)` the share of what is off."""
    if not 0 < inactive < 1:
        return math.nan if inactive == 0 else 1.0
    count = context.batch * context.places(node, before.unit)
    pair = before.pairs[3 if count > context.batch else 2].item()
    r = min(max(correlation(pair, before.mean, before.variance), 0.0), 1 - 1e-9)
    edge = torch.special.ndtri(torch.tensor(inactive, dtype=torch.float64))
    z = torch.special.ndtri((torch.arange(512, dtype=torch.float64) + 0.5) / 512)
    return (torch.special.ndtr((edge - math.sqrt(r) * z) / math.sqrt(1 - r)) ** count).mean().item()
