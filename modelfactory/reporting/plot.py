"""curves.png: the loss of each scheme over the epochs, with a band over seeds."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelfactory.config.files import write_atomic
from modelfactory.reporting.curves import Band, wants_log
from modelfactory.reporting.palette import LIGHT, NUM_COLOURS

TITLES = {"train_loss": "training loss", "val_loss": "validation loss"}
_GREY = "#9aa0a6"


def draw_curves(path: Path, title: str, curves: Sequence[tuple[str, Mapping[str, Band]]]) -> None:
    """Draws training and validation loss side by side: a scheme's median over seeds, its range as a band, x where a run broke off.

    The first eight schemes have a colour, the others are grey, so that fifty can be looked at; the axes are scaled to those in colour.

    Args:
        curves: label and bands (by column) of each scheme, the best first.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), dpi=110)
    figure.subplots_adjust(left=0.05, right=0.8, bottom=0.11, top=0.86, wspace=0.06)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    is_log = wants_log([bands[column] for _, bands in curves for column in TITLES if column in bands])
    for axis, (column, name) in zip(axes, TITLES.items(), strict=True):
        for index, (_, bands) in reversed(list(enumerate(curves))):  # the best on top
            _draw(axis, bands.get(column, Band()), index)
        _dress(axis, name, is_log, any(column in bands for _, bands in curves))
    shown = [bands[column] for _, bands in curves[:NUM_COLOURS] for column in TITLES if column in bands]
    if shown and len(curves) > NUM_COLOURS:
        axes[0].set_ylim(*_limits(shown, is_log))  # the two axes share it
    handles = _legend(curves)
    if handles:
        place = {"loc": "upper left", "bbox_to_anchor": (0.805, 0.89), "alignment": "left"}
        figure.legend(handles=handles, title="best first", frameon=False, fontsize=9, **place)
    figure.suptitle(textwrap.shorten(title, 110, placeholder=" ..."), x=0.01, ha="left", fontsize=11)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a label in a script that the font has not
        write_atomic(path, lambda file: figure.savefig(file, format="png"))


def _colour(index: int) -> str:
    return LIGHT[index] if index < NUM_COLOURS else _GREY


def _draw(axis: Any, curve: Band, index: int) -> None:
    colour, is_main = _colour(index), index < NUM_COLOURS
    if not curve.epochs:
        return
    marker = "o" if len(curve.epochs) == 1 else None
    axis.plot(curve.epochs, curve.middle, color=colour, linewidth=1.8 if is_main else 0.8, marker=marker, markersize=4)
    if is_main:
        axis.fill_between(curve.epochs, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    if curve.ends:
        epochs, values = zip(*curve.ends, strict=True)
        axis.plot(epochs, values, linestyle="none", marker="x", color=colour, markersize=7, markeredgewidth=1.8)


def _dress(axis: Any, name: str, is_log: bool, has_any: bool) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    axis.set_title(name, loc="left", fontsize=10)
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(color="#e3e6e8", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if is_log:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    if not has_any:
        axis.text(0.5, 0.5, "no epoch has ended yet", transform=axis.transAxes, ha="center", color="#666666")


def _limits(bands: Sequence[Band], is_log: bool) -> tuple[float, float]:
    """The range of the schemes in colour, with some room; those in grey may run off."""
    low, high = min(min(curve.low) for curve in bands), max(max(curve.high) for curve in bands)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return (low / 1.15, high * 1.15) if is_log else (low - room, high + room)


def _legend(curves: Sequence[tuple[str, Mapping[str, Band]]]) -> list[Any]:
    from matplotlib.lines import Line2D

    shown = [(index, label) for index, (label, bands) in enumerate(curves) if bands]
    handles = [Line2D([], [], color=_colour(index), linewidth=2, label=_short(label)) for index, label in shown if index < NUM_COLOURS]
    others = sum(index >= NUM_COLOURS for index, _ in shown)
    if others:
        handles.append(Line2D([], [], color=_GREY, linewidth=1, label=f"{others} other scheme{'' if others == 1 else 's'}"))
    if any(curve.ends for _, bands in curves for curve in bands.values()):
        handles.append(Line2D([], [], color="#444444", marker="x", linestyle="none", label="a run broke off"))
    return handles


def _short(label: str) -> str:
    """A label in at most three short lines; matplotlib takes what is between two dollars for mathematics."""
    lines = textwrap.wrap(label, 25, max_lines=3, placeholder=" ...") or [""]
    return "\n".join(lines).replace("$", r"\$")
