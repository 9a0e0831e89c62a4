"""A ranking and what else there is to say of a sweep, as text of 80 columns."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modelfactory.reporting.schemes import HIGHER_IS_BETTER, Arm, Metric
from modelfactory.reporting.stats import MOST_SEEDS, t_quantile
from modelfactory.sweeping.records import Job, Sweep

WIDTH = 80
MOST_ROWS = 60  # of a table on the terminal
MOST_REASONS = 12  # for which jobs did not complete, listed one by one
ENDED_BADLY = ("diverged", "failed", "out_of_memory", "killed")


def number(value: float | None, digits: int = 4) -> str:
    """A number in few characters; "-" for one that there is not.

    Example:
        >>> number(0.154855), number(12345.6), number(0.0000123456), number(None), number(0.0)
        ('0.1549', '1.235e+04', '1.235e-05', '-', '0')
    """
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


@dataclass(frozen=True)
class Figures:
    """Numbers of one column with equally many decimals: those that give `base` four significant digits, three if it is below 0.1.

    Example:
        >>> figures = Figures(0.1315)
        >>> figures(0.02), figures(2.3026), figures(-0.5, signed=True), figures(3.7e8), figures(float("nan"))
        ('0.0200', '2.3026', '-0.5000', '3.7e+08', '-')
    """

    base: float

    def __call__(self, value: float | None, signed: bool = False, digits: int = 4) -> str:
        if value is None or not math.isfinite(value):
            return "-"
        sign = "+" if signed else ""
        decimals = (3 if abs(self.base) >= 0.1 else 2) - math.floor(math.log10(abs(self.base))) if self.base else 4
        if decimals > 6 or abs(value) >= 1e5:
            return f"{value:{sign}.{digits}g}"
        return f"{value:{sign}.{max(0, decimals)}f}"

    def difference(self, comparison: Comparison) -> str:
        """A difference with its interval.

        Example:
            >>> Figures(0.1315).difference(Comparison(3, -0.01234, 0.0321, 0.4, "inconclusive"))
            '-0.0123 ±0.0321'
        """
        half = "" if math.isnan(comparison.half_width) else f" ±{self(comparison.half_width, digits=2)}"
        return "-" if comparison.n == 0 else f"{self(comparison.difference, signed=True)}{half}"


def figures(ranking: Ranking) -> Figures:
    """How the numbers of a ranking are written."""
    best = ranking.best
    return Figures(0.0 if best is None or best.scheme.sample is None else best.scheme.sample.mean)


def seeds(row: RankedScheme) -> str:
    """How many of a scheme's jobs the row is of: "3", or "2/3" where some have no value."""
    jobs, missing = len(row.scheme.jobs), row.scheme.missing
    return f"{jobs - missing}/{jobs}" if missing else str(len(row.scheme.values))


def outcome(row: RankedScheme) -> str:
    """The last cell of a row: the verdict, or why there is none."""
    if row.is_best:
        return "best"
    if row.comparison is not None:
        return row.comparison.verdict
    ended = Counter(job.status for job in row.scheme.jobs)
    return ended.most_common(1)[0][0].replace("_", " ") if ended else "no job"


def table(ranking: Ranking, width: int = WIDTH) -> str:
    """The ranking, one scheme a row; a label that is too long goes on below, or has lines of its own above the numbers."""
    single = len(ranking.rows) == 1
    head = ("", ", ".join(ranking.axes) or "scheme", "n", "mean", "std") + (() if single else ("difference to best", "", "seeds needed"))
    rows = [_cells(row, single, figures(ranking)) for row in ranking.rows[:MOST_ROWS]]
    if not single and not any(cells[-1] for cells in rows):
        head, rows = head[:-1], [cells[:-1] for cells in rows]
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    room = width - sum(widths) + widths[1] - 2 * (len(widths) - 1)
    word = max(len(part) for cells in [head, *rows] for part in cells[1].split())
    is_above = room < min(word, 16)
    widths[1] = max(0, room) if is_above else min(widths[1], room)
    lines = [line for cells in [head, *rows] for line in (_lines_below if is_above else _lines)(cells, widths)]
    rest = len(ranking.rows) - len(rows)
    return "\n".join([*lines, f"and {rest} more, all in report.html"] if rest else lines)


def _cells(row: RankedScheme, single: bool, written: Figures) -> tuple[str, ...]:
    sample = row.scheme.sample
    cells = (
        "" if row.rank is None else str(row.rank),
        row.scheme.label,
        seeds(row),
        written(None if sample is None else sample.mean),
        written(None if sample is None else sample.std),
    )
    compared = "" if row.comparison is None else written.difference(row.comparison)
    return cells if single else (*cells, compared, outcome(row), seeds_needed(row))


