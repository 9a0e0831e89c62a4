"""What an audit found: each finding with its number, why it matters and what would fix it; as a table, as plain data."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from modelfactory.config.errors import did_you_mean

LEVELS = ("error", "warn")
"""From the gravest down: values that cannot be meant, and values that are probably wrong."""
KINDS = (
    "not_finite",
    "never_written",
    "empty_buffer",
    "identical_units",
    "duplicate",
    "teacher",
    "wrong_fans",
    "scale",
    "truncated",
    "depth_scale",
    "norm_scale",
    "saturated",
    "not_zero",
    "adapter",
    "dead",
    "tied_scale",
    "signal",
    "first_loss",
    "not_loaded",
    "drawn_again",
    "unused_in_checkpoint",
)
"""What a finding may be of, each a section of docs/audit.md."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        name: the parameter, buffer or layer.
        kind: one of `KINDS`, a word that stays.
        level: "error" or "warn".
        message: the number seen and the one expected, and why it matters.
        fix: a rule or a line that would set it right.
    """

    name: str
    kind: str
    level: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.name}: {self.message}; to fix it: {self.fix}"


@dataclass(frozen=True)
class Audit:
    """The findings about one model; true where there are none.

    Attributes:
        findings: errors first, then in the order of the model.
        notes: what could not be looked at, and why; no finding.

    Example:
        >>> bool(Audit(())), len(Audit((Finding("fc.weight", "not_finite", "error", "3 of 6 are NaN", "draw it"),)))
        (True, 1)
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.findings

    def __len__(self) -> int:
        return len(self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def at(self, level: str) -> tuple[Finding, ...]:
        """The findings of a level and of those above it.

        Raises:
            ValueError: not a level.
        """
        if level not in LEVELS:
            raise ValueError(f"level: {level!r} is not one{did_you_mean(level, LEVELS)}")
        return tuple(finding for finding in self.findings if LEVELS.index(finding.level) <= LEVELS.index(level))

    def text(self, width: int = 120) -> str:
        """A table, findings of one kind about repeats of one layer as one row, with what would fix them."""
        lines = [line for group in _alike(self.findings) for line in _row(group, width)]
        errors = len(self.at("error"))
        total = f"{errors} error{'' if errors == 1 else 's'}, {len(self) - errors} warning{'' if len(self) - errors == 1 else 's'}"
        lines += ["clean: nothing is wrong with the initial values" if self else total]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, as `modelfactory audit --json` gives it."""
        return {"clean": bool(self), "findings": [dict(vars(finding)) for finding in self.findings], "notes": list(self.notes)}

    def __str__(self) -> str:
        return self.text()


def pattern(name: str) -> str:
    """A name with `*` for each number of a repeat in it.

    Example:
        >>> pattern("blocks.11.fc1.weight")
        'blocks.*.fc1.weight'
    """
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def _alike(findings: Sequence[Finding]) -> list[list[Finding]]:
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.level, finding.kind, pattern(finding.name)), []).append(finding)
    return list(groups.values())


def _row(group: Sequence[Finding], width: int) -> list[str]:
    first = group[0]
    more = "" if len(group) == 1 else f" (and {len(group) - 1} like it: {pattern(first.name)})"
    body = [f"{first.message}", f"fix: {first.fix}"]
    lines = [f"{first.level:5}  {first.kind}  {first.name}{more}"]
    for text in body:
        lines += textwrap.wrap(text, max(width - 9, 30), initial_indent=" " * 7, subsequent_indent=" " * 9, break_long_words=False)
    return lines
