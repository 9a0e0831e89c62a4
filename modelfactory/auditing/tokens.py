"""Find learned tokens (registers, queries) that are one like the other, with no position to tell them apart."""

from __future__ import annotations

from collections.abc import Iterator

from modelfactory.auditing.finding import Finding
from modelfactory.auditing.subject import VIEWS, AuditedParameter, Subject
from modelfactory.tracing.graph import Value
from modelfactory.tracing.operators import ADDS, ATTENTION, JOINS, NORMS
from modelfactory.tracing.steps import Steps

_FEW = 3  # numbers in a row, from which on two equal rows are no chance
_ON_THE_WAY = VIEWS | JOINS | {"dropout", "dropout1d", "feature_dropout"}
_TAKING = ATTENTION | NORMS | {"linear", "matmul"}


def find_identical_tokens(subject: Subject) -> Iterator[Finding]:
    """Tokens that are put beside the inputs, or that ask them in an attention, and are all alike."""
    if subject.reading is None:
        return
    steps = subject.reading.steps
    for item in subject.items:
        values = item.values
        if not item.trains or values is None or values.ndim < 2 or not item.has("embedding") or values.shape[-1] < _FEW:
            continue
        tokens = values.flatten(0, -2)
        if tokens.shape[0] < 2 or not item.is_constant:  # others that are alike are told as identical rows
            continue
        uses = subject.reading.uses.get(item.name, [])
        joined = bool(uses) and all(steps.kind(use.node) == "join" for use in uses)
        if not (joined or _asks(steps, item)) or _told_apart(subject, item):
            continue
        message = (
            f"its {tokens.shape[0]} tokens are all {item.low:.4g}: they are one token {tokens.shape[0]} times, get the same gradient, "
            "and stay the same for ever"
        )
        fix = f"mf.initialize(model, {{'match': '{item.name}', 'scheme': 'trunc_normal', 'std': 0.02}})"
        yield Finding(item.name, "identical_units", "warn", message, fix)


def _asks(steps: Steps, item: AuditedParameter) -> bool:
    """Whether tokens go into a layer as its inputs, by themselves."""
    value = steps.graph.parameters.get(item.name)
    ahead = [] if value is None else [value]
    while ahead:
        taken = ahead.pop()
        for user in taken.users:
            if user.op in _TAKING and user.inputs and user.inputs[0] is taken:
                return True
            if user.op in VIEWS and user.op not in JOINS:
                ahead += user.outputs
    return False


def _told_apart(subject: Subject, item: AuditedParameter) -> bool:
    """Whether positions, or anything else with a value of its own for each token, are added before a layer takes them."""
    if subject.reading is None:
        return False
    steps = subject.reading.steps
    first = steps.graph.parameters.get(item.name)
    ahead: list[Value] = [] if first is None else [first]
    seen: set[int] = set()
    while ahead:
        value = ahead.pop()
        for user in value.users:
            if user.op in ADDS:
                if any(other is not value and _varies(subject, other) for other in user.inputs):
                    return True
            elif user.op not in _ON_THE_WAY:
                continue
            fresh = [output for output in user.outputs if output.index not in seen]
            seen |= {output.index for output in fresh}
            ahead += fresh
    return False


def _varies(subject: Subject, value: Value) -> bool:
    """Whether a table has more than one row, and they are not all alike."""
    if subject.reading is None or not subject.reading.labels.pure(value) or len(value.shape) < 2 or value.shape[-2] < 2:
        return False
    names = subject.reading.labels[value].mains
    items = [subject.by_name[name] for name in names if name in subject.by_name]
    return not items or any(not other.is_constant for other in items)
