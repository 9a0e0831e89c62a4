"""Glorot & Bengio 2010, figures 6 and 7: how activations and back-propagated gradients spread at the start, layer by layer.

A run's initial values follow from its config alone, so the untrained model is built again here, whenever it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.data.spec import build_data
from modelfactory.planning.plan import make_plan
from modelfactory.reporting.palette import LIGHT
from modelfactory.reporting.papers.outcome import Outcome, PaperFinding, completed, dress, grouped, new_figure
from modelfactory.sweeping.records import Sweep

NAMES = {"fan_in_uniform": "U(-1/sqrt n, 1/sqrt n), the standard rule", "xavier_uniform": "Xavier, the normalised rule"}
REFERENCE = {"fan_in_uniform": ("0.46", "0.05", "0.083"), "xavier_uniform": ("0.63", "0.32", "0.41")}
NUM_SAMPLES = 256


@dataclass(frozen=True)
class LayerSample:
    """One hidden layer on a batch: its activations, and the gradient of the loss by them, both flat."""

    activations: Tensor
    gradients: Tensor


def measure_layers(config: Mapping[str, Any], num_samples: int = NUM_SAMPLES) -> list[LayerSample]:
    """What the activations and gradients of a config's untrained model are on its first samples, layer by layer."""
    model, data = make_plan(config).build(), build_data(config["data"])
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        outputs.append(output)

    for module in model.modules():
        if isinstance(module, nn.Tanh):
            module.register_forward_hook(keep)
    x, y = data.train.sample(num_samples)
    nn.functional.cross_entropy(model(x), y).backward()
    return [LayerSample(output.detach().flatten(), _flat_gradient(output)) for output in outputs]


def _flat_gradient(output: Tensor) -> Tensor:
    """By the pre-activation, as in the paper: tanh' is 1 - tanh^2."""
    gradient = torch.zeros_like(output) if output.grad is None else output.grad
    return (gradient * (1 - output.detach() ** 2)).flatten()


def draw(sweep: Sweep) -> Outcome:
    """Histograms of activations for each scheme, and the spread of activations and gradients against the layer."""
    jobs = grouped(completed(sweep), "init.rules.weights.scheme")
    measured = {scheme: measure_layers(runs[0].config) for (scheme,), runs in jobs.items()}
    figure = new_figure(12, 7)
    axes = figure.subplots(2, 2)
    findings = []
    for index, (scheme, layers) in enumerate(measured.items()):
        name = NAMES.get(str(scheme), str(scheme))
        if index < 2:
            _histograms(axes[0][index], name, layers, LIGHT[index])
        activations, gradients = ([part.std().item() for part in parts] for parts in _parts(layers))
        numbers = range(1, len(layers) + 1)
        axes[1][0].plot(numbers, activations, color=LIGHT[index], marker="o", linewidth=1.8, label=name)
        axes[1][1].plot(
            numbers, [each / gradients[-1] for each in gradients], color=LIGHT[index], marker="o", linewidth=1.8, label=name
        )
        first, last, ratio = REFERENCE.get(scheme, ("", "", ""))
        findings.append(PaperFinding(f"{scheme}: activation std, layer 1", first, activations[0]))
        findings.append(PaperFinding(f"{scheme}: activation std, layer {len(layers)}", last, activations[-1]))
        findings.append(PaperFinding(f"{scheme}: gradient std, layer 1 over layer {len(layers)}", ratio, gradients[0] / gradients[-1]))
        accuracy = max(run.best["val_accuracy"] for run in jobs[(scheme,)])
        findings.append(PaperFinding(f"{scheme}: validation accuracy, best", "", accuracy))
    dress(axes[1][0], "std of activations", "layer")
    dress(axes[1][1], "std of back-propagated gradients, over that of the last layer", "layer")
    for axis in axes[1]:
        axis.set_xticks(range(1, len(next(iter(measured.values()))) + 1))
        axis.set_ylim(0, None)
    axes[1][0].legend(frameon=False)
    figure.suptitle("Glorot & Bengio 2010: tanh layers before training", x=0.01, ha="left", fontsize=11)
    return Outcome("Glorot & Bengio 2010, tanh layers before training", findings, figure)


def _parts(layers: Sequence[LayerSample]) -> tuple[list[Tensor], list[Tensor]]:
    return [layer.activations for layer in layers], [layer.gradients for layer in layers]


def _histograms(axis: Any, name: str, layers: Sequence[LayerSample], colour: str) -> None:
    edges = torch.linspace(-1, 1, 101)
    centres = ((edges[1:] + edges[:-1]) / 2).tolist()
    for number, layer in enumerate(layers, 1):
        density = torch.histc(layer.activations, 100, -1, 1) / len(layer.activations) / (2 / 100)
        axis.plot(
            centres,
            density.tolist(),
            color=colour,
            alpha=0.25 + 0.75 * number / len(layers),
            linewidth=1.5,
            label=f"layer {number}",
        )
    dress(axis, f"activations: {name}", "value of tanh", "density")
    axis.set_xlim(-1, 1)
    axis.legend(frameon=False, fontsize=8)
