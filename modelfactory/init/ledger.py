"""The ledger: one row a parameter, saying where its values came from and what they are."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any, overload

from modelfactory.config.errors import ModelFactoryError
from modelfactory.config.files import write_text
from modelfactory.config.notebook import html_table
from modelfactory.config.printable import aligned
from modelfactory.init.assign import Assignment
from modelfactory.init.scheme_call import Default, FromFile
from modelfactory.numerics.fingerprint import combined
from modelfactory.numerics.rng import INIT_VERSION


@dataclass(frozen=True)
class LedgerRow:
    """A parameter's account.

    Attributes:
        name: its full name; a tied parameter has all of its names, joined by " = ".
        shape, numel, dtype: of the tensor, shape as "3x4".
        module: the class that owns it.
        role: what it is there for; several are joined by a blank. `buffer`: no parameter, but loaded as they are.
        origin: pretrained, rule or default (its author's own init).
        rule: the rule that chose it: its name, or the config path of one beside a layer.
        scheme, fan_in, fan_out, gain: what filled it, for what is pretrained FILE:TENSOR; empty where it has none.
        expected_mean, expected_std: of an entry, by the scheme's formula; empty without a closed form.
        mean, std: of its entries, as drawn.
        trainable: whether it is not frozen at first.
        group: the optimizer group it is in; empty when frozen for good.
    """

    name: str
    shape: str
    numel: int
    dtype: str
    module: str
    role: str
    origin: str
    rule: str
    scheme: str
    fan_in: float | None
    fan_out: float | None
    gain: float | None
    expected_mean: float | None
    expected_std: float | None
    mean: float | None
    std: float | None
    trainable: bool
    group: str


COLUMNS = tuple(field.name for field in fields(LedgerRow))


class Ledger:
    """One row a parameter, in the model's order.

    Attributes:
        rows: the rows.
        digests: after a build, a hash of each parameter's initial values (in float32) by its first name.
        init_version: raised whenever the same seed, name, shape and scheme give other values than before.

    Example:
        >>> import modelfactory as mf
        >>> from torch import nn
        >>> ledger = mf.initialize(nn.Sequential(nn.Linear(4, 2)), {"match": "*.bias", "scheme": "zeros"})
        >>> ledger["0.bias"].scheme, ledger["0.bias"].std
        ('zeros', 0.0)
    """

    def __init__(self, rows: Iterable[LedgerRow], digests: Mapping[str, str] | None = None):
        self.rows = tuple(rows)
        self.digests = dict(digests or {})
        self.init_version = INIT_VERSION

    @property
    def fingerprint(self) -> str:
        """16 hex digits of all initial values together; "" where there are none. Equal ones mean equal values of equal names.

        Example:
            >>> import modelfactory as mf
            >>> from torch import nn
            >>> rule = {"match": "*", "scheme": "normal", "std": 0.1}
            >>> mf.initialize(nn.Linear(4, 2), rule).fingerprint == mf.initialize(nn.Linear(4, 2).double(), rule).fingerprint
            True
        """
        return combined(self.digests) if self.digests else ""

    def __iter__(self) -> Iterator[LedgerRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, key: int) -> LedgerRow: ...
    @overload
    def __getitem__(self, key: str) -> LedgerRow: ...
    def __getitem__(self, key: int | str) -> LedgerRow:
        if isinstance(key, int):
            return self.rows[key]
        for row in self.rows:
            if key in row.name.split(" = "):
                return row
        raise KeyError(key)

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """Writes the rows as CSV, whole or not at all; returns the text.

        Empty cells stand for what does not apply; numbers have 8 significant digits.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(value) for value in astuple(row)] for row in self.rows)
        if path is not None:
            write_text(path, text.getvalue())
        return text.getvalue()

    def to_pandas(self) -> Any:
        """Give the rows as a pandas DataFrame, indexed by name; what does not apply is NaN or None.

        Raises:
            ModelFactoryError: pandas is not installed.

        Example:
            >>> import importlib.util
            >>> frame = Ledger([]).to_pandas() if importlib.util.find_spec("pandas") else None
            >>> frame is None or list(frame.columns) == list(COLUMNS[1:])
            True
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports] (an extra)
        except ImportError as error:
            raise ModelFactoryError("to_pandas needs pandas: pip install pandas; to_csv does without") from error
        return pandas.DataFrame([astuple(row) for row in self.rows], columns=list(COLUMNS)).set_index("name")

    def _table(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """The columns that say something, and their cells."""
        head = ("name", "shape", "role", "origin", "rule", "scheme", "gain", "expected_std", "std", "trainable")
        shown = [name for name in head if any(_short(getattr(row, name)) for row in self.rows)] or list(head[:1])
        return shown, [tuple(_short(getattr(row, name)) for name in shown) for row in self.rows]

    def _repr_html_(self) -> str:
        """Give the table that a notebook shows."""
        return html_table(*self._table(), caption=repr(self))

    def __str__(self) -> str:
        shown, rows = self._table()
        return "\n".join(aligned([tuple(shown), *rows]))

    def __repr__(self) -> str:
        return f"Ledger of {len(self)} parameters, {sum(row.numel for row in self):,} numbers"


def _cell(value: object) -> object:
    if value is None or isinstance(value, float) and math.isnan(value):
        return ""
    return f"{value:.8g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else value


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) and not math.isnan(value) else str(_cell(value))


def ledger_row(item: Assignment, numbers: tuple[float, float], group: str, trainable: bool) -> LedgerRow:
    info, call = item.info, item.call
    return LedgerRow(
        name=" = ".join(info.names),
        shape="x".join(map(str, info.parameter.shape)) or "scalar",
        numel=info.parameter.numel(),
        dtype=str(info.parameter.dtype).removeprefix("torch."),
        module=type(info.module).__name__,
        role=" ".join(info.roles),
        origin="pretrained" if isinstance(call, FromFile) else "default" if isinstance(call, Default) else "rule",
        rule=item.choice.rule,
        scheme=call.name,
        fan_in=item.fans.fan_in if item.fans is not None else None,
        fan_out=item.fans.fan_out if item.fans is not None else None,
        gain=item.gain,
        expected_mean=item.expected[0],
        expected_std=item.expected[1],
        mean=numbers[0],
        std=numbers[1],
        trainable=trainable,
        group=group,
    )
