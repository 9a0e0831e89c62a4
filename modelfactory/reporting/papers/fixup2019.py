"""Zhang et al. 2019: residual nets without norms, which fixup starts as the identity at any depth."""

from __future__ import annotations

from modelfactory.reporting.palette import LIGHT
from modelfactory.reporting.papers.outcome import (
    Outcome,
    PaperFinding,
    at,
    chosen,
    completed,
    dress,
    grouped,
    new_figure,
    read_metrics,
)
from modelfactory.sweeping.records import Sweep

CEILING = 1e4  # losses above are drawn at the edge


def draw(sweep: Sweep) -> Outcome:
    """Training loss against the step and the best validation accuracy against depth, for each initialisation."""
    jobs = completed(sweep)
    by_init: dict[str, dict[int, float]] = {}
    figure, findings = new_figure(11, 4.2), []
    left, right = figure.subplots(1, 2)
    depths = sorted(depth for (depth,) in grouped(jobs, "model.depth"))
    for job in jobs:
        name, depth = chosen(job, "init"), at(job.config, "model.depth")
        by_init.setdefault(name, {})[depth] = job.best["val_accuracy"]
        index, rows = list(by_init).index(name), read_metrics(job)
        shade = 0.25 + 0.75 * (depths.index(depth) + 1) / len(depths)
        losses = [min(row["train_loss"], CEILING) for row in rows]
        label = name if depth == depths[-1] else None
        left.plot([row["step"] for row in rows], losses, color=LIGHT[index], alpha=shade, marker="o", markersize=3, label=label)
        layers = f"{2 * depth} layers in branches, {name}"
        findings.append(PaperFinding(f"{layers}: training loss at the end", "", job.final["train_loss"]))
        findings.append(PaperFinding(f"{layers}: validation accuracy, best", "", job.best["val_accuracy"]))
    for index, (name, found) in enumerate(by_init.items()):
        right.plot(
            [2 * depth for depth in depths],
            [found[depth] for depth in depths],
            color=LIGHT[index],
            marker="o",
            linewidth=1.8,
            label=name,
        )
    left.set_yscale("log")
    left.set_ylim(top=CEILING * 3)
    left.annotate(
        f"{CEILING:g} and above", (0.98, CEILING), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
    )
    right.set_xscale("log")
    right.set_xticks([2 * depth for depth in depths], [str(2 * depth) for depth in depths])
    right.minorticks_off()
    right.set_ylim(0, 1)
    dress(left, f"training loss, {2 * depths[0]} layers (pale) to {2 * depths[-1]} (full)", "step")
    dress(right, "validation accuracy, best", "layers in residual branches")
    right.legend(frameon=False, loc="lower left")
    figure.suptitle("Zhang et al. 2019: residual nets without norms, gradients clipped at norm 1", x=0.01, ha="left", fontsize=11)
    return Outcome("Zhang et al. 2019, residual nets without norms", findings, figure)
