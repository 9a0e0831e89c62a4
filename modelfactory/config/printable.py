"""Text and numbers made fit for a terminal, a spreadsheet and JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

# control characters, which a terminal obeys; marks that turn the direction of what follows; halves of UTF-16 pairs, which cannot be printed
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # as plain and as wide characters


def printable(text: str) -> str:
    r"""A text in which what a terminal would obey is written out; lines and tabs stay.

    Example:
        >>> print(printable("init=\x1b[31mred\ud800"))
        init=\x1b[31mred\ud800
    """
    return _UNFIT.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    r"""A printable text in one line.

    Example:
        >>> one_line("a\n  b\tc")
        'a b c'
    """
    return " ".join(printable(text).split())


def spreadsheet_cell(text: str) -> str:
    """A text in one line that no spreadsheet takes for a formula: what begins like one, and is no number, has an apostrophe before it.

    Example:
        >>> [spreadsheet_cell(text) for text in ("=1+1", "-0.5", "@SUM(A1)", "relu")]
        ["'=1+1", '-0.5', "'@SUM(A1)", 'relu']
    """
    line = one_line(text)
    return f"'{line}" if line.startswith(_FORMULA) and not _is_number(line) else line


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table of text, each column as wide as its widest cell.

    Example:
        >>> aligned([("name", "std"), ("fc.weight", "0.1")])
        ['name       std', 'fc.weight  0.1']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def finite(value: float) -> float | None:
    """A number, or None for what JSON and a table have no number for: NaN, infinity, a whole number beyond all floats.

    Example:
        >>> finite(0.5), finite(float("nan"))
        (0.5, None)
    """
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
