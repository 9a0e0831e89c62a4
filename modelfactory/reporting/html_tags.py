"""HTML in pieces, everything that comes from outside escaped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from html import escape
from pathlib import Path
from urllib.parse import quote


def tag(name: str, *inside: str, **attributes: str | None) -> str:
    """An element around markup; attributes are escaped, `_` stands for `-`, and None or "" leaves one out.

    Example:
        >>> tag("a", escape("a < b"), href='x"y', class_="", data_value="1")
        '<a href="x&quot;y" data-value="1">a &lt; b</a>'
    """
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items() if value)
    return f"<{name}{given}>{''.join(inside)}</{name}>"


def table(heads: Iterable[str], rows: Iterable[str], label: str, id: str | None = None) -> str:
    """A table in a box of its own that scrolls sideways, with the keyboard too."""
    inside = tag("thead", tag("tr", *heads)) + tag("tbody", *rows)
    return tag("div", tag("table", inside, id=id), class_="scroll", tabindex="0", role="region", aria_label=label)


def embedded(data: object) -> str:
    r"""Data as JSON that can stand in a script element: no value in it can end the element.

    Example:
        >>> embedded({"a": "</script><b>"})
        '{"a":"\\u003c/script\\u003e\\u003cb\\u003e"}'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def address(folder: Path, root: Path, file: str = "") -> str:
    """Where a run's folder, or a file in it, is, seen from the page.

    Example:
        >>> address(Path("sweep/a b"), Path("sweep"), "config.yaml")
        './a%20b/config.yaml'
    """
    relative = Path(os.path.relpath(folder, root)).as_posix()
    return f"./{quote(file)}" if relative == "." else f"./{quote(os.fsencode(relative))}/{quote(file)}"
