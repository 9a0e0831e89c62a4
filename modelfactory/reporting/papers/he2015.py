"""He et al. 2015, figures 2 and 3: at 22 layers of rectifiers both rules learn, at 30 only the one with the 2."""

from __future__ import annotations

import math
from statistics import median

from modelfactory.reporting.papers.outcome import Outcome, PaperFinding, completed, draw_curve, dress, grouped, new_figure
from modelfactory.sweeping.records import Sweep

# what a width of 128 on digits is known to give after 299 steps, by depth and scheme
REFERENCE = {
    (22, "kaiming_normal"): ("", "0.93"),
    (22, "xavier_normal"): ("", "0.1, chance"),
    (30, "kaiming_normal"): ("about 1.2", "about 0.5"),
    (30, "xavier_normal"): ("2.302 = ln 10", "0.1, chance"),
}


def draw(sweep: Sweep) -> Outcome:
    """Training loss against the step for each scheme, a panel for each depth; loss and best accuracy over seeds as numbers."""
    jobs = grouped(completed(sweep), "model.depth", "init.rules.weights.scheme")
    depths, schemes = sorted({depth for depth, _ in jobs}), list(dict.fromkeys(scheme for _, scheme in jobs))
    figure, findings = new_figure(5.2 * len(depths), 4.2), []
    axes = figure.subplots(1, len(depths), sharey=True, squeeze=False)[0]
    for axis, depth in zip(axes, depths, strict=True):
        for index, scheme in enumerate(schemes):
            runs = jobs[depth, scheme]
            draw_curve(axis, runs, "train_loss", scheme, index)
            loss, accuracy = REFERENCE.get((depth, scheme), ("", ""))
            last = [run.final["train_loss"] for run in runs]
            findings.append(PaperFinding(f"{depth} layers, {scheme}: training loss at the end", loss, median(last)))
            best = [run.best["val_accuracy"] for run in runs]
            findings.append(PaperFinding(f"{depth} layers, {scheme}: validation accuracy, best", accuracy, median(best)))
        chance = math.log(runs[0].config["data"]["num_classes"])
        axis.axhline(chance, color="#9aa0a6", linewidth=1, linestyle=":")
        axis.annotate(
            "ln 10: chance", (0.02, chance), xycoords=("axes fraction", "data"), va="bottom", fontsize=8, color="#666666"
        )
        dress(axis, f"{depth} layers", "step", "training loss" if axis is axes[0] else "")
        axis.set_ylim(bottom=0)
    axes[-1].legend(frameon=False, loc="lower left")
    seeds = len(next(iter(jobs.values())))
    figure.suptitle(
        f"He et al. 2015: rectifiers without norms, median and range over {seeds} seeds", x=0.01, ha="left", fontsize=11
    )
    return Outcome("He et al. 2015, rectifiers without norms", findings, figure)
