"""Pieces of HTML that a notebook shows: tables and printed text, all that comes from outside escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import islice

MOST = 200  # rows that are shown


def html_table(heads: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "", most: int = MOST) -> str:
    """Draw a table; of more than `most` rows the first, and how many are left out.

    Example:
        >>> html_table(["name"], [["a < b"]])
        '<table><thead><tr><th>name</th></tr></thead><tbody><tr><td>a &lt; b</td></tr></tbody></table>'
    """
    waiting = iter(rows)
    shown = [_row("td", row) for row in islice(waiting, most)]
    left = sum(1 for _ in waiting)
    if left:
        shown.append(f'<tr><td colspan="{len(heads)}">and {left:,} more</td></tr>')
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{above}<thead>{_row('th', heads)}</thead><tbody>{''.join(shown)}</tbody></table>"


def html_text(text: str) -> str:
    """Show text as it is printed; nothing where there is none.

    Example:
        >>> html_text("a < b"), html_text("")
        ('<pre>a &lt; b</pre>', '')
    """
    return f"<pre>{escape(text)}</pre>" if text else ""


def _row(cell: str, row: Sequence[object]) -> str:
    return f"<tr>{''.join(f'<{cell}>{escape(str(value))}</{cell}>' for value in row)}</tr>"
