"""Find matrices whose scale does not fit what they do: the wrong fans, or far from all that a layer of their kind is given."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from modelfactory.auditing.finding import Finding
from modelfactory.auditing.subject import AuditedParameter, Subject
from modelfactory.init.fans import torch_fans
from modelfactory.tracing.fans import TracedFans
from modelfactory.tracing.operators import CONVOLUTIONS, TRANSPOSED

_LAWS = {2.0: "kaiming", 1.0: "xavier or lecun", 1 / 3: "torch.nn's own"}
_FIXED = (0.02, 0.01, 0.05, 0.1, 1.0)  # what is drawn with one std for all
_WIDE = 1.45
_LARGE, _HUGE = 4.0, 10.0
_LARGE_HEAD = 6.0  # what it sees is mostly a mean, and small
_SMALL = 1e-3
_MAY_BE_SMALL = ("head", "residual_out", "modulation", "router", "query", "key")
_MANY = 64
_TIGHT, _LOOSE = 0.2, 0.35  # of a variance; the fans of groups are off by far more


def find_scales(subject: Subject) -> Iterator[Finding]:
    """Matrices drawn by fans that are not theirs, and those far from every scale that keeps a signal."""
    if subject.reading is None:
        return
    repeats = {item.name: items for items in subject.groups() for item in items}
    for item in subject.items:
        fans = item.fans
        if fans is None or not item.trains or not item.is_matrix or item.is_constant or item.roles[0] != "weight":
            continue
        if fans.fan_in <= 0 or not subject.is_plain(item, fans.node) or subject.is_normalised(fans.node):
            continue
        found = None if fits_a_law(item, fans) else _wrong_fans(item, fans, repeats.get(item.name, [item])) or _far(subject, item, fans)
        if found is not None:
            yield found


def fits_a_law(item: AuditedParameter, fans: TracedFans) -> bool:
    """Whether the variance is that of a law by the fans of its operator, to the precision of the draw."""
    right = {fans.fan_in, (fans.fan_in + fans.fan_out) / 2}
    if fans.summed != (0,):  # fan_out is a choice; of x @ W it is what its shape misleads to
        right.add(fans.fan_out)
    if fans.node.op in CONVOLUTIONS:  # without what padding takes away
        of_shape, groups = torch_fans(item.shape), _groups(item)
        right |= {of_shape.fan_in, of_shape.fan_out / groups, (of_shape.fan_in + of_shape.fan_out / groups) / 2}
    return any(abs(item.std**2 * fan / law - 1) < _error(item) for fan in right for law in _LAWS)


def _groups(item: AuditedParameter) -> int:
    return int(getattr(item.info.module, "groups", 1) or 1)


def _error(item: AuditedParameter) -> float:
    """Four standard errors of a variance, as a share of it."""
    return 4 * math.sqrt(2 / math.prod(item.shape)) + 0.004


def _wrong_fans(item: AuditedParameter, fans: TracedFans, repeats: Sequence[AuditedParameter]) -> Finding | None:
    """One whose variance, as that of all repeats of its layer, is that of a law with the fans of its shape in place of its operator's."""
    error = _error(item)
    if fans.node.op in TRANSPOSED or error > (_LOOSE if _groups(item) > 1 else _TIGHT):
        return None
    if any(abs(item.std / fixed - 1) < error / 2 for fixed in _FIXED):
        return None
    of_shape = torch_fans(item.shape)
    for fan in (of_shape.fan_in, of_shape.fan_out, (of_shape.fan_in + of_shape.fan_out) / 2):
        for law, name in _LAWS.items():
            ratio = math.sqrt(fans.fan_in / fan)
            is_law = all(abs(each.std**2 * fan / law - 1) < error for each in repeats)  # of one alone it may be by chance
            if is_law and max(ratio, 1 / ratio) > _WIDE and not _is_own(item, fan, law):
                return _told_fans(item, fans, fan, law, name)
    return None


def _is_own(item: AuditedParameter, fan: float, law: float) -> bool:
    """Whether that is what the class of its layer gives by itself."""
    reset = type(item.info.module).__module__.startswith("torch.nn")
    return reset and law == 1 / 3 and fan == torch_fans(item.shape).fan_in


def _told_fans(item: AuditedParameter, fans: TracedFans, fan: float, law: float, name: str) -> Finding:
    right = math.sqrt(law / fans.fan_in)
    how = "as x @ W" if fans.summed == (0,) and len(item.shape) == 2 else f"by {fans.node.op}"
    message = (
        f"std {item.std:.4g} is sqrt({law:.3g} / {fan:g}), by the fans of its shape {list(item.shape)}, and it is used {how}, "
        f"where {fans.fan_in:g} numbers are summed: sqrt({law:.3g} / {fans.fan_in:g}) = {right:.4g} keeps the scale of the signal ({name})"
    )
    scheme = {2.0: "kaiming_normal", 1.0: "lecun_normal"}.get(law, "xavier_normal")
    fix = f"mf.initialize(model, {{'match': '{item.name}', 'scheme': '{scheme}'}}, example=batch), which takes the operator's fans"
    return Finding(item.name, "wrong_fans", "warn", message, fix)


def _far(subject: Subject, item: AuditedParameter, fans: TracedFans) -> Finding | None:
    if math.prod(item.shape) < _MANY:
        return None
    gain = item.rms * math.sqrt(fans.fan_in) * abs(subject.factor(fans.node))
    right = 1 / math.sqrt(fans.fan_in)
    fix = f"mf.initialize(model, {{'match': '{item.name}', 'scheme': 'xavier_normal', 'gain': 'auto'}}, example=batch)"
    if gain > (_LARGE_HEAD if item.has("head") else _LARGE):
        message = (
            f"std {item.std:.4g} makes the signal {gain:.3g} times as large: {fans.fan_in:g} numbers are summed and no norm follows, "
            f"so about {right:.3g} keeps its scale"
        )
        return Finding(item.name, "scale", "error" if gain > _HUGE else "warn", message, fix)
    if gain < _SMALL and not item.has(*_MAY_BE_SMALL) and not subject.gets_through({fans.node.index}):
        message = f"std {item.std:.3g} makes the signal {gain:.2g} of what it was, where about {right:.3g} keeps its scale"
        return Finding(item.name, "scale", "warn", message, fix)
    return None
