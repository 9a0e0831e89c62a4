"""Find blocks whose scale is not that of their peers: a depth scale that some blocks miss, or that the wrong matrix has."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from modelfactory.auditing.finding import Finding
from modelfactory.auditing.intended import find_intended_scale
from modelfactory.auditing.scale import fits_a_law
from modelfactory.auditing.subject import AuditedParameter, Subject

_ALIKE = 0.08
_STEP = 0.9
_LEAST_RANGE = 0.15
_OF_TWO = 1.6
_LEAST = 0.25
_ALL = 0.95
_LEFT_OUT = ("head", "stem", "router", "query")  # often scaled for reasons of their own
_SCALED = 1.35


def find_depth_scales(subject: Subject) -> Iterator[Finding]:
    """Repeats of one layer with another std than the others, and depth scales on what does not end a branch."""
    told: set[str] = set()
    for items in subject.groups():
        drawn = [item for item in items if not item.is_constant]
        for item, right in _odd(drawn):
            told.add(item.name)
            message = (
                f"std {item.std:.4g}, where it is {right:.4g} in the other repeats of this layer ({len(drawn)} in all): "
                "a scale by depth that misses some blocks, or hits one too many, makes them count more or less than the others"
            )
            yield Finding(item.name, "depth_scale", "warn", message, _fix(item, right))
    yield from _misplaced(subject, told)


def _fix(item: AuditedParameter, right: float) -> str:
    return f"mf.initialize(model, {{'match': '{item.name}', 'scheme': 'normal', 'std': {right:.4g}}})"


def _tolerance(item: AuditedParameter) -> float:
    return _ALIKE + _chance(item)


def _chance(item: AuditedParameter) -> float:
    """Four standard errors of the log of a std."""
    return 4 * math.sqrt(1 / (2 * math.prod(item.shape))) + 0.01


def _odd(items: Sequence[AuditedParameter]) -> list[tuple[AuditedParameter, float]]:
    """Those of a group that break its rule, with the std that the rule would give.

    The rule is of the std or of the std times the root of fans, whichever leaves the fewest scales, and then the closest: repeats of one
    shape whose strides differ have other fans.
    """
    if len(items) < 2 or math.prod(items[0].shape) < 64:
        return []
    counted = [[1.0] * len(items)]
    fans = [item.fans for item in items if item.fans is not None and item.fans.fan_in > 0 and item.fans.fan_out > 0]
    if len(fans) == len(items):
        counted += [[fan.fan_in for fan in fans], [fan.fan_out for fan in fans], [fan.fan_in + fan.fan_out for fan in fans]]
    laws = [[math.log(item.std) + math.log(fan) / 2 for item, fan in zip(items, each, strict=True)] for each in counted]
    of_law = [(len(_levels(logs, _tolerance(items[0]))), max(logs) - min(logs)) for logs in laws]
    best = of_law.index(min(of_law))
    odd = [(items[place], scale / math.sqrt(counted[best][place])) for place, scale in _breaking(items, laws[best])]
    return [(item, std) for item, std in odd if abs(math.log(_without_outliers(item, std) / std)) > _tolerance(item)]


def _breaking(items: Sequence[AuditedParameter], logs: Sequence[float]) -> list[tuple[int, float]]:
    """The places of those whose scale, given by its log, breaks the rule of all, and the scale that fits: one, or one that goes on."""
    tolerance = _tolerance(items[0])
    spread = max(logs) - min(logs)
    if spread <= max(tolerance, _LEAST_RANGE):
        return []
    if len(items) == 2:
        if spread < math.log(_OF_TWO):
            return []
        large = logs.index(max(logs))
        return [(large, math.exp(min(logs)))] if items[large].has("residual_out") else []
    jumps = [later - earlier for earlier, later in zip(logs, logs[1:], strict=False)]
    goes_one_way = all(jump <= tolerance for jump in jumps) or all(jump >= -tolerance for jump in jumps)
    if goes_one_way and max(abs(jump) for jump in jumps) < _STEP * spread:
        return []
    levels = _levels(logs, tolerance)
    if len(levels) > max(2, len(items) // 3):  # no rule to break
        return []
    right = max(levels, key=lambda level: (len(level), -level[0] if items[0].has("residual_out") else level[0]))
    middle = statistics.median(right)
    return [(place, math.exp(middle)) for place, log in enumerate(logs) if abs(log - middle) > tolerance]


def _without_outliers(item: AuditedParameter, std: float) -> float:
    """The std of what lies within eight of another: trunc_normal_ gives one in 2**24 values its bound, which may be 100 away."""
    if item.values is None:
        return item.std
    inside = item.values[item.values.abs() < 8 * std]
    return inside.float().std(correction=0).item() if inside.numel() > 0.99 * item.values.numel() else item.std


def _levels(logs: Sequence[float], tolerance: float) -> list[list[float]]:
    """The numbers in groups, each of which begins more than the tolerance above the one before."""
    levels: list[list[float]] = []
    for log in sorted(logs):
        if levels and log - levels[-1][-1] <= tolerance / 2:
            levels[-1].append(log)
        else:
            levels.append([log])
    return levels


def _misplaced(subject: Subject, told: set[str]) -> Iterator[Finding]:
    """A scale by the number of branches: on matrices that end none, or on a part of those that do."""
    if subject.reading is None:
        return
    branches = subject.all_items[0].info.model.branches
    hidden = [item for item in subject.items if item.trains and item.is_matrix and item.fans is not None and not item.is_constant]
    hidden = [item for item in hidden if item.roles[0] == "weight" and math.prod(item.shape) >= 256 and not item.has(*_LEFT_OUT)]
    ends = {name for branch in branches for name in branch.ends}
    inner = [item for item in hidden if item.name not in ends]
    if len(branches) < 4 or len(inner) < 4:
        return
    for by_fan in (False, True):
        scales = {item.name: math.log(item.std * (math.sqrt(item.fans.fan_in) if by_fan and item.fans else 1.0)) for item in hidden}
        base = statistics.quantiles(scales[item.name] for item in hidden)[2]  # of two levels the upper one
        alike = [item for item in hidden if abs(scales[item.name] - base) < _tolerance(item)]
        if len(alike) < _LEAST * len(hidden):
            continue
        by_depth = [-math.log(count) / 2 for count in {len(branches), len(branches) / 2, 2 * len(branches)} if count >= _SCALED**2]
        drawn_otherwise = [item for item in hidden if item.fans is not None and not fits_a_law(item, item.fans)]
        scaled = [item for item in drawn_otherwise if any(abs(scales[item.name] - base - log) < _chance(item) for log in by_depth)]
        if len(alike) >= _ALL * len(hidden):
            yield from _never_scaled(subject, [item for item in alike if item.name in ends], len(branches))
            return
        twice = [item for item in drawn_otherwise if any(abs(scales[item.name] - base - 2 * log) < _chance(item) for log in by_depth)]
        twice = [item for item in twice if item.name in ends and item not in scaled] if scaled else []
        if not scaled or len(alike) + len(scaled) + len(twice) < _ALL * len(hidden):
            continue
        for item in twice:
            told.add(item.name)
            message = f"std {item.std:.4g} is scaled by depth twice; {scaled[0].name}, which ends a branch as well, has {scaled[0].std:.4g}"
            yield Finding(item.name, "depth_scale", "warn", message, _fix(item, scaled[0].std))
        wrong = [item for item in scaled if item.name not in ends]
        missing = [item for item in alike if item.name in ends] if any(item.name in ends for item in scaled) else []
        for item in [*wrong, *missing]:
            if item.name not in told:
                yield _told(item, wrong=item.name not in ends, right=item.std * math.exp(base - scales[item.name]), scaled=scaled[0])
        return


def _never_scaled(subject: Subject, ends: Sequence[AuditedParameter], branches: int) -> Iterator[Finding]:
    """Ends of branches with the scale of all others, where the code of the model says that it scales them by depth."""
    intended = find_intended_scale(subject.model) if ends else None
    if intended is None:
        return
    for item in ends:
        right = item.std / math.sqrt(branches)
        message = (
            f"std {item.std:.4g} is that of every matrix, though {intended.where} scales by depth `if {intended.test}`: "
            f"nothing passed that test, so the scale ({right:.4g}) never happened"
        )
        yield Finding(item.name, "depth_scale", "warn", message, _fix(item, right))


def _told(item: AuditedParameter, wrong: bool, right: float, scaled: AuditedParameter) -> Finding:
    if wrong:
        message = (
            f"std {item.std:.4g} is scaled by depth from {right:.4g}, and what it gives is not added to the residual stream: "
            "the scale belongs on the matrices that end a branch"
        )
        return Finding(item.name, "depth_scale", "warn", message, _fix(item, right))
    message = (
        f"std {item.std:.4g} is not scaled by depth, though it ends a residual branch as {scaled.name} does (std {scaled.std:.4g}): "
        "the stream grows by the branches that the scale missed"
    )
    return Finding(item.name, "depth_scale", "warn", message, _fix(item, scaled.std))
