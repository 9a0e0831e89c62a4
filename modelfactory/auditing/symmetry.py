"""Find values that are equal where training needs them different: units, heads, experts, shards, ensemble members."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from modelfactory.auditing.finding import Finding
from modelfactory.auditing.subject import AuditedParameter, Subject
from modelfactory.auditing.teachers import pairs
from modelfactory.auditing.tokens import find_identical_tokens
from modelfactory.tracing.operators import CONVOLUTIONS, TRANSPOSED

_FEW = 3  # numbers in a row, from which on two equal rows are no chance
_LOW_PRECISION = 8
_HASHED = 8
_MOST_PAIRS = 256


def find_identical_units(subject: Subject) -> Iterator[Finding]:
    """Matrices of one number, and those two of whose rows (or columns) are the same."""
    for item in subject.items:
        if not item.trains or not item.is_matrix or item.is_zero:
            continue
        found = _of_matrix(item)
        if found is not None:
            yield found
    yield from find_identical_tokens(subject)


def _of_matrix(item: AuditedParameter) -> Finding | None:
    rows = item.rows
    if rows is None or rows.shape[0] < 2:
        return None
    fix = f"mf.initialize(model, {{'match': '{item.name}', 'scheme': 'xavier_normal'}}): each number a draw of its own"
    groups = _groups(item)
    if item.is_constant and item.roles[0] == "weight" and item.values is not None and item.values.numel() // max(groups, 1) > 1:
        if rows.shape[0] // max(groups, 1) < 2:
            return None
        message = (
            f"all {rows.numel():,} values are {item.low:.4g}: its {rows.shape[0]:,} outputs are the same, "
            "get the same gradient, and stay the same for ever"
        )
        return Finding(item.name, "identical_units", "error", message, fix)
    if item.is_constant or groups > 1 and rows.shape[0] // groups < 2:
        return None
    for matrix, named in _readings(item, rows):
        pairs = _equal_rows(matrix, groups if named == "outputs" else 1)
        if pairs is not None and len(pairs[0]):
            return Finding(item.name, "identical_units", "error", _told(item, matrix, pairs, named), fix)
    return None


def _readings(item: AuditedParameter, rows: Tensor) -> Iterator[tuple[Tensor, str]]:
    """The rows that may be alike: outputs, inputs, the matrices of a stack; of an embedding its rows alone."""
    if item.roles[0] == "embedding":
        yield rows, "rows"
        return
    yield rows, "outputs"
    if item.values is not None and item.values.ndim == 2:
        yield rows.T, "inputs"
    elif item.values is not None and item.fans is not None and item.fans.node.op not in CONVOLUTIONS | TRANSPOSED:
        yield item.values.flatten(1), "matrices"


def _told(item: AuditedParameter, matrix: Tensor, pairs: tuple[Tensor, Tensor], named: str) -> str:
    first, second = int(pairs[0][0]), int(pairs[1][0])
    steps = {int(step) for step in (pairs[1] - pairs[0]).abs().tolist()}
    whole = matrix.shape[0]
    blocks = ""
    if len(steps) == 1 and (step := steps.pop()) > 1 and whole % step == 0 and len(pairs[0]) >= min(whole - step, _MOST_PAIRS):
        blocks = f" (as {whole // step} blocks of {step}: heads, experts or shards that were drawn alike)"
    return (
        f"{named} {first} and {second}, and {len(pairs[0]) - 1} more pairs of its {whole:,} {named}, have the same values{blocks}, "
        "where all should differ: they get the same gradient and learn the same"
    )


def _groups(item: AuditedParameter) -> int:
    """The groups of a convolution, in which each output sees inputs of its own."""
    fans = item.fans
    product = None if fans is None else item.info.model.reading.labels.contractions.get(fans.node.index)
    return product.groups if product is not None else int(getattr(item.info.module, "groups", 1) or 1)


def _equal_rows(matrix: Tensor, groups: int = 1) -> tuple[Tensor, Tensor] | None:
    """The places of rows that are equal to another, in pairs; rows of one or two numbers alone (0 and 1) do not count."""
    count, width = matrix.shape
    if width < (_FEW if matrix.dtype in (torch.float32, torch.float64) else _LOW_PRECISION) or count < 2:
        return None
    columns = torch.linspace(0, width - 1, min(_HASHED, width), device=matrix.device).long()
    key = torch.zeros(count, dtype=torch.float64, device=matrix.device)
    for place, column in enumerate(columns.tolist()):
        key = key + matrix[:, column].double() * (1 + 0.7548776662466927 * place)
    key, order = torch.sort(key, stable=True)
    close = (key[1:] == key[:-1]).nonzero().flatten()
    if not len(close):
        return None
    one, other = order[close], order[close + 1]
    if groups > 1:
        same = one // (count // groups) == other // (count // groups)
        one, other = one[same], other[same]
    one, other = one[:_MOST_PAIRS], other[:_MOST_PAIRS]
    left = matrix[one]
    equal = (left == matrix[other]).all(1) & _varied(left)
    return one[equal], other[equal]


def _varied(rows: Tensor) -> Tensor:
    """Which rows have three different numbers or more."""
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    return ((rows != low) & (rows != high)).any(1)


def find_duplicates(subject: Subject) -> Iterator[Finding]:
    """Trained matrices that have the values of another and are not tied to it; a teacher has those of its student by right."""
    teachers = {item.name for _, _, item, _ in pairs(subject)}
    alike: dict[tuple[object, ...], list[AuditedParameter]] = defaultdict(list)
    for item in subject.items:
        if item.name in teachers or not item.trains or not item.is_matrix or item.is_constant:
            continue
        if item.values is not None and item.values.numel() >= _LOW_PRECISION:
            key = (item.shape, item.values.dtype, item.values.device, item.fingerprint)
            if len(set(item.fingerprint)) >= _FEW:
                alike[key].append(item)
    for items in alike.values():
        first, *others = items
        for item in others:
            if first.values is not None and item.values is not None and torch.equal(first.values, item.values):
                yield _duplicate(subject, first, item)


def _duplicate(subject: Subject, first: AuditedParameter, item: AuditedParameter) -> Finding:
    together = _same_input(first, item)
    why = (
        "both see the same input, so both compute and learn the same (experts, heads, members of an ensemble)"
        if together
        else "they are drawn alike, as copies of one layer or from one seed are (copy.deepcopy, nn.TransformerEncoder)"
    )
    message = f"it has the very values of {first.name}, and is not tied to it: {why}"
    fix = f"mf.initialize(model, {{'match': '{item.name}', 'scheme': 'xavier_normal'}}), or tie the two"
    return Finding(item.name, "duplicate", "error" if together else "warn", message, fix)


def _same_input(first: AuditedParameter, item: AuditedParameter) -> bool:
    sources = []
    for one in (first, item):
        if one.fans is None:
            return False
        steps = one.info.model.reading.steps
        signals = steps.signals(one.fans.node)
        sources.append(steps.carried(signals[0], frozenset({"carry"})) if signals else None)
    return sources[0] is not None and sources[0] is sources[1]
