"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import Any


def amount_of_bytes(size: float) -> str:
    """Bytes with a binary unit.

    Example:
        >>> amount_of_bytes(0), amount_of_bytes(1536), amount_of_bytes(28 * 2**30)
        ('0 B', '1.5 KiB', '28.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} B" if unit == "B" else f"{size:,.1f} {unit}"


def amount(number: float, unit: str = "") -> str:
    """A count with three digits and a decimal prefix.

    Example:
        >>> amount(0), amount(65_536), amount(8_178_368_512, "FLOPs")
        ('0', '65.5 k', '8.18 GFLOPs')
    """
    for prefix in ("", "k", "M", "G", "T", "P"):
        if number < 999.5 or prefix == "P":
            break
        number /= 1000
    digits = f"{number:.0f}" if number == 0 or number >= 99.95 or not prefix else f"{number:.3g}"
    return f"{digits} {prefix}{unit}".strip()


def figure(number: float | None) -> str:
    """A gain, a fan or a standard deviation with four digits; empty where there is none.

    Example:
        >>> figure(1.4142135), figure(4096.0), figure(float("nan")), figure(2.0e-5)
        ('1.414', '4096', '', '2e-05')
    """
    if number is None or math.isnan(number):
        return ""
    return f"{number:.0f}" if number == int(number) and abs(number) < 1e7 else f"{number:.4g}"


def shape_text(output: Any) -> str:
    """Shapes as `readable` gives them.

    Example:
        >>> shape_text(["N", 64]), shape_text((["N", 8, 4], None))
        ('[N, 64]', '([N, 8, 4], ...)')
    """
    if output is None:
        return "-"
    if isinstance(output, tuple):
        return f"({shape_text(output[0])}{', ...' if len(output) > 1 else ''})" if output else "()"
    return "[" + ", ".join(map(str, output)) + "]"
