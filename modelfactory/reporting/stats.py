"""The statistics of a comparison: Student's t for means and paired differences, Holm's correction for many of them.

Source: Student (1908) The probable error of a mean; Holm (1979) A simple sequentially rejective multiple test procedure.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

MOST_SEEDS = 1000
POWER = 0.8
_FAR = 25.0
_SQUARABLE = 1e150  # whose square is a float still


def t_quantile(p: float, df: float) -> float:
    """The value that a t variable of `df` degrees of freedom stays below with probability `p`.

    Example:
        >>> round(t_quantile(0.975, 2), 3)  # table of Student's t: 4.303
        4.303
    """
    from scipy.special import stdtrit

    return float(stdtrit(df, p))


def two_sided(t: float, df: float) -> float:
    """The probability that a t variable of `df` degrees of freedom is at least as far from 0 as `t`."""
    from scipy.special import stdtr

    return float(min(1.0, 2 * stdtr(df, -abs(t))))


@dataclass(frozen=True)
class Sample:
    """A few numbers as n, mean and std (of n - 1; NaN for one number).

    Example:
        >>> Sample.of([1.0, 2.0, 3.0])
        Sample(n=3, mean=2.0, std=1.0)
    """

    n: int
    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """Of at least one value; equal values have exactly their mean and a std of 0."""
        n = len(values)
        if max(map(abs, values)) > _SQUARABLE:  # a run that all but diverged
            small = cls.of([value * 2.0**-600 for value in values])
            return cls(n, small.mean * 2.0**600, small.std * 2.0**600)
        mean = values[0] if min(values) == max(values) else math.fsum(values) / n
        square = math.fsum((value - mean) ** 2 for value in values)
        return cls(n, mean, math.sqrt(square / (n - 1)) if n > 1 else math.nan)

    def half_width(self, alpha: float = 0.05) -> float:
        """Half of the t interval: mean -/+ t(1 - alpha/2; n - 1) std / sqrt(n); NaN for one number.

        Example:
            >>> round(Sample(4, 0.0, 2.0).half_width(), 4)  # 3.1824 * 2 / sqrt(4)
            3.1824
        """
        return math.nan if self.n < 2 else t_quantile(1 - alpha / 2, self.n - 1) * self.std / math.sqrt(self.n)

    def p_zero(self) -> float:
        """The two-sided p value of "the true mean is 0"; NaN where the numbers have no spread to judge it by.

        Example:
            >>> round(Sample(3, 4.303, 3**0.5).p_zero(), 3)
            0.05
        """
        if self.n < 2 or not _has_spread(self):
            return math.nan
        return two_sided(self.mean / (self.std / math.sqrt(self.n)), self.n - 1)

    def seeds_needed(self, alpha: float) -> tuple[int | None, int | None] | None:
        """Give the range of how many numbers find a difference of this kind at level `alpha` with 80% power; None without spread.

        A few numbers say little of the true effect, the mean in units of the std: its 90% interval, from the noncentral t
        distribution, gives the fewest and the most numbers. None in their place: over 1,000, as where the effect may be 0.

        Source: Cohen (1988) Statistical Power Analysis; Steiger & Fouladi (1997) on intervals of noncentrality.

        Example:
            >>> Sample(3, 1.0, 1.0).seeds_needed(0.05), Sample(20, 1.0, 1.0).seeds_needed(0.05)
            ((4, None), (6, 30))
        """
        if self.n < 2 or not _has_spread(self):
            return None
        from scipy.special import nctdtrinc

        t = abs(self.mean) / self.std * math.sqrt(self.n)
        least, most = (float(nctdtrinc(self.n - 1, p, t)) / math.sqrt(self.n) for p in (0.95, 0.05))
        return _seeds_for(most, alpha), _seeds_for(least, alpha)


def power(n: int, effect: float, alpha: float) -> float:
    """Give the probability that a two-sided t test of `n` numbers finds a mean of `effect` standard deviations at level `alpha`.

    Example:
        >>> round(power(34, 0.5, 0.05), 3)  # Cohen 1988: 34 pairs for a medium effect
        0.808
    """
    from scipy.special import chdtr, nctdtr

    bound, shift = t_quantile(1 - alpha / 2, n - 1), abs(effect) * math.sqrt(n)
    if shift > _FAR:  # where scipy's distribution underflows, and the spread of the std is all that matters
        return float(chdtr(n - 1, (n - 1) * (shift / bound) ** 2))
    other_side = nctdtr(n - 1, shift, -bound) if shift < 5 else 0.0  # below 1e-6 there, where scipy's digits end
    return float(1 - nctdtr(n - 1, shift, bound) + other_side)


def _seeds_for(effect: float, alpha: float) -> int | None:
    """The fewest numbers that find an effect with 80% power; None: over 1,000."""
    if not effect > 0 or power(MOST_SEEDS, effect, alpha) < POWER:
        return None
    return 2 + bisect_left(range(2, MOST_SEEDS), True, key=lambda n: power(n, effect, alpha) >= POWER)


def _has_spread(sample: Sample) -> bool:
    """Whether the std is more than the rounding of float64 sums."""
    return sample.std > 1e-12 * abs(sample.mean) and sample.std > 0


@dataclass(frozen=True)
class Holm:
    """One test among many.

    Attributes:
        p: the adjusted p value: below alpha exactly where Holm's procedure rejects at alpha.
        level: the alpha at which an interval of its own agrees with the procedure: it leaves 0 out exactly where the
            procedure rejects.
    """

    p: float
    level: float


def holm(p_values: Sequence[float], alpha: float = 0.05) -> list[Holm]:
    """Holm's step-down correction: all rejections together are right with probability 1 - alpha, whatever the dependence.

    The smallest of m p values is held against alpha / m, the next against alpha / (m - 1), and so on until one is larger.

    Example:
        >>> [round(test.p, 3) for test in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
        >>> [round(test.level, 4) for test in holm([0.01, 0.04, 0.03])]
        [0.0167, 0.025, 0.025]
    """
    m = len(p_values)
    found: list[Holm] = [Holm(1.0, alpha)] * m
    adjusted, stopped = 0.0, None
    for rank, index in enumerate(sorted(range(m), key=lambda index: p_values[index])):
        adjusted = max(adjusted, min(1.0, (m - rank) * p_values[index]))
        if stopped is None and adjusted > alpha:
            stopped = alpha / (m - rank)
        found[index] = Holm(adjusted, alpha / (m - rank) if stopped is None else stopped)
    return found
