"""How the signal is predicted to travel, as a plan shows it; and which initialisation would mend one that does not."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from modelfactory.config.advice import Advice
from modelfactory.config.errors import Problems, first_line
from modelfactory.config.printable import finite
from modelfactory.init.ledger import LedgerRow
from modelfactory.init.recipes import recipe_names
from modelfactory.init.rules import InitSpec, read_init
from modelfactory.init.scheme_call import FromScheme
from modelfactory.planning.overview.table import Column, table
from modelfactory.signal_propagation.predict import predict
from modelfactory.signal_propagation.row import SignalRow
from modelfactory.signal_propagation.verdict import INITS, find_fix, is_fatal, summary, worst

_SHOWN = 24  # rows of the table, unless all are asked for
_MENDED = 400  # rows up to which mends are tried: each try predicts the whole net again


@dataclass(frozen=True)
class Prediction:
    """A prediction, or why there is none.

    Attributes:
        rows: of the signal table, in the order of the calls.
        verdict: the gravest of the rows; None without a prediction.
        said: what is wrong, in a sentence; "" where nothing is.
        reason: why nothing could be predicted.
        remarks: what the architecture, whatever its weights, is to be warned of.
    """

    rows: tuple[SignalRow, ...] = ()
    verdict: str | None = None
    said: str = ""
    fatal: bool = False
    reason: str | None = None
    remarks: tuple[str, ...] = ()

    def text(self, every: bool, width: int) -> str:
        """The table: of a net of many layers the first, the last and some between."""
        if not self.rows:
            return "" if self.reason is None else f"signal       not predicted: {self.reason}"
        shown = list(self.rows) if every else _some(self.rows)
        head = "predicted signal: rms of what leaves each layer, for inputs of variance 1, and of its gradient, for one of variance 1"
        head += " at the output"
        if len(shown) < len(self.rows):
            head += f" ({len(shown)} of {len(self.rows):,} rows; --all shows every one)"
        numbers = ("forward", "gradient", "cosine", "saturated", "dead")
        columns = [
            Column("layer", tuple(row.layer or "(the model)" for row in shown)),
            Column("call", tuple(row.label for row in shown)),
            *(Column(name, tuple(_short(getattr(row.predicted, name), name) for row in shown), right=True) for name in numbers),
            Column("verdict", tuple(row.verdict for row in shown)),
            Column("note", tuple(_clipped(row.note) for row in shown)),
        ]
        return f"{textwrap.fill(head, width)}\n{table(columns, width)}"

    def to_list(self) -> list[dict[str, Any]]:
        """The rows as plain data; null is what is not known."""
        return [_plain(row) for row in self.rows]


def predicted(model: nn.Module, rows: Sequence[LedgerRow], example: torch.Tensor | None) -> Prediction:
    """The signal in a model on the meta device whose parameters will have the means and standard deviations of these rows."""
    if example is None:
        return Prediction(reason="the config has no data.input_shape")
    moments = {name: moments_of(row) for row in rows if row.role != "buffer" for name in row.name.split(" = ")}
    try:
        found = predict(model, example, moments)
    except Exception as error:  # a forward of one's own may need values, which there are none of
        return Prediction(reason=first_line(error))
    return Prediction(found.rows, worst(found), summary(found), is_fatal(found), remarks=found.remarks)


def moments_of(row: LedgerRow) -> tuple[float, float, bool]:
    """What a parameter is expected to be like: mean and std, NaN where no formula tells, and whether its rows add up to 0."""
    mean, std = row.expected_mean, row.expected_std
    return math.nan if mean is None else mean, math.nan if std is None else std, row.scheme == "centred_normal"


def mended(prediction: Prediction, init: InitSpec, predict_with: Callable[[InitSpec], Prediction]) -> list[Advice]:
    """What to say of a signal that does not travel, with the first override of the config by which it is predicted to.

    Args:
        init: that of the config.
        predict_with: the prediction of the same model under another one.
    """
    remarks = [Advice(f"predicted signal: {remark}") for remark in prediction.remarks]
    if not prediction.said:
        return remarks
    tried = init_overrides(init) if prediction.fatal and len(prediction.rows) <= _MENDED else ()
    mend = find_fix(tried, lambda other: predict_with(other).fatal)
    return [Advice(f"predicted signal: {prediction.said}", mend), *remarks]


def init_overrides(init: InitSpec) -> Iterator[tuple[str, InitSpec]]:
    """Overrides that may mend a signal, each with the init that a config has by it.

    The gains that the config gives as numbers, at `auto`, as an override of a value wins over the choice of a group; then inits.

    Example:
        >>> spec = read_init("zeros", "init", Problems())
        >>> [override for override, _ in init_overrides(spec)][:2]
        ['init=auto', 'init=kaiming_normal']
    """
    for index, rule in enumerate(init.rules):
        if isinstance(rule.call, FromScheme) and isinstance(rule.call.gain, float) and rule.path.startswith("init.rules."):
            changed = replace(rule, call=replace(rule.call, gain="auto"))
            yield f"{rule.path}.gain=auto", replace(init, rules=(*init.rules[:index], changed, *init.rules[index + 1 :]))
    for name in INITS:
        read = read_init(name, "init", Problems()) if name in recipe_names() else None
        if read is not None:
            yield f"init={name}", read


def _some(rows: Sequence[SignalRow]) -> list[SignalRow]:
    """The first and the last rows, the first of each verdict, and some between, in their order."""
    if len(rows) <= _SHOWN:
        return list(rows)
    first_of: dict[str, int] = {}
    for index, row in enumerate(rows):
        first_of.setdefault(row.verdict, index)
    kept = {*range(4), *range(len(rows) - 4, len(rows)), *first_of.values()}
    between = _SHOWN - len(kept)
    kept |= {round(index * (len(rows) - 1) / (between + 1)) for index in range(1, between + 1)}
    return [rows[index] for index in sorted(kept)]


def _short(value: float, name: str) -> str:
    if math.isnan(value):
        return ""
    if name in ("saturated", "dead"):  # shares, of which a thousandth is nothing
        return f"{value:.0%}" if value >= 0.005 else ""
    return f"{round(value, 2) + 0.0:.2f}" if name == "cosine" else f"{value:.3g}"


def _clipped(note: str, limit: int = 60) -> str:
    return note if len(note) <= limit else f"{note[: limit - 3]}..."


def _plain(row: SignalRow) -> dict[str, Any]:
    numbers = {name: getattr(row.predicted, name) for name in ("forward", "gradient", "mean", "cosine", "saturated", "dead")}
    numbers |= {name: getattr(row, name) for name in ("chi_1", "xi_q", "xi_c")}
    told = {name: finite(value) for name, value in numbers.items()}
    return {"layer": row.layer, "call": row.label, "kind": row.kind, **told, "verdict": row.verdict, "note": row.note}