def _lines(cells: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    parts = textwrap.wrap(cells[1], max(1, widths[1]), break_on_hyphens=False) or [""]
    texts = [
        parts[0].ljust(width) if column == 1 else cell.ljust(width) if column > 4 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    yield "  ".join(texts).rstrip()
    for part in parts[1:]:
        yield " " * (widths[0] + 2) + part


def _lines_below(cells: Sequence[str], widths: Sequence[int]) -> Iterable[str]:
    """The label, then the numbers."""
    indent = " " * (widths[0] + 2)
    yield from textwrap.wrap(cells[1], WIDTH, initial_indent=f"{cells[0]:>{widths[0]}}  ", subsequent_indent=indent)
    yield next(iter(_lines(("", "", *cells[2:]), widths)))


def sentences(ranking: Ranking) -> tuple[list[str], list[str]]:
    """What the numbers say, and how that is to be taken."""
    best = ranking.best
    others = [row for row in ranking.rows if row.comparison is not None]
    if best is None:
        return ["No job has completed, so that there is nothing to rank yet."], []
    if not others:
        return [_alone(best, ranking)], []
    said = [
        f"{words} {best.scheme.label}: {_list(_with_verdict(others, verdict))}."
        for verdict, words in _VERDICTS.items()
        if _with_verdict(others, verdict)
    ]
    if not said:
        said = [f"{best.scheme.label} has the best value, of one seed."]
    said.extend(_on_test(best, ranking.metric))
    return said, _what_seeds_tell(others, ranking)


def _alone(best: RankedScheme, ranking: Ranking) -> str:
    """Of the only scheme there is."""
    sample, written, confidence = best.scheme.sample, figures(ranking), round(100 * (1 - ranking.alpha))
    if len(best.scheme.jobs) == 1:
        scores = best.scheme.jobs[0].final if ranking.metric.epoch == "final" else best.scheme.jobs[0].best
        told = ", ".join(f"{name} {number(value)}" for name, value in scores.items() if name in HIGHER_IS_BETTER and value is not None)
        return f"{ranking.metric.epoch.capitalize()} epoch {scores.get('epoch', '-')}: {told}. One run has no spread to judge it by."
    if sample is None or sample.n < 2:
        return f"One of {len(best.scheme.jobs)} seeds has a value, which has no spread to judge it by."
    half = written(sample.half_width(ranking.alpha))
    return f"The mean over {sample.n} seeds is {written(sample.mean)} ±{half} ({confidence}% t interval)."


def _on_test(best: RankedScheme, metric: Metric) -> list[str]:
    """What the best scheme has on the test split, by which nothing was chosen; nothing where there is none, or it is what is ranked by."""
    if metric.epoch == "final" or metric.name.startswith("test_"):
        return []
    told = []
    for name in ("test_loss", "test_accuracy"):
        values = [value for job in best.scheme.jobs if (value := Metric(name).of(job)) is not None]
        told += [f"{name} {number(sum(values) / len(values))}"] if values else []
    return [f"On the test split {best.scheme.label} has {', '.join(told)}, the mean of its best epochs."] if told else []


_VERDICTS = {
    "better": "Better, though with fewer seeds, than",
    "worse": "Worse than",
    "inconclusive": "Inconclusive against",
    "same": "The same value on every seed as",
    "no spread": "The same difference on every seed, which leaves no spread to judge it by, from",
    "no seed": "No seed in common with",
}


def _with_verdict(rows: Sequence[RankedScheme], verdict: str) -> list[str]:
    """The labels of the schemes that it was said of."""
    return [row.scheme.label for row in rows if row.comparison is not None and row.comparison.verdict == verdict]


def seeds_needed(row: RankedScheme) -> str:
    """How many seeds would decide an inconclusive difference: "8-50", "7->1000"; "" where that is not the question."""
    if row.comparison is None or row.comparison.verdict != "inconclusive" or row.comparison.seeds_needed is None:
        return ""
    fewest, most = (f">{MOST_SEEDS}" if count is None else str(count) for count in row.comparison.seeds_needed)
    return fewest if fewest == most else f"{fewest} to {most}"


def _what_seeds_tell(rows: Sequence[RankedScheme], ranking: Ranking) -> list[str]:
    """What the interval is, and how little one or two seeds can tell."""
    counts = {row.comparison.n for row in rows if row.comparison is not None}
    confidence = round(100 * (1 - ranking.alpha))
    said = []
    if ranking.num_comparisons:
        many = f"all {ranking.num_comparisons} pairs of schemes" if ranking.num_comparisons > 1 else "the one pair of schemes"
        said.append(f"Differences are paired over equal seeds; ± is a {confidence}% t interval, corrected (Holm) for {many}.")
    if any(seeds_needed(row) for row in rows):
        said.append("seeds needed: to find such a difference with 80% power, as a range, since few seeds say little of its size.")
    partly = [row for row in ranking.rows if row.scheme.missing and row.scheme.values]
    broken = [row for row in partly if any(row.scheme.count(status) for status in ENDED_BADLY)]
    if broken:
        said.append(f"{seeds(broken[0])}: the other jobs have no value; a mean without runs that diverged flatters.")
    elif partly:
        said.append(f"{seeds(partly[0])}: the other jobs have not ended yet.")
    if len(ranking.axes) > 1:
        said.append(f"--by {ranking.axes[0]} compares the values of {ranking.axes[0]} alone, paired over all the rest.")
    if 1 in counts:
        said.append("One seed cannot tell a scheme from luck: the order above may be chance. Give more, such as seed=range(5).")
    few = min(counts - {0, 1}, default=0)
    if few and ranking.num_comparisons:
        times = t_quantile(1 - ranking.alpha / 2 / ranking.num_comparisons, few - 1)
        told = f"With {few} seeds a difference is told from {times:.0f} times its standard error on"
        said += [f"{told}: more seeds, or fewer schemes, tell more."] if times > 8 else []
    return said


def _list(labels: Sequence[str], most: int = 8) -> str:
    """Labels in a row; those with a comma are set apart by semicolons."""
    separator = "; " if any(", " in label for label in labels) else ", "
    shown = separator.join(labels[:most])
    return f"{shown} and {len(labels) - most} more" if len(labels) > most else shown


def wrapped(text: str, indent: str = "", width: int = WIDTH) -> str:
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False)


def state(sweep: Sweep) -> str:
    """How many jobs are how far: "9 jobs: 7 completed, 2 diverged"."""
    counts = Counter(job.status.replace("_", " ") for job in sweep.jobs)
    parts = [f"{count} {status}" for status, count in counts.items()]
    jobs = f"{len(sweep.jobs)} job{'' if len(sweep.jobs) == 1 else 's'}"
    return f"{jobs}: {', '.join(sorted(parts, key=lambda part: 'completed' not in part))}"


def failures(sweep: Sweep) -> list[Job]:
    """The jobs that ended without completing."""
    return [job for job in sweep.jobs if job.status in ENDED_BADLY]


def failures_text(sweep: Sweep) -> str:
    """Jobs that did not complete, each with its reason."""
    failed = failures(sweep)
    if not failed:
        return ""
    alike: dict[tuple[str, str], list[str]] = {}
    for job in failed:
        title = f"job {job.number} ({sweep.title(job)})" if sweep.title(job) else f"job {job.number}"
        reason = " ".join((job.reason or "no reason is known").split())
        alike.setdefault((job.status.replace("_", " "), reason), []).append(title)
    lines = [f"{len(failed)} of {len(sweep.jobs)} did not complete"]
    for (status, reason), titles in list(alike.items())[:MOST_REASONS]:
        lines.append(wrapped(f"{_list(titles)}: {status}: {reason}", "  "))
    if len(alike) > MOST_REASONS:
        lines.append(f"  and {len(alike) - MOST_REASONS} other reasons: all are in summary.csv")
    return "\n".join(lines)


def ranking_text(ranking: Ranking) -> str:
    """The table and what it says; of a single run what it came to."""
    said = "\n".join(wrapped(sentence) for part in sentences(ranking) for sentence in part)
    return f"{table(ranking)}\n\n{said}" if is_table_wanted(ranking) else said


def is_table_wanted(ranking: Ranking) -> bool:
    """Whether there is more than one run to tell of, and anything yet."""
    return ranking.best is not None and sum(len(row.scheme.jobs) for row in ranking.rows) > 1


ALPHA = 0.05


@dataclass(frozen=True)
class Comparison:
    """How a scheme differs from the best one, on the seeds that both have.

    Attributes:
        n: seeds that both have.
        difference: the mean over these seeds of the scheme's value less that of the best, in the metric's unit.
        half_width: the interval of the difference is `difference` -/+ this; NaN where none can be given.
        p: Holm's adjusted p value of "there is no difference"; NaN where it cannot be tested.
        verdict: "worse", "better", "inconclusive" (the interval has 0 in it), "same" (the same value on every seed),
            "no spread" (the same difference on every seed, which leaves nothing to judge it by), "1 seed", "no seed".
        seeds_needed: the fewest and the most seeds that find a difference of this kind with 80% power, by what these seeds say of
            it; None in their place: over 1,000.
    """

    n: int
    difference: float
    half_width: float
    p: float
    verdict: str
    seeds_needed: tuple[int | None, int | None] | None = None


@dataclass(frozen=True)
class RankedScheme:
    """A scheme of the ranking; `rank` is None and `comparison` too where no job of it has a value.

    `comparison` is None for the best scheme as well.
    """

    scheme: Arm
    rank: int | None
    comparison: Comparison | None
    is_best: bool = False


@dataclass(frozen=True)
class Ranking:
    """The schemes of a sweep by their mean, the best first.

    Attributes:
        axes: what a scheme is told by.
        rows: schemes with values by their mean, then those without.
        num_comparisons: how many pairs of schemes could be tested, all of which the correction counts.
        alpha: the probability that any difference is told where there is none.
    """

    metric: Metric
    axes: tuple[str, ...]
    rows: tuple[RankedScheme, ...]
    num_comparisons: int
    alpha: float = ALPHA

    @property
    def best(self) -> RankedScheme | None:
        """The scheme that the others are compared to: of those with the most seeds the first."""
        return next((row for row in self.rows if row.is_best), None)

    def __str__(self) -> str:

        return ranking_text(self)
