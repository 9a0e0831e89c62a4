"""Find what should start at 0 as the others of its kind do, what should not, and adapters that change their model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelfactory.auditing.finding import Finding
from modelfactory.auditing.subject import AuditedParameter, Subject
from modelfactory.tracing.graph import Node, Value
from modelfactory.tracing.steps import Steps

_ADAPTERS = ("lora", "adapter")
_PLAIN = frozenset({"carry", "scale"})
_FORGIVEN = ("residual_out", "modulation", "router", "head", "query", "key")


def find_zeros(subject: Subject) -> Iterator[Finding]:
    """What is 0 and should not be, and what is drawn and should be 0."""
    yield from _dead(subject)
    adapters = list(_adapters(subject))
    yield from adapters
    yield from _not_zero_alone(subject, {finding.name for finding in adapters})


def _not_zero_alone(subject: Subject, told: set[str]) -> Iterator[Finding]:
    """Matrices and ends of branches that are drawn where half of the others of their kind or more start at 0."""
    for items in subject.groups():
        yield from _peers(items, "repeats of this layer", told)
    yield from _of_branches(subject, told)
    modulation = [item for item in subject.items if item.trains and item.is_matrix and item.has("modulation")]
    yield from _peers(modulation, "projections that modulate a norm", told)


def _of_branches(subject: Subject, told: set[str]) -> Iterator[Finding]:
    if subject.reading is None:
        return
    for normed in (False, True):
        silencing: list[list[AuditedParameter]] = []
        for branch in subject.all_items[0].info.model.branches:
            if (branch.norm is not None) is normed:
                items = [subject.by_name[name] for name in branch.silenced_by if name in subject.by_name]
                if items and all(item.trains and item.is_finite and item.name not in subject.loaded for item in items):
                    silencing.append(items)
        silent = [items for items in silencing if all(item.is_zero for item in items)]
        if silent and 2 * len(silent) >= len(silencing):
            for items in silencing:
                for item in items:
                    if not item.is_zero and item.name not in told:
                        told.add(item.name)
                        yield _not_zero(item, f"{len(silent)} of {len(silencing)} residual branches are")


def _peers(items: Sequence[AuditedParameter], what: str, told: set[str]) -> Iterator[Finding]:
    zero = [item for item in items if item.is_zero]
    if zero and 2 * len(zero) >= len(items):
        for item in items:
            if not item.is_zero and item.name not in told:
                told.add(item.name)
                yield _not_zero(item, f"{len(zero)} of the {len(items)} {what} are")


def _not_zero(item: AuditedParameter, others: str) -> Finding:
    message = f"rms {item.rms:.3g}, where {others} 0 at the start: this one alone changes the signal from the first step on"
    return Finding(item.name, "not_zero", "warn", message, f"mf.initialize(model, {{'match': '{item.name}', 'scheme': 'zeros'}})")


def _adapters(subject: Subject) -> Iterator[Finding]:
    """Pairs of thin matrices beside a matrix (LoRA) that change a fresh model, or that never learn."""
    if subject.reading is None:
        return
    steps = subject.reading.steps
    for node in steps.graph.nodes:
        found = _pair(subject, steps, node)
        if found is None:
            continue
        first, second = found
        if second.is_zero and first.is_zero:
            message = f"it and {first.name} are both 0: neither gets a gradient, so the adapter never learns"
            fix = f"mf.initialize(model, {{'match': '{first.name}', 'scheme': 'kaiming_uniform'}})"
            yield Finding(second.name, "dead", "error", message, fix)
        elif not second.is_zero and not first.is_zero:
            message = (
                f"rms {second.rms:.3g}, where the second matrix of an adapter starts at 0: the model with a fresh adapter is another "
                "than the one that was pretrained"
            )
            fix = f"mf.initialize(model, {{'match': '{second.name}', 'scheme': 'zeros'}})"
            yield Finding(second.name, "adapter", "error", message, fix)


def _pair(subject: Subject, steps: Steps, node: Node) -> tuple[AuditedParameter, AuditedParameter] | None:
    """The two matrices of an adapter whose second product a node is."""
    second = _item(subject, steps, node)
    if second is None or not second.trains or second.fans is None:
        return None
    signals = steps.signals(node)
    before = steps.carried(signals[0], _PLAIN).node if signals else None
    first = _item(subject, steps, before) if before is not None else None
    if first is None or before is None or not first.trains or first.fans is None or first is second:
        return None
    if second.fans.fan_in >= min(first.fans.fan_in, second.fans.fan_out) or not steps.signals(before):
        return None
    source = steps.carried(steps.signals(before)[0], _PLAIN)
    for user, taken in steps.uses(node.output, _PLAIN):
        for value in steps.signals(user) if steps.kind(user) == "sum" else ():
            base = _item(subject, steps, steps.carried(value).node) if value is not taken else None
            if base is not None and _comes_from(steps, value, source):
                named = any(word in second.name.lower() for word in _ADAPTERS)
                if named or not base.trains:
                    return first, second
    return None


def _comes_from(steps: Steps, value: Value, source: Value) -> bool:
    made = steps.carried(value).node
    signals = steps.signals(made) if made is not None else []
    return bool(signals) and steps.carried(signals[0], _PLAIN) is source


def _item(subject: Subject, steps: Steps, node: Node | None) -> AuditedParameter | None:
    """The one matrix that a product multiplies the signal with."""
    if node is None or steps.kind(node) != "weights":
        return None
    weight = steps.weight(node)
    names = steps.labels[weight].mains if weight is not None else ()
    return subject.by_name.get(next(iter(names))) if len(names) == 1 else None


def _dead(subject: Subject) -> Iterator[Finding]:
    """Matrices of 0 that all of the signal goes through, behind which nothing depends on the input."""
    if subject.reading is None:
        return
    for item in subject.items:
        if not item.is_zero or not item.trains or not item.is_matrix or item.roles[0] != "weight" or item.has(*_FORGIVEN):
            continue
        nodes = {fans.node.index for fans in item.info.facts.fans}
        if nodes and subject.is_plain(item, item.info.facts.fans[0].node) and not subject.gets_through(nodes):
            message = (
                "all values are 0 and all of the signal goes through it: the output is the same for every input, and no gradient reaches "
                "what lies before it (a layer that was never written looks so as well)"
            )
            fix = f"mf.initialize(model, {{'match': '{item.name}', 'scheme': 'xavier_normal', 'gain': 'auto'}}, example=batch)"
            yield Finding(item.name, "dead", "error", message, fix)
