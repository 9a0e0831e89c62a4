"""Looks at the initial values of any nn.Module, and says what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from modelfactory.auditing.depth import find_depth_scales
from modelfactory.auditing.finding import LEVELS, Audit, Finding
from modelfactory.auditing.loaded import Checkpoint, find_not_loaded, loaded_names, read_checkpoint
from modelfactory.auditing.norms import find_norm_scales
from modelfactory.auditing.outputs import find_signal, find_tied_scales, split_batch
from modelfactory.auditing.saturated import find_saturated
from modelfactory.auditing.scale import find_scales
from modelfactory.auditing.subject import Subject
from modelfactory.auditing.symmetry import find_duplicates, find_identical_units
from modelfactory.auditing.teachers import find_teachers
from modelfactory.auditing.truncation import find_truncated
from modelfactory.auditing.written import find_empty_buffers, find_unwritten
from modelfactory.auditing.zeros import find_zeros
from modelfactory.config.errors import contained

Check = Callable[[Subject], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    find_unwritten,
    find_empty_buffers,
    find_identical_units,
    find_duplicates,
    find_teachers,
    find_zeros,
    find_norm_scales,
    find_saturated,
    find_scales,
    find_truncated,
    find_depth_scales,
    find_tied_scales,
)


def audit(model: nn.Module, batch: Any = None, *, checkpoint: str | os.PathLike[str] | None = None) -> Audit:
    """What is wrong with the initial values of a model, built here or not; the model is left as it is.

    Costs at most about one training step. What an author did on purpose is no finding: a value is judged by what the model does
    with it and by the others of its kind.

    Args:
        batch: inputs of the model, as `mf.signal` takes them, or a pair of inputs and targets. Without one, what is told of the run
            comes from an input that fits the first layers, and neither the signal nor the first loss is measured.
        checkpoint: the file that the model was loaded from: what was not loaded is a finding, and what was is no initial value.

    Raises:
        ConfigError: no such checkpoint, or no file of weights.

    Example:
        >>> import modelfactory as mf
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> bool(mf.audit(model))
        True
        >>> nn.init.constant_(model[0].weight, 0.1).shape
        torch.Size([8, 8])
        >>> [(finding.name, finding.kind) for finding in mf.audit(model)]
        [('0.weight', 'identical_units')]
    """
    opened = None if checkpoint is None else read_checkpoint(model, checkpoint)
    return audit_with(model, batch, opened)


def audit_with(model: nn.Module, batch: Any, checkpoint: Checkpoint | None) -> Audit:
    """As `audit`, of a checkpoint that was read."""
    inputs, targets = split_batch(model, batch)
    loaded = frozenset() if checkpoint is None else loaded_names(model, checkpoint)
    subject = Subject(model, inputs, loaded)
    findings: list[Finding] = []
    if checkpoint is not None:
        findings += find_not_loaded(model, checkpoint, loaded)
    checks = list(CHECKS)
    if inputs is not None:
        checks.append(lambda subject: find_signal(subject, targets))
    for check in checks:
        _run(check, subject, findings)
    findings.sort(key=lambda finding: LEVELS.index(finding.level))
    return Audit(tuple(dict.fromkeys(findings)), tuple(dict.fromkeys(subject.notes)))


def _run(check: Check, subject: Subject, findings: list[Finding]) -> None:
    """Adds what a check finds; one that fails is a note, and the others go on."""
    failures: list[str] = []
    name = getattr(check, "__name__", "").removeprefix("find_").replace("_", " ")
    with contained(f"the look at {'the signal' if name == '<lambda>' else name}", failures):
        findings += check(subject)
    subject.notes += failures
