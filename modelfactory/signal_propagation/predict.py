"""Predicts how a signal and its gradient travel through a model, from what is known of its weights: no weight is looked at.

Mean-field theory, layer by layer over the traced graph: forward the second moments and what two inputs have in common, backward the
second moment of a gradient that is standard normal at the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from modelfactory.config.errors import contained, first_line
from modelfactory.model.clone import shadow_of
from modelfactory.numerics.fixed_point import depth_scale
from modelfactory.numerics.gaussian_moments import NotPredicted, correlation
from modelfactory.signal_propagation.axes import unit_of_input
from modelfactory.signal_propagation.fusing import between
from modelfactory.signal_propagation.graph import SignalGraph, SignalNode, call_of, tensors, trace
from modelfactory.signal_propagation.row import Numbers, SignalRow
from modelfactory.signal_propagation.rules.activations import response_of
from modelfactory.signal_propagation.rules.base import Context, arguments
from modelfactory.signal_propagation.rules.reshape import unit_after
from modelfactory.signal_propagation.rules.table import ARRANGING, PARTS, PERMUTES, SHAPING, rule_of
from modelfactory.signal_propagation.skips import post_norm_warning
from modelfactory.signal_propagation.state import Gradient, Input, State, WeightMoments, flat
from modelfactory.signal_propagation.table import SignalTable
from modelfactory.signal_propagation.verdict import judged

_BATCH = 64  # inputs at once, where nothing says how many
T = TypeVar("T")


@dataclass(frozen=True)
class Known:
    """What a batch showed, from which to go on where a call is not predicted.

    Attributes:
        states: by node, in one state for each dimension that its units may lie in.
        gradients: by node, given the dimension of its units.
        stopped: nodes that no gradient goes back through.
    """

    states: Mapping[int, tuple[State, ...]] = field(default_factory=dict)
    gradients: Callable[[int, int], Gradient | None] = lambda index, unit: None
    stopped: frozenset[int] = frozenset()


@dataclass
class Predicted:
    """States by node.

    Attributes:
        states: of each node's output.
        gradients: of the loss, here a sum weighted by standard normal numbers, by each node's output.
        notes: what is to be said of a node, such as why it is not predicted.
        absent: nodes whose gradient is not predicted, and the call that it would have to come through.
        passed_over: nodes that are part of a function of several calls, so that not all of their gradient is known.
        failures: calls whose rule raised what no rule should, each with its place and the reason.
    """

    states: list[State]
    gradients: list[Gradient | None]
    notes: dict[int, str] = field(default_factory=dict)
    absent: dict[int, str] = field(default_factory=dict)
    passed_over: set[int] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)


def predict(
    model: nn.Module,
    incoming: Any,
    moments: Mapping[str, tuple[Any, ...]] | None = None,
    data: Input | None = None,
    batch: int | None = None,
) -> SignalTable:
    """A table of what is to be expected of each layer, before there are data or, on the meta device, weights.

    Args:
        model: on any device; on the meta device nothing is allocated.
        incoming: an example input, a tuple or a mapping of them, or the shape of one, batch first. Its numbers do not matter.
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
    first = next((tensor for tensor in tensors(incoming)), None)
    if batch is None:
        batch = _BATCH if first is None or first.is_meta else first.shape[0]
    context = Context(graph, WeightMoments(moments, model), batch)
    with torch.no_grad(), torch.device("cpu"):
        return tabulate(context, follow(context, data))


