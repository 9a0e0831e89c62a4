"""The table of a signal: one row a layer, predicted and measured side by side."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelfactory.files import write_text

_NAN = math.nan


@dataclass(frozen=True)
class Numbers:
    """What a layer's output is like; NaN where it is not known or does not apply.

    Attributes:
        forward: root mean square over inputs, units and places.
        gradient: root mean square of the gradient by it, of a loss whose gradient by the model's output is standard normal.
        mean: over inputs, units and places.
        cosine: between two different inputs' outputs, a mean over pairs.
        saturated: share of outputs where a bounded activation is flat, as tanh is beyond 0.97.
        dead: share of units that a rectifier turns off for every input of the batch.
    """

    forward: float = _NAN
    gradient: float = _NAN
    mean: float = _NAN
    cosine: float = _NAN
    saturated: float = _NAN
    dead: float = _NAN


@dataclass(frozen=True)
class Row:
    """One layer, in the order in which the model calls them.

    Attributes:
        node: its number in the graph.
        layer: the full name of the module; of a call in a forward, the module whose forward it is.
        label: the module's class, or the function called.
        kind: weights, norm, activation, add, ...
        shape: of its output, the batch first.
        predicted, measured: the numbers.
        chance: by which share the measured second moments may differ from the predicted ones by the finite width (one
            standard deviation of the logarithm), forward and backward.
        chi_1: by which the gradient's second moment grows over this activation and the weights after it.
        xi_q, xi_c: layers over which a deviation of the variance, and one of the cosine, shrinks to 1/e; infinite where it does not.
        verdict: ok, weak, vanishing, exploding, dead, saturated, correlated, or unexpected (measured is not as predicted).
        note: what else is to be said.
    """

    node: int
    layer: str
    label: str
    kind: str
    shape: tuple[int, ...]
    predicted: Numbers = field(default_factory=Numbers)
    measured: Numbers = field(default_factory=Numbers)
    chance: tuple[float, float] = (_NAN, _NAN)
    chi_1: float = _NAN
    xi_q: float = _NAN
    xi_c: float = _NAN
    verdict: str = "ok"
    note: str = ""


_SHOWN = ("forward", "gradient", "cosine", "saturated", "dead")
_NUMBERS = ("forward", "gradient", "mean", "cosine", "saturated", "dead")
COLUMNS = (
    "layer",
    "call",
    "kind",
    "shape",
    *(f"{name}_{side}" for name in _NUMBERS for side in ("predicted", "measured")),
    "chance_forward",
    "chance_gradient",
    "chi_1",
    "xi_q",
    "xi_c",
    "verdict",
    "note",
)


class SignalTable:
    """How a signal travels: one row a layer.

    Attributes:
        rows: in the order of the calls.
        input_scale: root mean square of the model's input.
        input_cosine: between two of its inputs.
        warnings: what is wrong, and what would mend it.
        samples: outputs of activations and their gradients by layer, where they were to be kept.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        input_scale: float = 1.0,
        input_cosine: float = 0.0,
        warnings: Iterable[str] = (),
        samples: Mapping[str, tuple[Any, Any]] | None = None,
    ):
        self.rows = tuple(rows)
        self.input_scale = input_scale
        self.input_cosine = input_cosine
        self.warnings = tuple(warnings)
        self.samples = dict(samples or {})

    def changed(self, rows: Iterable[Row] | None = None, warnings: Iterable[str] | None = None) -> SignalTable:
        """The same with other rows, or other warnings."""
        return SignalTable(
            self.rows if rows is None else rows,
            self.input_scale,
            self.input_cosine,
            self.warnings if warnings is None else warnings,
            self.samples,
        )

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Row:
        """A row by its number, or the first of a layer by its name."""
        if isinstance(key, int):
            return self.rows[key]
        for row in self.rows:
            if row.layer == key:
                return row
        raise KeyError(key)

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """Writes the rows as CSV, whole or not at all; returns the text. Empty cells are what is not known."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(value) for value in _values(row)] for row in self.rows)
        if path is not None:
            write_text(path, text.getvalue())
        return text.getvalue()

    def plot(self, path: str | os.PathLike[str], title: str = "", histograms: bool = False) -> None:
        """Draws the table against depth into a PNG: the predicted line, the measured points, bad layers in red.

        Args:
            path: of the file.
            title: in place of the verdict.
            histograms: draw instead the distributions of what activations gave and got; the table has to have kept them.

        Raises:
            ValueError: histograms of a table that was made without.
        """
        from modelfactory.signalling.picture import draw, draw_histograms

        if not histograms:
            draw(self, path, title)
        elif self.samples:
            draw_histograms(self.samples, path)
        else:
            raise ValueError("this table has kept no values; make it with histograms=True")

    def __str__(self) -> str:
        measured = any(not math.isnan(row.measured.forward) for row in self.rows)
        lines = [_head(measured), *(_line(row, measured) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        kept = [column for column in range(len(lines[0])) if any(line[column] for line in lines[1:])]
        table = ["  ".join(line[column].ljust(widths[column]) for column in kept).rstrip() for line in lines]
        return "\n".join([*table, *(f"warning: {warning}" for warning in self.warnings)])

    def __repr__(self) -> str:
        return f"SignalTable of {len(self)} layers"


def _values(row: Row) -> list[object]:
    numbers = [getattr(side, name) for name in _NUMBERS for side in (row.predicted, row.measured)]
    shape = "x".join(map(str, row.shape))
    return [
        row.layer,
        row.label,
        row.kind,
        shape,
        *numbers,
        *row.chance,
        row.chi_1,
        row.xi_q,
        row.xi_c,
        row.verdict,
        row.note,
    ]


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def _head(measured: bool) -> list[str]:
    sides = ("", " measured") if measured else ("",)
    named = [f"{name}{side}" for name in _SHOWN for side in sides]
    return ["layer", "call", "shape", *named, "verdict", "note"]


def _line(row: Row, measured: bool) -> list[str]:
    sides = (row.predicted, row.measured) if measured else (row.predicted,)
    numbers = [_short(name, getattr(side, name)) for name in _SHOWN for side in sides]
    shape = "x".join(map(str, row.shape[1:]))
    return [row.layer, row.label, shape, *numbers, row.verdict, row.note]


def _short(name: str, value: float) -> str:
    if math.isnan(value):
        return ""
    if name in ("saturated", "dead"):
        return f"{value:.0%}"
    return f"{value:.2f}" if name == "cosine" else f"{value:.3g}"
