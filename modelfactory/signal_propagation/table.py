"""The table of a signal: one row a layer, predicted and measured side by side."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from modelfactory.config.files import write_text
from modelfactory.config.printable import aligned
from modelfactory.signal_propagation.row import SignalRow

_SHOWN = ("forward", "gradient", "cosine", "saturated", "dead")
NUMBERS = ("forward", "gradient", "mean", "cosine", "saturated", "dead")
SPECTRUM = ("jacobian_mean", "jacobian_variance", "token_cosine", "effective_rank", "attention_entropy", "update")
PREDICTED = ("jacobian_mean", "jacobian_variance", "token_cosine")  # of these six, those that are predicted too
BAND = ("forward_low", "forward_high", "gradient_low", "gradient_high")
COLUMNS = (
    "layer",
    "call",
    "kind",
    "shape",
    *(f"{name}_{side}" for name in NUMBERS for side in ("predicted", "measured")),
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
        hints: what is worth knowing, and not wrong.
        samples: outputs of activations and their gradients by layer, where they were to be kept.
        remarks: what the architecture itself, whatever its weights, is to be warned of.
        failures: what could not be looked at, each with its place and what was raised there; the rest of the table holds.
    """

    def __init__(
        self,
        rows: Iterable[SignalRow],
        input_scale: float = 1.0,
        input_cosine: float = 0.0,
        warnings: Iterable[str] = (),
        samples: Mapping[str, tuple[Any, Any]] | None = None,
        failures: Iterable[str] = (),
        remarks: Iterable[str] = (),
        hints: Iterable[str] = (),
    ):
        self.rows = tuple(rows)
        self.input_scale = input_scale
        self.input_cosine = input_cosine
        self.warnings = tuple(warnings)
        self.samples = dict(samples or {})
        self.failures = tuple(failures)
        self.remarks = tuple(remarks)
        self.hints = tuple(hints)

    def changed(
        self,
        rows: Iterable[SignalRow] | None = None,
        warnings: Iterable[str] | None = None,
        hints: Iterable[str] | None = None,
        failures: Iterable[str] | None = None,
    ) -> SignalTable:
        """The same with other rows, warnings, hints or failures."""
        return SignalTable(
            self.rows if rows is None else rows,
            self.input_scale,
            self.input_cosine,
            self.warnings if warnings is None else warnings,
            self.samples,
            self.failures if failures is None else failures,
            self.remarks,
            self.hints if hints is None else hints,
        )

    def __iter__(self) -> Iterator[SignalRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> SignalRow:
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
        extra = self._extra_columns()
        writer.writerow([*COLUMNS, *extra])
        writer.writerows([_cell(value) for value in (*_values(row), *_extra_values(row, extra))] for row in self.rows)
        if path is not None:
            write_text(path, text.getvalue())
        return text.getvalue()

    def _extra_columns(self) -> list[str]:
        """Those of a spectrum and of draws, where they were asked for."""
        sides = [f"{name}_{side}" for name in SPECTRUM for side in ("predicted", "measured") if side == "measured" or name in PREDICTED]
        asked = any(not math.isnan(getattr(row.measured, name)) for row in self.rows for name in SPECTRUM)
        return [*(sides if asked else ()), *(BAND if any(row.band is not None for row in self.rows) else ())]

    def plot(self, path: str | os.PathLike[str], title: str = "", histograms: bool = False) -> None:
        """Draws the table against depth into a PNG: the predicted line, the measured points, bad layers in red.

        Args:
            path: of the file.
            title: in place of the verdict.
            histograms: draw instead the distributions of what activations gave and got; the table has to have kept them.

        Raises:
            ValueError: histograms of a table that was made without.
        """
        from modelfactory.signal_propagation.plot import draw, draw_histograms

        if not histograms:
            draw(self, path, title)
        elif self.samples:
            draw_histograms(self.samples, path)
        else:
            raise ValueError("this table has kept no values; make it with histograms=True")

    def __str__(self) -> str:
        measured = any(not math.isnan(row.measured.forward) for row in self.rows)
        extra = self._extra_columns()
        lines = [_head(measured, extra), *(_line(row, measured, extra) for row in self.rows)]
        kept = [column for column in range(len(lines[0])) if any(line[column] for line in lines[1:])]
        table = aligned([[line[column] for column in kept] for line in lines])
        return "\n".join([*table, *(f"warning: {warning}" for warning in self.warnings), *(f"hint: {hint}" for hint in self.hints)])

    def __repr__(self) -> str:
        return f"SignalTable of {len(self)} layers"


def _values(row: SignalRow) -> list[object]:
    numbers = [getattr(side, name) for name in NUMBERS for side in (row.predicted, row.measured)]
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


def _extra_values(row: SignalRow, columns: Sequence[str]) -> list[float]:
    """What a row has in the columns of a spectrum and of draws."""
    band = dict(zip(BAND, row.band or (math.nan,) * len(BAND), strict=True))

    def value(column: str) -> float:
        name, _, side = column.rpartition("_")
        return band[column] if column in band else getattr(row.predicted if side == "predicted" else row.measured, name)

    return [value(column) for column in columns]


def _head(measured: bool, extra: Sequence[str]) -> list[str]:
    sides = ("", " measured") if measured else ("",)
    named = [f"{name}{side}" for name in _SHOWN for side in sides]
    told = [column.removesuffix("_predicted").replace("_", " ") for column in extra]
    return ["layer", "call", "shape", *named, *told, "verdict", "note"]


def _line(row: SignalRow, measured: bool, extra: Sequence[str]) -> list[str]:
    sides = (row.predicted, row.measured) if measured else (row.predicted,)
    numbers = [_short(name, getattr(side, name)) for name in _SHOWN for side in sides]
    shape = "x".join(map(str, row.shape[1:]))
    more = [_short(column, value) for column, value in zip(extra, _extra_values(row, extra), strict=True)]
    return [row.layer, row.label, shape, *numbers, *more, row.verdict, row.note]


def _short(name: str, value: float) -> str:
    if math.isnan(value):
        return ""
    if name in ("saturated", "dead"):
        return f"{value:.0%}"
    return f"{value:.2f}" if name == "cosine" else f"{value:.3g}"
