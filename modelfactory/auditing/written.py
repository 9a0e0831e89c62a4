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
_MEMORY = "as memory is that nothing was written to"
_DRAW = "mf.initialize(model, {{'match': '{name}', 'scheme': '{scheme}'}}), or write it in its module's constructor"
_POSITIONS = re.compile(r"freq|timescale|position_ids|position_index|^(cos|sin)(_cached)?$|^pe$|^pos(itional)?_(enc|emb)")
_WAVES = re.compile(r"^(cos|sin)(_cached)?$")
_FREQUENCIES = re.compile(r"^(original_)?inv_freq$")
_LARGEST_WAVE, _FASTEST = 10.0, 1e3
_LARGEST_PLACE, _LARGEST_COUNT = 1e8, 1e12


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
        return None if buffer.is_complex() or buffer.dtype is torch.bool or not buffer.numel() else _of_integers(attr, buffer)
    nan = int(torch.isnan(buffer).sum())
    if nan:
        return f"{nan:,} of {buffer.numel():,} values are NaN"
    if attr == "running_var" and bool((buffer <= 0).any()):
        return f"the least variance is {buffer.min().item():.3g}, and it starts at 1: in evaluation the norm divides by it"
    if attr in ("running_var", "running_mean"):
        return _garbage(buffer, _ABSURD**2)
    if _FREQUENCIES.search(attr) and bool((buffer < 0).any()):
        return f"the least frequency is {buffer.min().item():.3g}, and all are positive: {_MEMORY}"
    if _FREQUENCIES.search(attr) or _WAVES.search(attr):
        return _garbage(buffer, _FASTEST if _FREQUENCIES.search(attr) else _LARGEST_WAVE)
    return None


def _garbage(buffer: Tensor, largest: float) -> str | None:
    finite = buffer[torch.isfinite(buffer)].abs()
    if finite.numel() and finite.max() > largest:
        return f"values go up to {finite.max().item():.3g}, {_MEMORY}"
    tiny = _denormal(buffer)
    return f"{tiny:.0%} of the values are below {_TINY:g} and not 0, {_MEMORY}" if tiny > _SHARE else None


def _of_integers(attr: str, buffer: Tensor) -> str | None:
    low, high = (int(end) for end in torch.aminmax(buffer))
    if attr == "num_batches_tracked" and not 0 <= low <= _LARGEST_COUNT:
        return f"it counts {low:,} batches, {_MEMORY}"
    if attr != "position_ids":
        return None
    if low < 0 or high > _LARGEST_PLACE:
        return f"positions go from {low:,} to {high:,}, {_MEMORY}"
    alike = buffer.numel() > 1 and low == high
    return f"all {buffer.numel():,} positions are {low}, so it tells no position from another" if alike else None
