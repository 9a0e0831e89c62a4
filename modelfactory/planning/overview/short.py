"""A plan on one screen: what repeats folded, then sums and the verdict of the signal in a line each."""

from __future__ import annotations

import textwrap
from collections import Counter
from dataclasses import dataclass

from modelfactory.planning.overview.layers import LayerTree
from modelfactory.planning.overview.memory import Totals
from modelfactory.planning.overview.signal import Prediction
from modelfactory.planning.overview.table import Column, table
from modelfactory.planning.overview.text import folded, initialised
from modelfactory.planning.overview.units import amount, amount_of_bytes, shape_text

_MOST = 18  # lines of the table


@dataclass(frozen=True)
class _Part:
    """A branch of the tree as one line; `times`: how many alike it stands for."""

    label: str
    branch: LayerTree
    times: int


def short_text(root: LayerTree, totals: Totals, signal: Prediction, warnings: tuple[str, ...], width: int) -> str:
    """The text of a plan in some twenty lines, whatever the model.

    The tree is opened as far as its lines fit; of a chain that is longer the first and the last are shown.
    """
    parts = _parts(root)
    shown = parts if len(parts) <= _MOST else [*parts[: _MOST // 2], *parts[-(_MOST // 2 - 1) :]]
    columns = _columns(shown)
    lines = table(columns, 10**9).splitlines()
    if max(map(len, lines)) > width:  # without how it is initialised
        lines = table(columns[:-1], width).splitlines()
    if len(parts) > len(shown):
        lines.insert(1 + _MOST // 2, f"... {len(parts) - len(shown)} more")
    said = [_sums(totals), _verdict(signal), *_advice(warnings)]
    return "\n".join([*lines, "", *(textwrap.fill(sentence, width, subsequent_indent=" " * 8) for sentence in said)])


def _parts(root: LayerTree) -> list[_Part]:
    """The lines: the tree, of which the largest branch is opened again and again, as long as all fit."""
    found = [_Part(root.label or root.kind, root, 1)]
    while True:
        by_size = sorted(range(len(found)), key=lambda place: -_numbers(found[place]))
        for place in by_size:
            inside = _inside(found[place])
            if inside and len(found) - 1 + len(inside) <= (_MOST if len(found) > 1 else max(_MOST, len(inside))):
                found[place : place + 1] = inside
                break
        else:
            return found


def _numbers(part: _Part) -> int:
    return part.times * sum(layer.parameters for layer in part.branch.layers())


def _inside(part: _Part) -> list[_Part]:
    """What a part holds, if that is all that it has."""
    if part.branch.layer is not None:
        return []
    outer = f"{part.label}." if part.branch.label else ""
    return [_Part(f"{outer}{label}", child, part.times * times) for label, child, times in folded(part.branch.children)]


def _columns(parts: list[_Part]) -> list[Column]:
    layers = [list(part.branch.layers()) for part in parts]
    flops = [sum(layer.flops or 0 for layer in inside) for inside in layers]
    times = [part.times for part in parts]
    return [
        Column("layer", tuple(f"{part.label}  x {part.times:,}" if part.times > 1 else part.label for part in parts)),
        Column("type", tuple("" if part.branch.kind == "Sequential" else part.branch.kind for part in parts)),
        Column("output", tuple(shape_text(part.branch.output) for part in parts)),
        Column("parameters", tuple(f"{n:,}" if n else "" for n in map(_numbers, parts)), right=True),
        Column("FLOPs", tuple(amount(n * many) if n else "" for n, many in zip(flops, times, strict=True)), right=True),
        Column("schemes", tuple(map(_schemes, parts))),
    ]


def _schemes(part: _Part) -> str:
    """What most numbers of a part are initialised by."""
    counts: Counter[str] = Counter()
    for layer in part.branch.layers():
        for row in layer.main:
            counts[initialised(row)[1]] += row.numel
    names = [name for name, _ in counts.most_common()]
    return ", ".join(names[:2]) + (", ..." if len(names) > 2 else "")


def _sums(totals: Totals) -> str:
    training = "all trainable" if totals.trainable == totals.parameters else f"{totals.trainable:,} trainable"
    memory = totals.weights + totals.buffers + totals.gradients + (totals.optimizer or 0)
    with_state = "" if totals.optimizer is None else f" and {totals.optimizer_name}'s state"
    flops = "" if totals.flops is None else f"; {amount(totals.flops)} FLOPs a sample"
    return f"total   {totals.parameters:,} parameters, {training}; {amount_of_bytes(memory)} with gradients{with_state}{flops}"


def _verdict(signal: Prediction) -> str:
    if signal.verdict is None:
        return f"signal  not predicted: {signal.reason or 'nothing is known of it'}"
    if signal.said:
        return f"signal  {signal.verdict}: {signal.said}"
    return f"signal  {signal.verdict}, predicted over {len(signal.rows):,} calls"


def _advice(warnings: tuple[str, ...]) -> list[str]:
    """How many warnings there are, and the override that mends the first that one does."""
    if not warnings:
        return []
    mends = [mend for words in warnings if (mend := getattr(words, "mend", None)) is not None]
    count = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    told = [f"{count}, told without --short"]
    return [f"fix     {mends[0]}", *told] if mends else told
