"""Saxe et al. 2014: how long a deep linear net takes to learn does not depend on its depth if it starts orthogonal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelfactory.reporting.palette import LIGHT
from modelfactory.reporting.papers.outcome import Outcome, PaperFinding, completed, dress, grouped, new_figure, read_metrics
from modelfactory.sweeping.records import Job, Sweep

TARGET = 0.01  # of the targets' variance, which is the loss of a net that says 0
REFERENCE = {
    ("orthogonal", 3): "8 to 11",
    ("orthogonal", 10): "8 to 11",
    ("orthogonal", 30): "8 to 11",
    ("orthogonal", 100): "8 to 11",
    ("lecun_normal", 3): "12",
    ("lecun_normal", 10): "19",
    ("lecun_normal", 30): "41",
    ("lecun_normal", 100): "never",
}
NAMES = {"lecun_normal": "Gaussian, 1/n_in"}


def steps_to_target(rows: Sequence[Mapping[str, float]], target: float = TARGET) -> int | None:
    """Steps after which the training loss is below the target; None where it never is.

    Args:
        rows: of metrics.csv, an epoch being one step: a row's loss is that before the step.

    Example:
        >>> steps_to_target([{"step": 1, "train_loss": 1.0}, {"step": 2, "train_loss": 0.005}])
        1
    """
    return next((int(row["step"]) - 1 for row in rows if row["train_loss"] < target), None)


def fastest(runs: Sequence[Job]) -> int | None:
    """Steps to the target at the best of the learning rates tried."""
    found = [steps for run in runs if (steps := steps_to_target(read_metrics(run))) is not None]
    return min(found, default=None)


def draw(sweep: Sweep) -> Outcome:
    """Steps to the target against depth, and the loss against the step, for each scheme at its best learning rate."""
    by_hidden = grouped(completed(sweep), "init.rules.weights.scheme", "model.depth")
    jobs = {(scheme, hidden + 1): runs for (scheme, hidden), runs in by_hidden.items()}  # the head is a layer too
    schemes, depths = list(dict.fromkeys(scheme for scheme, _ in jobs)), sorted({depth for _, depth in jobs})
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    limit = max(int(row["step"]) for row in read_metrics(sweep.jobs[0]))
    findings = []
    for index, scheme in enumerate(schemes):
        found = [fastest(jobs[scheme, depth]) for depth in depths]
        reached = [(depth, steps) for depth, steps in zip(depths, found, strict=True) if steps is not None]
        name = NAMES.get(scheme, scheme)
        left.plot(*zip(*reached, strict=True), color=LIGHT[index], marker="o", linewidth=1.8, label=name)
        never = [depth for depth, steps in zip(depths, found, strict=True) if steps is None]
        left.plot(never, [limit] * len(never), color=LIGHT[index], marker="x", markersize=8, markeredgewidth=2, linestyle="none")
        for depth, steps in zip(depths, found, strict=True):
            what = f"{name}, depth {depth}: steps to {TARGET:g} of the variance"
            findings.append(PaperFinding(what, REFERENCE.get((scheme, depth), ""), steps))
            rows = min(
                (read_metrics(run) for run in jobs[scheme, depth]), key=lambda rows: min(row["train_loss"] for row in rows)
            )
            shade = 0.25 + 0.75 * (depths.index(depth) + 1) / len(depths)
            right.plot(*_line(rows), color=LIGHT[index], alpha=shade, linewidth=1.6, label=name if depth == depths[-1] else None)
    left.set_xscale("log")
    left.set_xticks(depths, [str(depth) for depth in depths])
    left.minorticks_off()
    left.set_ylim(0, limit * 1.06)
    left.axhline(limit, color="#9aa0a6", linewidth=1, linestyle=":")
    left.annotate(
        f"not within {limit} steps", (0.02, limit), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color="#666666"
    )
    dress(left, f"steps until the loss is {TARGET:g} of the targets' variance", "layers")
    dress(right, f"training loss, depth {depths[0]} (pale) to {depths[-1]} (full)", "step")
    right.set_yscale("log")
    right.set_ylim(TARGET / 10, 10)
    right.axhline(TARGET, color="#9aa0a6", linewidth=1, linestyle=":")
    left.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.93))
    figure.suptitle(
        "Saxe et al. 2014: deep linear nets, full batches, at the best of the learning rates tried",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return Outcome("Saxe et al. 2014, deep linear nets", findings, figure)


def _line(rows: Sequence[Mapping[str, float]]) -> tuple[list[float], list[float]]:
    return [row["step"] - 1 for row in rows], [row["train_loss"] for row in rows]
