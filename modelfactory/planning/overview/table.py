"""Tables in plain text: columns aligned, and split into several tables where the page is too narrow for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

_GAP = "  "


@dataclass(frozen=True)
class Column:
    """One column: its head, its cells, and whether they are numbers."""

    head: str
    cells: tuple[str, ...]
    right: bool = False

    @cached_property
    def width(self) -> int:
        return max(map(len, (self.head, *self.cells)))

    def lines(self) -> list[str]:
        width = self.width
        return [cell.rjust(width) if self.right else cell.ljust(width) for cell in (self.head, *self.cells)]


def table(columns: Sequence[Column], width: int) -> str:
    """The columns beside one another; where they do not fit, further tables below that begin with the first column again.

    Columns whose cells are all empty are left out. A first column that takes more than half of the page is shortened in
    the middle.

    Example:
        >>> print(table([Column("layer", ("fc", "head")), Column("numbers", ("1,024", "8"), right=True)], 80))
        layer  numbers
        fc       1,024
        head         8
    """
    first, *others = columns
    first = _shortened(first, width // 2)
    others = [column for column in others if any(column.cells)]
    parts: list[list[Column]] = [[first]]
    for column in others:
        if len(parts[-1]) > 1 and sum(part.width + len(_GAP) for part in parts[-1]) + column.width > width:
            parts.append([first])
        parts[-1].append(column)
    texts = []
    for part in parts:
        rows = zip(*(column.lines() for column in part), strict=True)
        texts.append("\n".join(_GAP.join(row).rstrip() for row in rows))
    return "\n\n".join(texts)


def _shortened(column: Column, width: int) -> Column:
    return Column(column.head, tuple(_short(cell, width) for cell in column.cells), column.right)


def _short(cell: str, width: int) -> str:
    if len(cell) <= width:
        return cell
    head = width // 3
    return f"{cell[:head]}...{cell[len(cell) - (width - head - 3) :]}"
