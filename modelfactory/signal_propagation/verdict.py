"""Judges every layer of a signal table, and says in one sentence what is wrong.

What is judged is what was measured, or without a measurement what is predicted. A layer on the way that all of the signal
takes is `vanishing` where its scale is below 1e-3 of the input's, or the energy of its gradient below 1e-6 of the last hidden layer's;
`exploding` the other way about; `weak` within a factor of 1e-1 and 1e-3 of these. Dead units are too many when they are more
than foretold for this depth; two inputs are `correlated` when what tells them apart is 1% of what it was. `unexpected` is a measured
scale that the prediction and the chance of a finite width together do not explain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from modelfactory.signal_propagation.graph import Graph
from modelfactory.signal_propagation.row import Numbers, Row
from modelfactory.signal_propagation.table import SignalTable

INITS = ("auto", "kaiming_normal", "xavier_normal", "lecun_normal", "orthogonal")
"""What is tried as a mend, in this order."""
FATAL = ("vanishing", "exploding", "dead", "correlated")
_FORWARD = 1e-3
_GRADIENT = 1e-6
_WEAK_FORWARD, _WEAK_GRADIENT = 1e-1, 1e-3
_SATURATED = 0.2
_INDISTINCT = 1e-2
_DEAD_MARGIN = 0.1
_ALL_DEAD = 0.9


def judge(table: SignalTable, graph: Graph) -> SignalTable:
    """The table with a verdict for each row."""
    trunk = trunk_of(graph)
    energies = {row.node: _energy(row) for row in table}
    hidden = [row for row in table if row.node in trunk and row.node not in graph.outputs and energies[row.node] > 0]
    reference = energies[hidden[-1].node] if hidden else math.nan
    start = table.input_cosine
    rows = []
    for row in table:
        on_trunk, is_output = row.node in trunk, row.node in graph.outputs
        verdict = _scale_verdict(row, table.input_scale, energies[row.node] / reference if reference else math.nan, on_trunk, is_output)
        rows.append(replace(row, verdict=verdict if verdict != "ok" else _other_verdict(row, start, is_output)))
    return table.changed(rows)


def _now(row: Row) -> Numbers:
    return row.predicted if math.isnan(row.measured.forward) else row.measured


def _energy(row: Row) -> float:
    """The second moment of an input's whole gradient at this layer."""
    return math.prod(row.shape[1:]) * _now(row).gradient ** 2


def _scale_verdict(row: Row, input_scale: float, energy: float, on_trunk: bool, is_output: bool) -> str:
    forward = _now(row).forward / input_scale if input_scale > 0 else math.nan
    if forward > 1 / _FORWARD or energy > 1 / _GRADIENT or math.isinf(forward):
        return "exploding"
    if not on_trunk or is_output:
        return "ok"
    if forward < _FORWARD or energy < _GRADIENT:
        return "vanishing"
    return "weak" if forward < _WEAK_FORWARD or energy < _WEAK_GRADIENT else "ok"


def _other_verdict(row: Row, start: float, is_output: bool) -> str:
    now, units = _now(row), max(math.prod(row.shape[1:2]), 1)
    foretold = 0.0 if math.isnan(row.predicted.dead) else row.predicted.dead
    by_chance = 4 * math.sqrt(max(foretold * (1 - foretold), 0.25 / units) / units)
    if now.dead > _ALL_DEAD or row.measured.dead > foretold + by_chance + _DEAD_MARGIN:
        return "dead"
    if now.saturated > _SATURATED:
        return "saturated"
    if row.kind == "weights" and not is_output and 1 - now.cosine < _INDISTINCT * (1 - start):
        return "correlated"
    return "unexpected" if _is_unexpected(row) else "ok"


def _is_unexpected(row: Row) -> bool:
    """Whether a measured scale is off by more than half in power and four standard deviations of chance."""
    pairs = zip((row.predicted.forward, row.predicted.gradient), (row.measured.forward, row.measured.gradient), row.chance, strict=True)
    return any(
        abs(2 * math.log(measured / predicted)) > math.log(1.5) + 4 * (0.0 if math.isnan(chance) else chance)
        for predicted, measured, chance in pairs
        if predicted > 0 and measured > 0
    )


def trunk_of(graph: Graph) -> set[int]:
    """The nodes that every way from the input to the outputs goes through.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from modelfactory.model.layers.containers import Residual
        >>> from modelfactory.signal_propagation.graph import trace
        >>> graph, _ = trace(nn.Sequential(nn.Linear(2, 2), Residual({"fc": nn.Linear(2, 2)})), torch.zeros(1, 2))
        >>> [graph.nodes[index].label for index in sorted(trunk_of(graph))]
        ['Linear', 'Residual']
    """
    last_use = {index: node.index for node in graph for index in node.inputs}
    last_use |= {index: len(graph) for index in graph.outputs}
    open_until: set[int] = set()
    trunk = set()
    for node in graph:
        open_until = {index for index in open_until if last_use[index] > node.index}
        if node.op != "input" and node.index in last_use and not open_until:
            trunk.add(node.index)
        if node.index in last_use:
            open_until.add(node.index)
    return trunk


def worst(rows: Iterable[Row]) -> str:
    """The gravest verdict among rows: one of `FATAL`, else what there is."""
    found = {row.verdict for row in rows}
    for verdict in (*FATAL, "saturated", "unexpected", "weak"):
        if verdict in found:
            return verdict
    return "ok"


def is_fatal(table: SignalTable) -> bool:
    """Whether a model of this table would hardly train."""
    return worst(table) in FATAL


def summary(table: SignalTable) -> str:
    """What is wrong in a sentence, "" where nothing is.

    Example:
        >>> summary(SignalTable([]))
        ''
    """
    verdict = worst(table)
    if verdict in ("ok", "weak", "unexpected"):
        return ""
    rows = [row for row in table if row.verdict == verdict]
    return {
        "vanishing": _vanishing,
        "exploding": _exploding,
        "dead": lambda rows, _: f"{_place(rows[0])} has {_now(rows[0]).dead:.0%} of its units dead on the whole batch",
        "saturated": lambda rows, _: f"{_place(rows[0])} has {_now(rows[0]).saturated:.0%} of its outputs saturated",
        "correlated": lambda rows, _: f"two inputs look alike from {_place(rows[0])} on: cosine {_now(rows[0]).cosine:.4f}",
    }[verdict](rows, table)


def _place(row: Row) -> str:
    return f"{row.layer} ({row.label})" if row.layer else row.label


def _vanishing(rows: Sequence[Row], table: SignalTable) -> str:
    weakest = min(rows, key=lambda row: _now(row).forward)
    share = _now(weakest).forward / table.input_scale
    if share < _FORWARD:
        return f"the signal vanishes: its scale is {share:.1e} of the input's at {_place(weakest)}"
    lowest = min(rows, key=_energy)
    return f"the gradient vanishes: its scale is {_now(lowest).gradient:.1e} of the output's at {_place(lowest)}"


def _exploding(rows: Sequence[Row], table: SignalTable) -> str:
    strongest = max(rows, key=lambda row: _now(row).forward)
    share = _now(strongest).forward / table.input_scale
    if share > 1 / _FORWARD:
        return f"the signal explodes: its scale is {share:.1e} of the input's at {_place(strongest)}"
    highest = max(rows, key=_energy)
    return f"the gradient explodes: its scale is {_now(highest).gradient:.1e} of the output's at {_place(highest)}"
