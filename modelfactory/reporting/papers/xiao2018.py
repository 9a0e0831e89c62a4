"""Xiao et al. 2018: a hundred layers of plain tanh convolutions learn if they start as delta-orthogonal, and not if Gaussian."""

from __future__ import annotations

import math
from statistics import median

from modelfactory.reporting.papers.outcome import Outcome, PaperFinding, completed, draw_curve, dress, grouped, new_figure
from modelfactory.sweeping.records import Sweep

REFERENCE = {"delta_orthogonal": "0.69", "lecun_normal": "0.01 to 0.1"}
NAMES = {"lecun_normal": "Gaussian of the same variance"}


def draw(sweep: Sweep) -> Outcome:
    """Training loss and validation accuracy against the step, for each scheme."""
    jobs = grouped(completed(sweep), "init.rules.convolutions.scheme")
    figure, findings = new_figure(11, 4.2), []
    axes = figure.subplots(1, 2)
    config = sweep.jobs[0].config
    for index, ((scheme,), runs) in enumerate(jobs.items()):
        name = NAMES.get(str(scheme), str(scheme))
        draw_curve(axes[0], runs, "train_loss", name, index)
        draw_curve(axes[1], runs, "val_accuracy", name, index)
        findings.append(
            PaperFinding(
                f"{name}: validation accuracy at the end",
                REFERENCE.get(scheme, ""),
                median(run.final["val_accuracy"] for run in runs),
            )
        )
        findings.append(PaperFinding(f"{name}: training loss at the end", "", median(run.final["train_loss"] for run in runs)))
    classes = config["data"]["num_classes"]
    for axis, chance in zip(axes, (math.log(classes), 1 / classes), strict=True):
        axis.axhline(chance, color="#9aa0a6", linewidth=1, linestyle=":")
        axis.annotate("chance", (0.02, chance), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color="#666666")
    dress(axes[0], "training loss", "step")
    dress(axes[1], "validation accuracy", "step")
    axes[1].set_ylim(0, 1)
    axes[1].legend(frameon=False, loc="upper left")
    depth, seeds = config["model"]["depth"] + 1, len(next(iter(jobs.values())))
    title = f"Xiao et al. 2018: {depth} tanh convolutions without norms or skips, median and range over {seeds} seeds"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return Outcome(f"Xiao et al. 2018, {depth} tanh convolutions", findings, figure)
