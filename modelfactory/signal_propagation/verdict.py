"""Judges every layer of a signal table, and says in one sentence what is wrong.

What is judged is what was measured, or without a measurement what is predicted, on the trunk: the way that all of the signal
takes. What happens in a branch, a gate or before a softmax is for the sum behind it to say. A layer is `vanishing` where its scale
is below 1e-3 of the input's (or of 1, where the input's is larger), or what a gradient does by it below 1e-6 of what it does by the
last hidden layer; `exploding` the other way about; `weak` within a factor of 1e-1 and 1e-3 of these. Dead units are too many
when they are more than foretold for this depth; two inputs are `correlated` when what tells them apart is 1% of what it was, and far
less than is predicted. An output is `large` where a first loss would be far above that of a guess. `unexpected` are weights that
make another scale of what they get than random ones would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from modelfactory.config.errors import ConfigError, contained
from modelfactory.signal_propagation.graph import SignalGraph
from modelfactory.signal_propagation.row import Numbers, SignalRow
from modelfactory.signal_propagation.rules.norms import passes_on
from modelfactory.signal_propagation.table import SignalTable
from modelfactory.signal_propagation.trunk import scores_of, trunk_of

T = TypeVar("T")
INITS = ("auto", "kaiming_normal", "xavier_normal", "lecun_normal", "orthogonal")
"""What is tried as a mend, in this order."""
FATAL = ("vanishing", "exploding", "dead", "correlated")
GRADIENT_VANISHES = "the gradient vanishes"
_FORWARD = 1e-3
_GRADIENT = 1e-6
_WEAK_FORWARD, _WEAK_GRADIENT = 1e-1, 1e-3
_LARGE = 10.0
_SATURATED = 0.2
_INDISTINCT = 1e-2
_MORE_ALIKE = 0.25  # as a share of what is predicted to tell two inputs apart
_DEAD_MARGIN = 0.1
_ALL_DEAD = 0.9


@dataclass(frozen=True)
class _Place:
    """Where a row is, and what its gradient is like beside the last hidden layer's.

    Attributes:
        on_trunk, is_output, is_score: what it is to the model.
        energy, effect: the second moment of an input's whole gradient, and of that times the signal, relative to the last hidden's.
        recovers: whether a later place has the scale of the input again, as behind a norm.
        before: log of measured over predicted of what comes in.
    """

    on_trunk: bool
    is_output: bool
    is_score: bool
    energy: float
    effect: float
    recovers: bool
    before: float


def find_fix(tried: Iterable[tuple[str, T]], fails: Callable[[T], bool]) -> str | None:
    """What to say of the first init by which the signal is predicted to get through; None where none of those tried does.

    Args:
        tried: each with what to say of it.
        fails: whether the signal does not get through by it; an init that does not suit the model raises ConfigError.

    Example:
        >>> find_fix([("init=auto", 1.5), ("init=orthogonal", 1.0)], lambda gain: gain > 1)
        'init=orthogonal'
    """
    for said, init in tried:
        try:
            if not fails(init):
                return said
        except ConfigError:
            continue
    return None


def judged(table: SignalTable, graph: SignalGraph) -> SignalTable:
    """The table with its verdicts; without them, and with the reason among its failures, where judging raises."""
    failures = list(table.failures)
    with contained("the verdicts", failures):
        return judge(table, graph)
    return table.changed(failures=failures)


def judge(table: SignalTable, graph: SignalGraph) -> SignalTable:
    """The table with a verdict for each row.

    Where batch norms are in evaluation mode with statistics of no data they do not normalise, and nothing is fatal: that is
    not how the model trains.
    """
    untrained = any(passes_on(node) for node in graph)
    trunk, scores = trunk_of(graph), scores_of(graph)
    hidden = [row for row in table if row.node in trunk and row.node not in graph.outputs and _energy(row) > 0]
    last = hidden[-1] if hidden else None
    off = {row.node: _off(row) for row in table}
    back = max((row.node for row in table if row.node in trunk and _now(row).forward >= _WEAK_FORWARD * _least(table)), default=-1)
    rows = []
    for row in table:
        energy, effect = (math.nan, math.nan) if last is None else (_energy(row) / _energy(last), _effect(row) / _effect(last))
        is_output, before = row.node in graph.outputs, _before(graph, row.node, off)
        place = _Place(row.node in trunk, is_output, row.node in scores, energy, effect, row.node < back, before)
        verdict = _verdict(row, place, table)
        if untrained and verdict in FATAL:
            note = f"{verdict} while batch norms have statistics of no data: model.train() shows what training sees"
            row, verdict = replace(row, note=row.note or note), "weak"
        rows.append(replace(row, verdict=verdict))
    return table.changed(rows)


def _now(row: SignalRow) -> Numbers:
    return row.predicted if math.isnan(row.measured.forward) else row.measured


def _energy(row: SignalRow) -> float:
    """The second moment of an input's whole gradient at this layer."""
    gradient = _now(row).gradient
    return math.prod(row.shape[1:]) * gradient * gradient


def _effect(row: SignalRow) -> float:
    """What a change by a share of this layer does to the loss: its gradient times itself, which no scale between two layers alters."""
    now = _now(row)
    return max(_energy(row) * now.forward * now.forward if math.isnan(now.effect) else now.effect, 1e-300)


