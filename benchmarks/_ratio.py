"""Two ways of doing a thing, side by side in one run: interleaved rounds, the median of the ratios."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call, garbage collected before it."""
    gc.collect()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def ratio(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 9) -> tuple[float, float, float]:
    """Median seconds of both, and the median over rounds of ours / theirs. One round warms up; the order alternates."""
    pairs = []
    for index in range(rounds + 1):
        if index % 2:
            own, other = seconds(ours), seconds(theirs)
        else:
            other, own = seconds(theirs), seconds(ours)
        if index:
            pairs.append((own, other))
    return (
        statistics.median(own for own, _ in pairs),
        statistics.median(other for _, other in pairs),
        statistics.median(own / other for own, other in pairs),
    )