def trace_on_meta(model: nn.Module, incoming: Any) -> SignalGraph:
    """The model's graph, by a run on the meta device, in the modes (training or not) that the modules are in."""
    double = model
    if any(not tensor.is_meta for tensors in (model.parameters(), model.buffers()) for tensor in tensors):
        double, _ = shadow_of(model)
    args, kwargs = call_of(incoming)
    named = {key: _on_meta(value) for key, value in kwargs.items()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        graph, _ = trace(double, named or tuple(_on_meta(value) for value in args))
    return graph


def _on_meta(value: Any) -> Any:
    return torch.empty(value.shape, dtype=value.dtype, device="meta") if isinstance(value, Tensor) else value


def take_measured(context: Context, known: Known) -> Predicted:
    """What was measured in place of a prediction: states alone, no gradients, and no rule is asked."""
    found = Predicted([], [None] * len(context.graph))
    for node in context.graph:
        dims = max(len(node.shape), 1)
        first = node.inputs[0] if node.inputs else None
        unit = unit_of_input(context.graph, node.index) if first is None else found.states[first].unit
        measured = known.states.get(node.index, ())
        state = next((one for one in measured if one.unit == unit), measured[0] if measured else Input().state(dims))
        found.states.append(replace(state, unit=min(unit if first is None else state.unit, dims - 1)))
        found.notes[node.index] = "measured, and not predicted"
    return found


def follow(context: Context, data: Input | None = None, known: Known | None = None) -> Predicted:
    """Goes through the graph, forward and back.

    Args:
        data: what is known of the inputs; None: what was measured of them, else independent standard normal numbers.
        known: from which to go on where a call is not predicted; without it, from a second moment of 1, and no gradient
            is predicted behind such a call.
    """
    found, known = Predicted([], []), known or Known()
    for node in context.graph:
        found.states.append(_forward(context, node, data, found, known))
    found.gradients = [None] * len(context.graph)
    for index in context.graph.outputs:
        found.gradients[index] = Gradient(flat(1.0, max(len(context.graph.nodes[index].shape), 1)))
    for node in reversed(context.graph.nodes):
        _backward(context, node, found, known)
    return found


def _forward(context: Context, node: SignalNode, data: Input | None, found: Predicted, known: Known) -> State:
    dims = max(len(node.shape), 1)
    if node.op == "input":
        if data is None and node.index in known.states:
            return known.states[node.index][0]
        return replace(data or Input(), unit=unit_of_input(context.graph, node.index)).state(dims)

    def by_rule() -> State:
        if node.inputs and not context.graph.nodes[node.inputs[0]].floating and node.floating and node.op != "embedding":
            raise NotPredicted(f"{node.called} of whole or complex numbers")
        rule, call = rule_of(context, node)
        return _checked(rule.forward(context, call, [found.states[index] for index in call.inputs]), node)

    state, reason = _tried(node, found, by_rule)
    if state is not None:
        return state
    first = node.inputs[0] if node.inputs else None
    unit = 1 if first is None else unit_after(found.states[first].unit, context.graph.nodes[first].shape, node.shape)
    measured = known.states.get(node.index, ())
    goes_on = "from what was measured" if measured else "from a second moment of 1"
    found.notes[node.index] = f"not predicted ({reason}): goes on {goes_on}"
    made = next((one for one in measured if one.unit == unit), measured[0] if measured else Input(unit=unit).state(dims))
    return replace(made, unit=min(unit, dims - 1))


def _tried(node: SignalNode, found: Predicted, call: Callable[[], T]) -> tuple[T | None, str]:
    """What a rule gives, or None and why it gives nothing."""
    try:
        return call(), ""
    except NotPredicted as reason:
        return None, str(reason)
    except Exception as error:  # a call of a kind that its rule was not written for: it costs this row, not the table
        reason = f"{type(error).__name__}: {first_line(error)}"
        with contained(place_of(node), found.failures):
            raise
        return None, f"{node.called}: {reason}"


def place_of(node: SignalNode) -> str:
    """A layer and the call in it, in words."""
    return f"{node.layer or 'the model'} ({node.called})"


def _checked(state: State, node: SignalNode) -> State:
    """The state, in the rank of the node's output.

    Raises:
        NotPredicted: it has no numbers.
    """
    if state.power.isnan().any() or state.pairs.isnan().any() or math.isnan(state.mean):
        raise NotPredicted(f"{node.called} gives no finite moments")
    dims = max(len(node.shape), 1)
    power = state.power if state.power.ndim == dims else flat(state.second, dims)
    return replace(state, power=power, unit=min(max(state.unit, 0), dims - 1))


def _backward(context: Context, node: SignalNode, found: Predicted, known: Known) -> None:
    gradient, index = found.gradients[node.index], node.index
    if index in found.absent:
        gradient = known.gradients(index, found.states[index].unit)
        if gradient is None and index not in known.stopped:
            found.absent.update({before: found.absent[index] for before in node.inputs if before not in found.absent})
    if gradient is None or node.op == "input" or index in known.stopped:
        return
    given = gradient

    def by_rule() -> list[tuple[int, Gradient | None]]:
        if index in found.notes and node.op not in ARRANGING:
            raise NotPredicted("nor is what it makes of the signal")
        rule, call = rule_of(context, node)
        if call.inputs != node.inputs:  # several calls as one, between which no gradient is told
            found.passed_over.update(between(context.graph, call.inputs[0], index)[:-1])
        states = [found.states[before] for before in call.inputs]
        return list(zip(call.inputs, rule.backward(context, call, states, found.states[index], given), strict=False))

    passed, _ = _tried(node, found, by_rule)
    if passed is None:
        found.absent.update({before: node.called for before in node.inputs if before not in found.absent})
    for before, part in passed or ():
        if part is not None:
            found.gradients[before] = _added(found.gradients[before], part)


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
    start = found.states[0]
    rows = [_row(context, node, found) for node in context.graph if is_shown(node)]
    remarks = []
    with contained("the residual sums", found.failures):
        said = post_norm_warning(context.graph, {index: state.second for index, state in enumerate(found.states)})
        remarks = [said] if said else []
    cosine = start.cosines[2] if start.second > 0 else 1.0
    table = SignalTable(rows, math.sqrt(max(start.second, 0.0)), cosine, failures=found.failures, remarks=remarks)
    return judged(table, context.graph)


def _row(context: Context, node: SignalNode, found: Predicted) -> SignalRow:
    row = SignalRow(node.index, node.layer, node.label, _kind(node), node.shape, note=found.notes.get(node.index, ""))
    if not row.note and node.index in found.absent:
        row = replace(row, note=f"its gradient is not predicted ({found.absent[node.index]})")
    with contained(place_of(node), found.failures):
        numbers = Numbers() if node.index in found.notes else _numbers(context, node, found)
        return replace(row, predicted=numbers, chance=_chance(node, found), **_scales(context, node, found))
    return row


def is_shown(node: SignalNode) -> bool:
    """Whether a node is a row of the table: not the input, nothing that only arranges, no further output of a call."""
    if node.op == "input" or node.op.endswith("]") or not node.floating or node.op in SHAPING | PARTS | PERMUTES:
        return False
    return not (node.op.startswith("dropout") and not node.training)


def _kind(node: SignalNode) -> str:
    if node.op.startswith("conv") or node.op in ("linear", "embedding"):
        return "weights"
    return "norm" if node.op.endswith("norm") else node.op


def _chance(node: SignalNode, found: Predicted) -> tuple[float, float]:
    """One standard deviation of the logs of the two second moments over draws of the weights."""
    state, gradient = found.states[node.index], found.gradients[node.index]
    return math.sqrt(max(state.chance + state.own, 0.0)), math.nan if gradient is None else math.sqrt(max(gradient.chance, 0.0))


def _scales(context: Context, node: SignalNode, found: Predicted) -> dict[str, Any]:
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


def _bias_power(context: Context, node: SignalNode) -> float:
    bias = arguments(node, ("input", "weight", "bias"))["bias"]
    if bias is None:
        return 0.0
    mean, variance = context.weights.moments(bias.name, bias.tensor)
    return mean * mean + variance


def _numbers(context: Context, node: SignalNode, found: Predicted) -> Numbers:
    state, gradient = found.states[node.index], found.gradients[node.index]
    if node.index in found.absent or node.index in found.passed_over:
        gradient = None
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


def _dead(context: Context, node: SignalNode, before: State, inactive: float) -> float:
    """The share of units off for all inputs of a batch: `E Phi((t - sqrt(r) z)/sqrt(1 - r))^M`, `Phi(t)` the share of what is off."""
    if not 0 < inactive < 1:
        return math.nan if inactive == 0 else 1.0
    count = context.batch * context.places(node, before.unit)
    pair = before.pairs[3 if count > context.batch else 2].item()
    r = min(max(correlation(pair, before.mean, before.variance), 0.0), 1 - 1e-9)
    edge = torch.special.ndtri(torch.tensor(inactive, dtype=torch.float64))
    z = torch.special.ndtri((torch.arange(512, dtype=torch.float64) + 0.5) / 512)
    return (torch.special.ndtr((edge - math.sqrt(r) * z) / math.sqrt(1 - r)) ** count).mean().item()
