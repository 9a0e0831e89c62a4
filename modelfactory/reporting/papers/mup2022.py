"""Yang et al. 2022, figure 5: after some steps of Adam, how much every layer's output has changed, against the width.

By the standard parametrisation the change grows with the width, so that a learning rate that is right for one width is too large
for another; by maximal update parametrisation it does not. Both halves of it are needed, initial values and rates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.data.spec import build_data
from modelfactory.model.weights.files import WEIGHTS
from modelfactory.planning.plan import make_plan
from modelfactory.reporting.coordinates import exponent
from modelfactory.reporting.palette import LIGHT
from modelfactory.reporting.papers.outcome import Outcome, PaperFinding, at, chosen, completed, dress, new_figure
from modelfactory.sweeping.records import Job, Sweep
from modelfactory.training.checkpoint import read_weights

NUM_SAMPLES = 256


def measure_changes(job: Job, num_samples: int = NUM_SAMPLES) -> dict[str, float]:
    """By the name of each linear layer, in order, the rms of what a run changed of its output on the first samples."""
    data = build_data(job.config["data"])
    x, _ = data.train.sample(num_samples)
    model = make_plan(job.config).build()
    before = _outputs(model, x)
    model.load_state_dict(read_weights(job.folder / WEIGHTS).tensors)
    after = _outputs(model, x)
    return {name: (after[name] - before[name]).square().mean().sqrt().item() for name in before}


def _outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keeping(name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[name] = output.detach()

        return keep

    hooks = [
        module.register_forward_hook(keeping(name)) for name, module in model.named_modules() if isinstance(module, nn.Linear)
    ]
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    return found


TITLES = {
    ("lecun_normal", "adam"): "standard",
    ("mup", "adam"): "muP's initial values alone",
    ("lecun_normal", "adam_mup"): "muP's learning rates alone",
    ("mup", "adam_mup"): "muP",
}


def draw(sweep: Sweep) -> Outcome:
    """The change of each layer's output against the width, a panel for each pair of initialisation and optimizer."""
    panels: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for job in sorted(completed(sweep), key=lambda job: at(job.config, "model.width")):
        kind = chosen(job, "init"), chosen(job, "optimizer")
        panels.setdefault(kind, {})[at(job.config, "model.width")] = measure_changes(job)
    order = [kind for kind in TITLES if kind in panels] + [kind for kind in panels if kind not in TITLES]
    from matplotlib.ticker import FormatStrFormatter, LogLocator

    figure, findings = new_figure(3.4 * len(order) + 0.6, 4), []
    axes = figure.subplots(1, len(order), sharey=True, squeeze=False)[0]
    for axis, kind in zip(axes, order, strict=True):
        changes, title = panels[kind], TITLES.get(kind, " ".join(kind))
        widths = list(changes)
        slopes = []
        for index, layer in enumerate(changes[widths[0]]):
            values = [changes[width][layer] for width in widths]
            slopes.append(exponent(widths, values))
            axis.plot(widths, values, color=LIGHT[index], marker="o", linewidth=1.8, label=layer)
        findings.append(
            PaperFinding(f"{title}: largest exponent of the width, over layers", "0" if title == "muP" else "above 0", max(slopes))
        )
        dress(axis, f"{title}: up to n^{max(slopes):.2f}", "width n", "rms change of a layer's output" if axis is axes[0] else "")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(widths, [str(width) for width in widths])
        axis.minorticks_off()
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes[0].legend(frameon=False, fontsize=8)
    steps = int(sweep.jobs[0].final["step"])
    figure.suptitle(f"Yang et al. 2022: what {steps} steps of Adam change, by width", x=0.01, ha="left", fontsize=11)
    return Outcome(f"Yang et al. 2022, what {steps} steps of Adam change, by width", findings, figure)
