"""Draws a signal table against depth, as Brock et al. 2021 do, and histograms of activations and gradients, as Glorot & Bengio 2010."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelfactory.config.files import write_atomic

if TYPE_CHECKING:
    from modelfactory.signal_propagation.row import SignalRow
    from modelfactory.signal_propagation.table import SignalTable

_PREDICTED, _PALE = "#4477aa", "#bbccee"
_COLOURS = {"measured": "#222222", "weak": "#ee9933", "bad": "#cc3311"}
_KINDS = dict.fromkeys(("vanishing", "exploding", "dead", "saturated", "correlated"), "bad") | {"weak": "weak"}
_MOST_NAMES = 24
_FLOOR = 1e-30


def draw(table: SignalTable, path: str | os.PathLike[str], title: str = "") -> None:
    """Writes a PNG: scale of the signal, of the gradient, and the cosine of two inputs, from the first layer to the last."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 7.4), dpi=100)
    figure.subplots_adjust(left=0.11, right=0.985, top=0.955, bottom=0.19, hspace=0.07)
    panels: Any = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.6])
    rows = [row for row in table if not math.isnan(_scale(row, "forward"))]
    _scales(panels[0], rows, "forward", "signal (rms)", chance=0)
    _scales(panels[1], rows, "gradient", "gradient (rms)", chance=1)
    _cosines(panels[2], rows)
    panels[0].axhline(table.input_scale, color="#999999", linewidth=0.8, linestyle=":", zorder=0)
    panels[0].set_title(title or "How the signal travels", fontsize=10, loc="left", wrap=True)
    _legend(panels[0], rows)
    _name_layers(panels[2], rows)
    FigureCanvasAgg(figure)
    write_atomic(path, lambda file: figure.savefig(file, format="png"))


def _scale(row: SignalRow, name: str) -> float:
    predicted, measured = getattr(row.predicted, name), getattr(row.measured, name)
    return predicted if math.isnan(measured) else measured


def _kind(row: SignalRow) -> str:
    return _KINDS.get(row.verdict, "measured")


def _scales(panel: Any, rows: Sequence[SignalRow], name: str, label: str, chance: int) -> None:
    """One panel: the predicted line with two standard deviations of chance, the measured points, coloured where they are weak or bad."""
    places = list(range(len(rows)))
    predicted = [max(getattr(row.predicted, name), _FLOOR) if getattr(row.predicted, name) > 0 else math.nan for row in rows]
    spreads = [0.0 if math.isnan(row.chance[chance]) else row.chance[chance] for row in rows]
    low = [value * math.exp(-spread) for value, spread in zip(predicted, spreads, strict=True)]  # two of the power's, so one's root
    high = [value * math.exp(spread) for value, spread in zip(predicted, spreads, strict=True)]
    panel.fill_between(places, low, high, color=_PALE, alpha=0.7, linewidth=0)
    panel.plot(places, predicted, color=_PREDICTED, linewidth=1.4)
    measured = [(place, getattr(row.measured, name), _kind(row)) for place, row in zip(places, rows, strict=True)]
    for kind, colour in _COLOURS.items():
        chosen = [(place, value) for place, value, own in measured if value > 0 and own == kind]
        if chosen:
            panel.plot(*zip(*chosen, strict=True), linestyle="none", marker="o", markersize=3.2, color=colour)
    if any(value > 0 for value in predicted) or any(value > 0 for _, value, _ in measured):
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:g}")  # not by mathtext, which takes a quarter of a second to start
        panel.minorticks_off()
        low_end, high_end = panel.get_ylim()
        if high_end / max(low_end, _FLOOR) < 100:  # a flat line is to look flat
            middle = math.sqrt(low_end * high_end)
            panel.set_ylim(middle / 10, middle * 10)
    panel.set_ylabel(label)
    panel.grid(True, color="#e6e6e6", linewidth=0.6)


def _cosines(panel: Any, rows: Sequence[SignalRow]) -> None:
    places = list(range(len(rows)))
    panel.plot(places, [row.predicted.cosine for row in rows], color=_PREDICTED, linewidth=1.4)
    panel.plot(places, [row.measured.cosine for row in rows], linestyle="none", marker="o", markersize=3.2, color=_COLOURS["measured"])
    panel.set_ylim(-0.1, 1.05)
    panel.set_ylabel("cosine of\ntwo inputs")
    panel.grid(True, color="#e6e6e6", linewidth=0.6)


def _legend(panel: Any, rows: Sequence[SignalRow]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: list[Any] = [
        Line2D([], [], color=_PREDICTED, label="predicted"),
        Patch(color=_PALE, label="± 2 sd of a finite width"),
    ]
    kinds = {_kind(row) for row in rows if not math.isnan(row.measured.forward)}
    for kind, colour in _COLOURS.items():
        if kind in kinds:
            label = kind if kind == "measured" else f"measured, {kind}"
            entries.append(Line2D([], [], linestyle="none", marker="o", markersize=4, color=colour, label=label))
    panel.legend(handles=entries, fontsize=8, frameon=False, ncols=len(entries), loc="lower left")


def _name_layers(panel: Any, rows: Sequence[SignalRow]) -> None:
    """Names under the axis: of the layers with weights, as many as there is room for."""
    weighted = [place for place, row in enumerate(rows) if row.kind == "weights"] or list(range(len(rows)))
    step = -(-len(weighted) // _MOST_NAMES)
    shown = weighted[::step]
    panel.set_xticks(shown, [_short_name(rows[place].layer or rows[place].label) for place in shown], rotation=60, ha="right", fontsize=7)
    panel.set_xlim(-0.5, max(len(rows) - 0.5, 0.5))


def _short_name(name: str, most: int = 26) -> str:
    """The end of a long name, which tells more than its beginning."""
    return name if len(name) <= most else f"...{name[3 - most :]}"


def draw_histograms(samples: Mapping[str, tuple[Any, Any]], path: str | os.PathLike[str]) -> None:
    """Writes a PNG: the distributions of each activation's outputs and of their gradients, one curve a layer, overlaid.

    Args:
        samples: outputs and gradients (or None) by layer, in order, as flat tensors on the CPU.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 6.4), dpi=100, layout="constrained")
    panels: Any = figure.subplots(2, 1)
    colours = colormaps["viridis"]
    for side, (panel, label) in enumerate(zip(panels, ("output of the activation", "gradient by it"), strict=True)):
        values = {name: pair[side] for name, pair in samples.items() if pair[side] is not None}
        reach = max((float(value.abs().quantile(0.995)) for value in values.values()), default=1.0) or 1.0
        for place, (name, value) in enumerate(values.items()):
            counts = value.histc(101, -reach, reach) / value.numel()
            edges = [(-1 + 2 * (k + 0.5) / 101) * reach for k in range(101)]
            colour = colours(place / max(len(values) - 1, 1) * 0.9)
            shown = name if len(values) <= 12 or place in (0, len(values) // 2, len(values) - 1) else None
            panel.plot(edges, counts.tolist(), color=colour, linewidth=1.2, label=shown)
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.set_xlabel(label)
        panel.set_ylabel("share a bin")
        panel.grid(True, color="#e6e6e6", linewidth=0.6)
        if values:
            panel.legend(fontsize=7, frameon=False)
    FigureCanvasAgg(figure)
    write_atomic(path, lambda file: figure.savefig(file, format="png"))
