"""The ranking of a sweep's schemes, with a paired comparison over seeds to the best one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from modelfactory.reporting.schemes import Arm, Metric
from modelfactory.reporting.stats import Holm, Sample, holm
from modelfactory.reporting.text import ALPHA, Comparison, RankedScheme, Ranking


def rank(schemes: Sequence[Arm], metric: Metric, axes: Sequence[str], alpha: float = ALPHA) -> Ranking:
    """Ranks schemes by their mean and compares each to the best on equal seeds.

    Which scheme is the best is seen on the same numbers, so that Holm's correction counts all pairs of schemes, not only
    those with the best: the best of many equal schemes is far from the others by chance alone.

    Example:
        >>> made = [Arm((name,), (), {("0",): a, ("1",): b, ("2",): c}) for name, a, b, c in
        ...         [("x", 0.1, 0.2, 0.3), ("y", 1.11, 1.2, 1.29), ("z", 0.2, 0.15, 0.4)]]
        >>> [(row.scheme.label, row.comparison and row.comparison.verdict) for row in rank(made, Metric("val_loss"), ["init"]).rows]
        [('x', None), ('z', 'inconclusive'), ('y', 'worse')]
    """
    valued = [scheme for scheme in schemes if scheme.sample is not None]
    valued.sort(key=_mean, reverse=metric.higher_is_better)
    most = max((len(scheme.values) for scheme in valued), default=0)
    best = next((index for index, scheme in enumerate(valued) if len(scheme.values) == most), -1)
    tests: dict[tuple[int, int], float] = {}
    for first, second in combinations(range(len(valued)), 2):
        differences = _differences(valued[first], valued[second]) if most > 1 else []
        p = Sample.of(differences).p_zero() if len(differences) > 1 else math.nan
        if not math.isnan(p):
            tests[first, second] = p
    corrected = dict(zip(tests, holm(list(tests.values()), alpha), strict=True))
    rows = [RankedScheme(scheme, index + 1, None, index == best) for index, scheme in enumerate(valued)]
    for index, scheme in enumerate(valued):
        if index != best:
            test = corrected.get((min(index, best), max(index, best)))
            rows[index] = RankedScheme(scheme, index + 1, _compare(scheme, valued[best], test, metric, alpha))
    rows.extend(RankedScheme(scheme, None, None) for scheme in schemes if scheme.sample is None)
    return Ranking(metric, tuple(axes), tuple(rows), len(tests), alpha)


def _mean(scheme: Arm) -> float:
    return math.nan if scheme.sample is None else scheme.sample.mean


def _differences(scheme: Arm, other: Arm) -> list[float]:
    """Of each seed that both have, in the order of the first's; 0 where they are equal but for rounding."""
    pairs = [(value, other.values[block]) for block, value in scheme.values.items() if block in other.values]
    return [0.0 if math.isclose(value, base, rel_tol=1e-12) else value - base for value, base in pairs]


def _compare(scheme: Arm, best: Arm, test: Holm | None, metric: Metric, alpha: float) -> Comparison:
    differences = _differences(scheme, best)
    if not differences:
        return Comparison(0, math.nan, math.nan, math.nan, "no seed")
    sample = Sample.of(differences)
    if test is None:
        verdict = "1 seed" if sample.n == 1 else "same" if sample.mean == 0 else "no spread"
        return Comparison(sample.n, sample.mean, math.nan, math.nan, verdict)
    if test.p > alpha:
        return Comparison(sample.n, sample.mean, sample.half_width(test.level), test.p, "inconclusive", sample.seeds_needed(test.level))
    verdict = "better" if (sample.mean > 0) == metric.higher_is_better else "worse"
    return Comparison(sample.n, sample.mean, sample.half_width(test.level), test.p, verdict)
