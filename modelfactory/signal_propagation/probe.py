"""The signal of any module, predicted and measured side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.errors import contained
from modelfactory.init.existing_model import foretell
from modelfactory.signal_propagation.draws import with_band
from modelfactory.signal_propagation.graph import SignalNode, tensors
from modelfactory.signal_propagation.jacobian import predict_spectrum
from modelfactory.signal_propagation.measure import Measured, measure
from modelfactory.signal_propagation.predict import Known, Predicted, follow, place_of, tabulate, take_measured
from modelfactory.signal_propagation.row import Numbers, SignalRow
from modelfactory.signal_propagation.rules.activations import response_of
from modelfactory.signal_propagation.rules.base import Context
from modelfactory.signal_propagation.spectrum import measure_spectrum
from modelfactory.signal_propagation.state import Gradient, State, WeightMoments, flat
from modelfactory.signal_propagation.table import SignalTable
from modelfactory.signal_propagation.verdict import INITS, find_fix, hangs_on_prediction, is_fatal, judged, summary


def signal(
    model: nn.Module,
    example: Any,
    moments: Mapping[str, tuple[Any, ...]] | None = None,
    seed: int = 0,
    histograms: bool = False,
    *,
    spectrum: bool = False,
    draws: int = 0,
) -> SignalTable:
    """How a signal travels through a model: what is predicted of each layer, what one batch shows, and a verdict.

    The model is left as it was: gradients, running statistics, hooks, modes, random state. It may be any nn.Module; where a
    call cannot be predicted its row says so, and the prediction goes on from what was measured.

    Args:
        model: in the mode (training or not) in which it is to be looked at.
        example: a batch of inputs, a tuple of positional arguments, or a mapping of named ones, on the model's device.
        moments: mean and std of each parameter by name, as its init foretells; those left out are taken from the values.
        seed: of the random numbers that the output is weighted by for the gradient.
        histograms: keep values for `plot(path, histograms=True)`.
        spectrum: add the columns of `SPECTRUM`: the Jacobian by the input, tokens, ranks, entropy of attention, a first update.
        draws: add the band, lowest and highest, of forward and gradient over so many other draws of the weights, as `redrawn` makes them.

    Example:
        >>> import modelfactory as mf
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        >>> table = mf.signal(model, torch.randn(128, 64))
        >>> [(row.layer, row.verdict) for row in table]
        [('0', 'ok'), ('1', 'ok'), ('2', 'ok')]
    """
    found = probe(model, example, moments, seed, histograms)
    said, failures = summary(found.table), list(found.table.failures)
    warnings, hints = [], []
    if is_fatal(found.table):
        mend = None
        with contained("the search for a fix", failures):
            mend = _mend(found, model, example)
        warnings.append(said if mend is None else f"{said}; {mend} is predicted to fix it")
    elif said:
        hints.append(said)
    table = found.table
    if spectrum:
        table = table.changed(rows=with_spectrum(found, model, example, seed, failures))
    if draws:
        table = table.changed(rows=with_band(table.rows, model, example, draws, seed))
    return table.changed(warnings=[*warnings, *found.table.remarks, *told_failures(failures)], hints=hints)


def with_spectrum(found: Probe, model: nn.Module, example: Any, seed: int, failures: list[str]) -> list[SignalRow]:
    """The rows of a table with the columns of a spectrum, predicted where theory knows them and measured."""
    measured = measure_spectrum(model, example, found.found.graph, failures, seed)
    context = Context(found.found.graph, WeightMoments(None, model), found.found.batch)
    predicted: dict[int, tuple[float, float]] = {}
    states: list[State] = []
    with torch.no_grad(), contained("the prediction of the spectrum", failures):
        states = follow(context, known=_known(found.found)).states
        predicted = predict_spectrum(context.graph, states)

    def complete(row: SignalRow) -> SignalRow:
        mean, variance = predicted.get(row.node, (math.nan, math.nan))
        of_tokens = len(row.shape) == 3 and row.shape[0] == context.batch and row.node < len(states)
        tokens = states[row.node].cosines[1] if of_tokens else math.nan
        told = replace(row.predicted, jacobian_mean=mean, jacobian_variance=variance, token_cosine=tokens)
        return replace(row, predicted=told, measured=replace(row.measured, **measured[row.node]))

    return [complete(row) for row in found.table]


def _mend(found: Probe, model: nn.Module, example: Any) -> str | None:
    """A call that gives weights with which the signal is predicted to get through; None where none of those tried does."""
    x = next(iter(tensors(example)))
    tried = ((f"mf.initialize(model, {name!r}, example=batch)", name) for name in INITS)
    return find_fix(tried, lambda name: is_fatal(found.predict(foretell(model, name, x.shape, x.dtype))))


def told_failures(failures: Sequence[str]) -> list[str]:
    """One warning for all that could not be measured or predicted, which names the first place.

    Example:
        >>> told_failures(["block.0 (matmul): ValueError: too many values", "block.1 (matmul): ValueError: too many values"])
        ['a look at the signal failed at block.0 (matmul): ValueError: too many values (and at 1 other place); all else holds']
    """
    if not failures:
        return []
    others = len(failures) - 1
    more = f" (and at {others} other place{'s' if others > 1 else ''})" if others else ""
    return [f"a look at the signal failed at {failures[0]}{more}; all else holds"]


@dataclass(frozen=True)
class Probe:
    """What a probing gave: the table, with what a prediction of other weights for the same model and data needs."""

    table: SignalTable
    found: Measured
    model: nn.Module

    def predict(self, moments: Mapping[str, tuple[Any, ...]]) -> SignalTable:
        """The table to expect of other weights, nothing measured."""
        context = Context(self.found.graph, WeightMoments(moments, self.model), self.found.batch)
        with torch.no_grad():
            return tabulate(context, follow(context, known=_known(self.found)))


def probe(
    model: nn.Module,
    example: Any,
    moments: Mapping[str, tuple[Any, ...]] | None = None,
    seed: int = 0,
    histograms: bool = False,
) -> Probe:
    """As `signal`, with what was measured."""
    found = measure(model, example, seed, histograms)
    context = Context(found.graph, WeightMoments(moments, model), found.batch)
    with torch.no_grad():
        return _joined(context, follow(context, known=_known(found)), found, model)


def look(model: nn.Module, example: Any, seed: int = 0) -> Probe:
    """As `probe` for what a batch shows; what theory expects is asked for only where a verdict hangs on it: dead units, inputs alike.

    Example:
        >>> found = look(nn.Sequential(nn.Linear(64, 64), nn.ReLU()), torch.randn(32, 64))
        >>> [(row.layer, row.verdict, row.predicted.forward) for row in found.table]
        [('0', 'ok', nan), ('1', 'ok', nan)]
    """
    found = measure(model, example, seed)
    context = Context(found.graph, WeightMoments(None, model), found.batch)
    with torch.no_grad():
        known = _known(found)
        seen = _joined(context, take_measured(context, known), found, model)
        if not hangs_on_prediction(seen.table):
            return seen
        return _joined(context, follow(context, known=known), found, model)


def _joined(context: Context, predicted: Predicted, found: Measured, model: nn.Module) -> Probe:
    """The table of what was predicted and measured, with its verdicts."""
    with torch.no_grad():
        table = tabulate(context, predicted)
        failures = list(dict.fromkeys([*found.failures, *table.failures]))
        rows = [_measured(row, context.graph.nodes[row.node], predicted, found, failures) for row in table]
        samples = {_name(found.graph.nodes[index]): _flat(pair) for index, pair in sorted(found.samples.items())}
        table = SignalTable(rows, table.input_scale, table.input_cosine, (), samples, failures, table.remarks)
        return Probe(judged(table, found.graph), found, model)


def _measured(row: SignalRow, node: SignalNode, predicted: Predicted, found: Measured, failures: list[str]) -> SignalRow:
    with contained(place_of(node), failures):
        return replace(row, measured=_numbers(node, predicted, found))
    return row


def _name(node: SignalNode) -> str:
    return node.layer or node.label


def _flat(pair: tuple[Tensor, Tensor | None]) -> tuple[Any, Any]:
    return tuple(None if part is None else part.flatten().float().cpu() for part in pair)  # pyright: ignore[reportReturnType]


def _known(found: Measured) -> Known:
    """What was measured of every node, of which only that is used that no rule predicts."""
    states = dict(found.states)
    for node in found.graph:
        if node.index in found.second and node.index not in states:
            mean, second = found.mean[node.index], found.second[node.index]
            pairs = torch.tensor([mean**2, mean**2, found.other.get(node.index, mean**2), mean**2], dtype=torch.float64)
            states[node.index] = (State(flat(second, max(len(node.shape), 1)), mean, pairs, unit=max(len(node.shape) - 1, 0)),)

    def gradient(index: int, unit: int) -> Gradient | None:
        if index not in found.gradient:
            return None
        dims = max(len(found.graph.nodes[index].shape), 1)
        return Gradient(flat(found.gradient[index], dims), found.gradient_far.get((index, unit), 0.0))

    return Known(states, gradient, frozenset(found.stopped))


def _numbers(node: SignalNode, predicted: Predicted, found: Measured) -> Numbers:
    index = node.index
    second = found.second.get(index, math.nan)
    gradient = found.gradient.get(index, math.nan)
    saturated = dead = math.nan
    if node.op == "activation" and index in found.sums:
        before = predicted.states[node.inputs[0]]
        response = response_of(node, before)
        low, high = response.edges
        if math.isfinite(low):
            part = found.parts[index]
            flat = (part > high) | (part < low) & (not response.rectifies)
            saturated = flat.float().mean().item()
        if response.rectifies:
            dead = _dead(found.sums[index], before.unit)
    return Numbers(
        forward=math.sqrt(second),
        gradient=math.sqrt(gradient),
        mean=found.mean.get(index, math.nan),
        cosine=found.other.get(index, math.nan) / second if second > 0 else math.nan,
        saturated=saturated,
        dead=dead,
        effect=found.effect.get(index, math.nan) / max(found.batch, 1),
    )


def _dead(sums: Tensor, unit: int) -> float:
    """The share of units whose outputs, none of them negative, add up to 0 over the batch and the places."""
    dim = max(unit - 1, 0)
    over = [other for other in range(sums.ndim) if other != dim]
    return (sums.sum(over) == 0 if over else sums == 0).float().mean().item()
