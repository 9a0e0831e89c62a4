"""Find norms whose scale is not what a norm starts with."""

from __future__ import annotations

from collections.abc import Iterator

from modelfactory.auditing.finding import Finding
from modelfactory.auditing.subject import AuditedParameter, Subject, is_view
from modelfactory.tracing.operators import ADDS, NORMS
from modelfactory.tracing.steps import Steps
from modelfactory.tracing.uses import Use

_NEAR = 0.5
_OFF_ZERO = 0.5


def find_norm_scales(subject: Subject) -> Iterator[Finding]:
    """Scales of norms that are far from 1, or from 0 where the forward adds 1 to them."""
    for item in subject.items:
        if item.roles[0] != "norm" or item.has("bias") or item.info.computed is not None or not item.trains:
            continue
        start = _start(subject, item)
        if start is None or _is_well(subject, item, start):
            continue
        seen = f"{item.low:.4g}" if item.is_constant else f"of mean {item.mean:.3g} and std {item.std:.3g}"
        scheme = "ones" if start else "zeros"
        added = "" if start else ", as 1 is added to it"
        message = f"the scale of this norm is {seen}, where it starts at {start:g}{added}: what the norm gives is no signal of scale 1"
        fix = f"mf.initialize(model, {{'match': '{item.name}', 'scheme': '{scheme}'}})"
        yield Finding(item.name, "norm_scale", "warn" if item.is_constant and not item.is_zero else "error", message, fix)


def _is_well(subject: Subject, item: AuditedParameter, start: float) -> bool:
    if start == 0:
        return abs(item.mean) < 2 and not (item.is_constant and item.mean == 1)
    if item.is_zero:  # fine wherever the signal has another way, as around a residual branch
        return subject.gets_through({use.node.index for use in _uses(subject, item)})
    if item.has("residual_norm", "residual_end") and item.rms < 1:
        return True
    if item.is_constant:
        return _NEAR <= item.low <= 1 / _NEAR
    return abs(item.mean) > max(_OFF_ZERO * item.std, 1e-2)  # as drawn around a number, or as trained


def _uses(subject: Subject, item: AuditedParameter) -> list[Use]:
    uses = [] if subject.reading is None else subject.reading.uses.get(item.name, [])
    return [use for use in uses if use.kind == "norm"]


def _start(subject: Subject, item: AuditedParameter) -> float | None:
    """What a scale starts at by the way that it is used: 1, 0 where 1 is added, None of what is used otherwise."""
    if subject.reading is None:
        return 1.0
    steps = subject.reading.steps
    uses = _uses(subject, item)
    if not uses:
        return None if item.info.facts.met else 1.0
    if not is_view(uses[0].value, item.name):
        return 0.0 if _adds_one(uses[0]) else None
    return 1.0 if _is_of_the_norm(steps, uses[0]) else None


def _adds_one(use: Use) -> bool:
    value = use.value
    while value.node is not None and value.node.inputs:
        if value.node.op in ADDS:
            return True
        value = value.node.inputs[0]
    return False


def _is_of_the_norm(steps: Steps, use: Use) -> bool:
    """Whether a scale is the first that follows its norm, and so the norm's own; another is a scale of a layer."""
    if use.node.op in NORMS:
        return True
    value = next(iter(steps.signals(use.node)), None)
    while value is not None and value.node is not None:
        node = value.node
        kind = steps.kind(node)
        if kind not in ("carry", "scale", "shift"):
            return not any(steps.labels.pure(one) for one in node.inputs)
        if kind != "carry" and any(steps.labels.pure(one) for one in node.inputs):
            return False
        value = next(iter(steps.signals(node)), None)
    return False
