"""Find adapters that change the model they are put into, or that never learn: two thin matrices beside a frozen one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from modelfactory.auditing.finding import Finding
from modelfactory.auditing.subject import VIEWS, AuditedParameter, Subject
from modelfactory.tracing.graph import Node, Value
from modelfactory.tracing.operators import ADDS, LOOKUPS, PRODUCTS
from modelfactory.tracing.steps import Steps

_NAMES = ("lora", "adapter")
_LAST = re.compile(r"(^|[._])(lora_?)?(b|up|out|expand)(_proj)?([._]|$)", re.IGNORECASE)
_PLAIN = frozenset({"carry", "scale"})
_BENT = _PLAIN | {"activation", "bend", "shift"}
_PRODUCTS = frozenset({"matmul", "mm", "linear", "bmm"})
_SLIGHT = 0.1  # of what it adds, over what it sees: from which on a bottleneck is no longer near to nothing


class _Pair(NamedTuple):
    """The matrices of an adapter, in the order in which the signal meets them; whether one of 0 is asked for, or one near to it."""

    first: AuditedParameter
    second: AuditedParameter
    exact: bool = True


def find_adapters(subject: Subject) -> Iterator[Finding]:
    """Adapters both of whose matrices are drawn, or both 0."""
    if subject.reading is None:
        return
    told: set[str] = set()
    for node in subject.reading.steps.graph.nodes:
        pair = _beside(subject, subject.reading.steps, node) or _merged(subject, node)
        if pair is None or pair.second.name in told:
            continue
        told.add(pair.second.name)
        finding = _judged(pair)
        if finding is not None:
            yield finding


def _judged(pair: _Pair) -> Finding | None:
    first, second, exact = pair
    if second.is_zero and first.is_zero:
        message = f"it and {first.name} are both 0: neither gets a gradient, so the adapter never learns"
        fix = f"mf.initialize(model, {{'match': '{first.name}', 'scheme': 'kaiming_uniform'}})"
        return Finding(second.name, "dead", "error", message, fix)
    if second.is_zero or first.is_zero or not exact and _share(pair) < _SLIGHT:
        return None
    message = (
        f"rms {second.rms:.3g}, where the second matrix of an adapter starts at 0: the model with a fresh adapter is another "
        "than the one that was pretrained"
    )
    return Finding(second.name, "adapter", "error", message, f"mf.initialize(model, {{'match': '{second.name}', 'scheme': 'zeros'}})")


def _share(pair: _Pair) -> float:
    """What a bottleneck adds, over what it sees."""
    return math.prod(item.rms * math.sqrt(item.fans.fan_in if item.fans is not None else 1.0) for item in pair[:2])


# Beside the frozen layer, each with a product of its own


def _beside(subject: Subject, steps: Steps, node: Node) -> _Pair | None:
    """The two matrices of an adapter whose second product a node is."""
    second = _item(subject, steps, node)
    if second is None or not second.trains or second.fans is None or steps.kind(node) != "weights":
        return None
    signals = steps.signals(node)
    near = steps.carried(signals[0], _PLAIN) if signals else None
    before = steps.carried(near, _BENT).node if near is not None else None
    first = _item(subject, steps, before) if before is not None else None
    if first is None or before is None or near is None or not first.trains or first is second or not _is_thin(first, second):
        return None
    source = _source(steps, before)
    if source is None:
        return None
    bent = near.node is not before
    for user, taken in steps.uses(node.output, _PLAIN if not bent else _PLAIN | {"shift"}):
        for value in steps.signals(user) if steps.kind(user) == "sum" else ():
            if value is taken:
                continue
            if bent:
                if steps.carried(value, _PLAIN) is source and _is_inside(subject, steps, second, node):
                    return _Pair(first, second, exact=False)
                continue
            made = steps.carried(value).node
            base = _item(subject, steps, made)
            if base is not None and made is not None and _source(steps, made) is source and (_is_named(second) or not base.trains):
                return _Pair(first, second)
    return None


def _is_thin(first: AuditedParameter, second: AuditedParameter) -> bool:
    if second.fans is None:
        return False
    width = first.fans.fan_in if first.fans is not None else float(first.shape[0])
    return second.fans.fan_in < min(width, second.fans.fan_out)


def _source(steps: Steps, node: Node) -> Value | None:
    """What a product or a lookup takes, before it was reshaped or scaled."""
    if node.op in LOOKUPS:
        return node.inputs[0]
    signals = steps.signals(node)
    return steps.carried(signals[0], _PLAIN) if signals else None


def _is_named(item: AuditedParameter) -> bool:
    return any(word in item.name.lower() for word in _NAMES)


def _is_inside(subject: Subject, steps: Steps, second: AuditedParameter, node: Node) -> bool:
    """Whether a bottleneck lies in a frozen model: by its name, or as frozen products follow it."""
    frozen = [item for item in subject.all_items if not item.trains and item.is_matrix]
    if not frozen or _is_named(second):
        return bool(frozen)
    later = [_item(subject, steps, other) for other in steps.graph.nodes[node.index + 1 :] if steps.kind(other) == "weights"]
    return any(item is not None and not item.trains for item in later)


def _item(subject: Subject, steps: Steps, node: Node | None) -> AuditedParameter | None:
    """The one matrix that a product multiplies the signal with, or that a lookup takes its rows from."""
    if node is None:
        return None
    if node.op in LOOKUPS:
        table = next((value for value in node.inputs if value.kind == "parameter"), None)
        return None if table is None else subject.by_name.get(table.name or "")
    weight = steps.weight(node) if steps.kind(node) == "weights" else None
    names = steps.labels[weight].mains if weight is not None else ()
    return subject.by_name.get(next(iter(names))) if len(names) == 1 else None


# Added to the frozen matrix, before it meets the signal


def _merged(subject: Subject, node: Node) -> _Pair | None:
    """The two matrices whose product is added to a frozen one."""
    if node.op not in _PRODUCTS or len(node.inputs) != 2 or not node.outputs:
        return None
    left, right = (_parameter(subject, value) for value in node.inputs)
    if left is None or right is None or left is right or not (left.trains and right.trains):
        return None
    if min(left.shape) * min(right.shape) >= min(max(left.shape), max(right.shape)) ** 2:
        return None
    ahead = [node.output]
    while ahead:
        value = ahead.pop()
        for user in value.users:
            if user.op in ADDS:
                others = [_parameter(subject, one) for one in user.inputs if one is not value]
                if any(other is not None and not other.trains for other in others):
                    last = right if _LAST.search(right.name) and not _LAST.search(left.name) else left
                    return _Pair(right if last is left else left, last)
            elif (user.op in VIEWS or user.op in PRODUCTS or user.op == "dropout") and user.outputs:
                ahead.append(user.output)
    return None


def _parameter(subject: Subject, value: Value) -> AuditedParameter | None:
    """The parameter that a value is, or a view or a multiple of."""
    while value.node is not None:
        multiplied = value.node.op in PRODUCTS and len(value.node.inputs) == 1
        if not value.node.inputs or not (multiplied or value.node.op in VIEWS or value.node.op == "dropout"):
            return None
        value = value.node.inputs[0]
    return subject.by_name.get(value.name or "") if value.kind == "parameter" else None
