"""Find what should start at 0 as the others of its kind do, and what should not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelfactory.auditing.adapters import find_adapters
from modelfactory.auditing.finding import Finding
from modelfactory.auditing.subject import AuditedParameter, Subject

_FORGIVEN = ("residual_out", "modulation", "router", "head", "query", "key")


def find_zeros(subject: Subject) -> Iterator[Finding]:
    """What is 0 and should not be, and what is drawn and should be 0."""
    yield from _dead(subject)
    adapters = list(find_adapters(subject))
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
