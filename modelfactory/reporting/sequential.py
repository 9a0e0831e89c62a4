"""A sweep that adds seeds until its question is answered: at which level each look at the numbers may tell a difference.

Many looks at the same numbers find a difference by chance more often than one. The error that all looks together may make is spent
over them (Lan & DeMets 1983), so that a look at n of at most N seeds, after others before it, tells a difference only where its p value
is below the level that is left for it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from modelfactory.reporting.ranking import rank
from modelfactory.reporting.schemes import choose_metric, compared_axes, gather_schemes
from modelfactory.reporting.text import ALPHA, Ranking
from modelfactory.sweeping.records import SWEEP, Sweep, read_about, read_sweep

SPENT = 0.9
"""Of the error, the share that the looks spend: t tests of few numbers hang together less than normal ones, and err a little more."""
GROWTH = 1.5
"""Times as many seeds at each look as at the one before."""
_CELLS = 600


def further_seeds(folder: str | os.PathLike[str], most: int) -> tuple[int, ...]:
    """The numbers of seeds of a scheme at the looks so far and, where the question is open, at the next; the last is the one to have.

    Args:
        folder: of a sweep with `sweep.until: told`, all of whose jobs have ended.
        most: seeds of a scheme that may be spent.

    Returns:
        The looks so far, the present one included; with one more where schemes are not told from the best and seeds are left.
    """
    sweep = read_sweep(folder)
    before, now = looks_of(sweep), seeds_of(sweep)
    looks = tuple(dict.fromkeys((*(n for n in before if n < now), now)))
    if now >= most or is_answered(ranking_of(sweep, looks, most)):
        return looks
    return (*looks, min(most, max(now + 1, math.ceil(GROWTH * now))))


def ranking_of(sweep: Sweep, looks: Sequence[int], most: int) -> Ranking:
    """The ranking of a sweep at the level of its last look."""
    metric, axes = choose_metric(sweep, None, "best"), compared_axes(sweep, None)
    schemes = gather_schemes(sweep, axes, metric)
    pairs = max(len(schemes) * (len(schemes) - 1) // 2, 1)
    return rank(schemes, metric, axes, level_at(looks, most, pairs))


def level_of(sweep: Sweep, schemes: int) -> float:
    """The level of a sweep's ranking: 0.05, or where it was looked at several times that of its last look."""
    if not (sweep.folder / SWEEP).is_file() or not (looks := looks_of(sweep)):
        return ALPHA
    return level_at(looks, read_about(sweep.folder)["max_seeds"], max(schemes * (schemes - 1) // 2, 1))


def is_answered(ranking: Ranking) -> bool:
    """Whether each scheme that has a score is told from the best, or is the same; more seeds would tell nothing of one without."""
    return all(row.comparison is None or row.comparison.verdict in ("worse", "better", "same") for row in ranking.rows)


def looks_of(sweep: Sweep) -> tuple[int, ...]:
    """The numbers of seeds at which a sweep was looked at so far; () of one that is not sequential."""
    return tuple(read_about(sweep.folder).get("looks") or ())


def seeds_of(sweep: Sweep) -> int:
    """How many seeds each scheme of a sweep has, at most."""
    axes = compared_axes(sweep, None)
    counts: dict[tuple[str, ...], int] = {}
    for job in sweep.jobs:
        named = tuple(word for word in job.overrides if word.lstrip("+").partition("=")[0] in axes)
        counts[named] = counts.get(named, 0) + 1
    return max(counts.values(), default=0)


def level_at(looks: Sequence[int], most: int, pairs: int = 1, alpha: float = ALPHA) -> float:
    """The level at which the last of these looks may hold Holm's procedure over so many pairs.

    The boundary of a single pair, all of whose looks together err with probability alpha/pairs, times the pairs: Holm's
    procedure then holds alpha over all pairs and looks, since no boundary shrinks faster than its alpha.

    Example:
        >>> round(level_at([30], 30), 4), [round(level_at([3, 5, 8][: k + 1], 30), 4) for k in range(3)]
        (0.045, [0.0045, 0.0041, 0.0062])
    """
    return pairs * nominal_levels(tuple(looks), most, alpha / pairs)[-1]


@lru_cache(maxsize=64)
def nominal_levels(looks: tuple[int, ...], most: int, alpha: float) -> tuple[float, ...]:
    """The level of each look at `looks` of at most `most` numbers, so that all together err with probability alpha.

    Spent is alpha in proportion to the numbers; the probability of what no look before told goes on by the recursion of Armitage,
    McPherson & Rowe (1969). It holds for normal means, and for t tests by their p values nearly (Jennison & Turnbull 2000, section
    11.4), for which a tenth of alpha is kept back.
    """
    from scipy.special import ndtr

    levels: list[float] = []
    points, mass, information = np.zeros(1), np.ones(1), 0.0  # of the sum of differences, as far as nothing was told
    for n in looks:
        step, spends = math.sqrt(n - information), SPENT * alpha * (min(n / most, 1.0) - min(information / most, 1.0))

        def beyond(bound: float, points: Any = points, mass: Any = mass, step: float = step) -> float:
            return float(np.sum(mass * (ndtr((points - bound) / step) + ndtr((-bound - points) / step))))

        bound = _solve(beyond, spends, 12 * math.sqrt(n))
        levels.append(2 * float(ndtr(-bound / math.sqrt(n))))
        edges = np.linspace(-bound, bound, _CELLS + 1)
        centre = (edges[1:] + edges[:-1]) / 2
        bells = np.exp(-(((centre[:, None] - points) / step) ** 2) / 2) / (step * math.sqrt(2 * math.pi))
        points, mass, information = centre, (bells @ mass) * (edges[1] - edges[0]), float(n)
    return tuple(levels)


def _solve(beyond: Callable[[float], float], goal: float, high: float) -> float:
    """The bound beyond which lies a probability, by bisection."""
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle) > goal else (low, middle)
    return (low + high) / 2
