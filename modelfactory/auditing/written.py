"""Find values that are no initial values at all: not finite, never written, buffers that nothing filled."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from modelfactory.auditing.finding import Finding
from modelfactory.auditing.subject import AuditedParameter, Subject

_ABSURD = 1e6
_TINY = 1e-30
_SHARE = 0.01
_DRAW = "mf.initialize(model, {{'match': '{name}', 'scheme': '{scheme}'}}), or write it in its module's constructor"
_POSITIONS = re.compile(r"freq|timescale|position_ids|position_index|^(cos|sin)(_cached)?$")


def find_unwritten(subject: Subject) -> Iterator[Finding]:
    """Parameters that are not finite, or are memory as it lay there."""
    for item in subject.all_items:
        found = _of_parameter(item)
        if found is not None:
            subject.unwritten.add(item.name)
            yield found


def _of_parameter(item: AuditedParameter) -> Finding | None:
    fix = _DRAW.format(name=item.name, scheme="ones" if item.has("norm") else "zeros" if item.has("bias") else "xavier_normal")
    if item.info.parameter.is_meta:
        message = "it is on the meta device: it has a shape and no values; every forward with it fails"
        return Finding(item.name, "never_written", "error", message, f"model.to_empty(device=...), and then {fix}")
    if item.values is None or not item.values.numel():
        return None
    if not item.is_finite:
        bad = int((~torch.isfinite(item.values)).sum())
        message = f"{bad:,} of {item.values.numel():,} values are NaN or infinite, where all should be finite: the first output is NaN"
        return Finding(item.name, "not_finite", "error", message, fix)
    largest = max(abs(item.low), abs(item.high))
    if largest > _ABSURD:
        message = f"values go up to {largest:.3g}, as memory does that nothing was written to (torch.empty, to_empty)"
        return Finding(item.name, "never_written", "error", message, fix)
    share = _denormal(item.values)
    if share > _SHARE:
        message = f"{share:.0%} of the values are below {_TINY:g} and not 0, as memory is that nothing was written to (torch.empty)"
        return Finding(item.name, "never_written", "error", message, fix)
    return None


def _denormal(values: Tensor) -> float:
    """The share of values that no initialisation gives: not 0, and as good as 0."""
    if values.dtype is torch.float16:
        return 0.0
    size = values.abs()
    return ((size > 0) & (size < _TINY)).float().mean().item()


def find_empty_buffers(subject: Subject) -> Iterator[Finding]:
    """Buffers with NaN, statistics that no norm can divide by, and tables of positions that are 0 throughout."""
    for name, buffer in subject.model.named_buffers():
        if name in subject.loaded:
            continue
        message = _of_buffer(name, buffer)
        if message is not None:
            fix = f"write {name} again after to_empty or a load, by the code of its module's constructor"
            yield Finding(name, "empty_buffer", "error", message, fix)


def _of_buffer(name: str, buffer: Tensor) -> str | None:
    if buffer.is_meta:
        return "it is on the meta device: it has a shape and no values"
    attr = name.rpartition(".")[2]
    if buffer.numel() > 1 and _POSITIONS.search(attr) and not bool(buffer.any()):
        return f"all {buffer.numel():,} values are 0, so it tells no position from another"
    if not buffer.is_floating_point():
        return None
    nan = int(torch.isnan(buffer).sum())
    if nan:
        return f"{nan:,} of {buffer.numel():,} values are NaN"
    if attr == "running_var" and bool((buffer <= 0).any()):
        return f"the least variance is {buffer.min().item():.3g}, and it starts at 1: in evaluation the norm divides by it"
    finite = buffer[torch.isfinite(buffer)].abs()
    if attr in ("running_var", "running_mean") and finite.numel() and finite.max() > _ABSURD**2:
        return f"values go up to {finite.max().item():.3g}, as memory does that nothing was written to"
    tiny = _denormal(buffer)
    if attr in ("running_var", "running_mean") and tiny > _SHARE:
        return f"{tiny:.0%} of the values are below {_TINY:g} and not 0, as in memory that nothing was written to"
    return None
