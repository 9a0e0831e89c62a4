"""An assertion about the initial values of a model, for a test of one's own."""

from __future__ import annotations

import os
from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from modelfactory.auditing.audit import audit
from modelfactory.auditing.finding import Audit


def assert_init(
    model: nn.Module,
    batch: Any = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    level: str = "warn",
    ignore: Collection[str] = (),
) -> None:
    """Fails a test where something is wrong with the initial values of a model, with what it is and what would fix it.

    Args:
        batch, checkpoint: as for `mf.audit`.
        level: the least that fails: "warn" or "error".
        ignore: globs over names, or kinds of findings, that are meant.

    Raises:
        AssertionError: with the table of the findings.

    Example:
        >>> assert_init(nn.Linear(8, 2))
        >>> layer = nn.Linear(8, 2)
        >>> layer.weight.data[0, 0] = float("nan")
        >>> assert_init(layer)
        Traceback (most recent call last):
        AssertionError: error  not_finite  weight
        ...
    """
    found = audit(model, batch, checkpoint=checkpoint)
    left = [finding for finding in found.at(level) if not any(fnmatchcase(finding.name, one) or finding.kind == one for one in ignore)]
    if left:
        raise AssertionError(Audit(tuple(left), found.notes).text())