def _off(row: SignalRow) -> float:
    """The log of measured over predicted scale, 0 where one is not known."""
    predicted, measured = row.predicted.forward, row.measured.forward
    return math.log(measured / predicted) if predicted > 0 and measured > 0 and math.isfinite(measured / predicted) else 0.0


def _before(graph: SignalGraph, index: int, off: Mapping[int, float]) -> float:
    """How far off the prediction is of what comes into a call: of the nearest row before it."""
    while graph.nodes[index].inputs:
        index = graph.nodes[index].inputs[0]
        if index in off:
            return off[index]
    return 0.0


def _verdict(row: SignalRow, place: _Place, table: SignalTable) -> str:
    now = _now(row)
    if math.isinf(now.forward) and not place.is_score:
        return "exploding"
    if place.is_score or not (place.on_trunk or place.is_output):
        return "unexpected" if _is_unexpected(row, place) else "ok"
    scale = _scale_verdict(now.forward, table, place)
    return scale if scale != "ok" else _other_verdict(row, place, table.input_cosine)


def _least(table: SignalTable) -> float:
    """The scale that a signal should keep: the input's, or 1 where that is larger."""
    return min(table.input_scale, 1.0)


def _scale_verdict(forward: float, table: SignalTable, place: _Place) -> str:
    most, least = max(table.input_scale, 1.0), 0.0 if place.recovers else _least(table)
    if forward > most / _FORWARD or min(place.energy, place.effect) > 1 / _GRADIENT:
        return "exploding"
    if place.is_output:
        return "large" if forward > _LARGE * most else "ok"
    if forward < least * _FORWARD or max(place.energy, place.effect) < _GRADIENT:
        return "vanishing"
    return "weak" if forward < least * _WEAK_FORWARD or max(place.energy, place.effect) < _WEAK_GRADIENT else "ok"


def _other_verdict(row: SignalRow, place: _Place, start: float) -> str:
    now, units = _now(row), max(math.prod(row.shape[1:2]), 1)
    foretold = 0.0 if math.isnan(row.predicted.dead) else row.predicted.dead
    by_chance = 4 * math.sqrt(max(foretold * (1 - foretold), 0.25 / units) / units)
    if now.dead > _ALL_DEAD or row.measured.dead > foretold + by_chance + _DEAD_MARGIN:
        return "dead"
    if now.saturated > _SATURATED:
        return "saturated"
    if row.kind == "weights" and not place.is_output and _is_indistinct(row, start):
        return "correlated"
    return "unexpected" if _is_unexpected(row, place) else "ok"


def hangs_on_prediction(table: SignalTable) -> bool:
    """Whether a verdict on what was measured may be another once it is known what to expect: of dead units, and of inputs alike.

    Example:
        >>> hangs_on_prediction(SignalTable([]))
        False
    """
    start = table.input_cosine
    alike = start < 1 and any(row.kind == "weights" and 1 - row.measured.cosine < _INDISTINCT * (1 - start) for row in table)
    return alike or any(row.verdict == "dead" for row in table)


def _is_indistinct(row: SignalRow, start: float) -> bool:
    """Whether what tells two inputs apart is 1% of what it was, and much less than this architecture is predicted to leave."""
    apart = 1 - row.measured.cosine
    return start < 1 and apart < _INDISTINCT * (1 - start) and apart < _MORE_ALIKE * (1 - row.predicted.cosine)


def _is_unexpected(row: SignalRow, place: _Place) -> bool:
    """Whether weights make of what they get a scale off by more than two, and four standard deviations of chance."""
    chance = 0.0 if math.isnan(row.chance[0]) else row.chance[0]
    return row.kind == "weights" and abs(_off(row) - place.before) > math.log(2) + 2 * chance  # chance is of the power's log


def worst(rows: Iterable[SignalRow]) -> str:
    """The gravest verdict among rows: one of `FATAL`, else what there is."""
    found = {row.verdict for row in rows}
    for verdict in (*FATAL, "large", "saturated", "unexpected", "weak"):
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
        "large": lambda rows, _: f"the output is large: its scale is {_now(rows[0]).forward:.2g} at {_place(rows[0])}",
        "correlated": lambda rows, _: f"two inputs look alike from {_place(rows[0])} on: cosine {_now(rows[0]).cosine:.4f}",
    }[verdict](rows, table)


def _place(row: SignalRow) -> str:
    return f"{row.layer} ({row.label})" if row.layer else row.label


def _share(row: SignalRow, table: SignalTable) -> float:
    return _now(row).forward / (table.input_scale or 1.0)


def _vanishing(rows: Sequence[SignalRow], table: SignalTable) -> str:
    weakest = min(rows, key=lambda row: _now(row).forward)
    share = _share(weakest, table)
    if share < _FORWARD:
        return f"the signal vanishes: its scale is {share:.1e} of the input's at {_place(weakest)}"
    lowest = min(rows, key=_effect)
    return f"{GRADIENT_VANISHES}: its scale is {_now(lowest).gradient:.1e} of the output's at {_place(lowest)}"


def _exploding(rows: Sequence[SignalRow], table: SignalTable) -> str:
    strongest = max(rows, key=lambda row: _now(row).forward)
    share = _share(strongest, table)
    if share > 1 / _FORWARD:
        return f"the signal explodes: its scale is {share:.1e} of the input's at {_place(strongest)}"
    highest = max(rows, key=_effect)
    return f"the gradient explodes: its scale is {_now(highest).gradient:.1e} of the output's at {_place(highest)}"
