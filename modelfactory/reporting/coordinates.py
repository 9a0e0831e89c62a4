"""What a coordinate check found: exponents of width and depth, the best learning rate by width, a verdict, a table and a picture."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelfactory.config.files import write_atomic, write_text
from modelfactory.config.printable import aligned, finite
from modelfactory.reporting.palette import LIGHT

FILES = ("coordcheck.png", "coordcheck.csv")
"""What `CoordCheck.write` leaves in a folder."""
GROWS, SHRINKS = 0.25, -0.5
"""Exponents between which a change stays: a factor of 1.7, or a third, over a factor of 8."""
_MOST_LINES = 8


@dataclass(frozen=True)
class Axis:
    """What steps changed over the sizes of one kind.

    Attributes:
        name: width or depth.
        key: of the config.
        sizes: in increasing order.
        changes: by layer, the root mean square of what the steps changed of its output, at each size.
    """

    name: str
    key: str
    sizes: tuple[int, ...]
    changes: Mapping[str, tuple[float, ...]]

    @property
    def exponents(self) -> dict[str, float]:
        """By layer, the power of the size that its change follows; NaN where a change is 0 or not finite."""
        return {layer: exponent(self.sizes, values) for layer, values in self.changes.items()}

    @property
    def largest(self) -> tuple[str, float]:
        """The layer whose change grows most, and its exponent."""
        return self._ordered[-1]

    @property
    def least(self) -> tuple[str, float]:
        """The layer whose change shrinks most, and its exponent."""
        return self._ordered[0]

    @property
    def _ordered(self) -> list[tuple[str, float]]:
        known = [(layer, value) for layer, value in self.exponents.items() if math.isfinite(value)]
        return sorted(known, key=lambda item: item[1]) or [("", math.nan)]

    @property
    def broken(self) -> bool:
        """Whether some change is not finite."""
        return any(not math.isfinite(value) for values in self.changes.values() for value in values)

    @property
    def stays(self) -> bool:
        """Whether no layer's change grows or shrinks."""
        return not self.broken and self.largest[1] <= GROWS and self.least[1] >= SHRINKS

    def told(self) -> str:
        """The verdict in a sentence."""
        if self.broken:
            return f"over {self.name}s: the steps diverge"
        if self.stays:
            up, down = (f"{self.name}^{value:.2f} at {layer}" for layer, value in (self.largest, self.least))
            return f"over {self.name}s: what the steps change stays ({down} to {up}), so a learning rate carries over"
        grows = self.largest[1] > GROWS
        layer, value = self.largest if grows else self.least
        what, means = ("grows", "does not carry over") if grows else ("shrinks", "is too small for a larger one")
        return f"over {self.name}s: what the steps change {what} as {self.name}^{value:.2f} at {layer}, so a learning rate {means}"


@dataclass(frozen=True)
class Rates:
    """The training loss by width and learning rate.

    Attributes:
        lrs: in increasing order.
        losses: by width, at each rate; infinite where it diverged.
        steps: that each training took.
    """

    key: str
    lrs: tuple[float, ...]
    losses: Mapping[int, tuple[float, ...]]
    steps: int

    @property
    def best(self) -> dict[int, float]:
        """By width, the rate of the least loss, by a parabola through the best of the grid and its neighbours; NaN at its edge."""
        return {width: best_rate(self.lrs, losses) for width, losses in self.losses.items()}

    @property
    def factor(self) -> float:
        """By how much the best rate of one width exceeds that of another, at most; NaN where one is not known."""
        values = list(self.best.values())
        return math.nan if any(math.isnan(value) for value in values) else max(values) / min(values)

    @property
    def moves(self) -> bool | None:
        """Whether the best rate moves by more than a step of the grid; None where that is not told."""
        return None if math.isnan(self.factor) else self.factor > max(b / a for a, b in zip(self.lrs, self.lrs[1:], strict=False))

    def told(self) -> str:
        """The verdict in a sentence."""
        rates = ", ".join(f"{'?' if math.isnan(rate) else f'{rate:.2g}'} at {width}" for width, rate in self.best.items())
        if self.moves is None:
            return f"the best learning rate is inconclusive, at the edge of those tried where it is ?: {rates}; try others"
        if self.moves:
            return f"the best learning rate moves with the width, by a factor of {self.factor:.2g}: {rates}"
        return f"the best learning rate does not move by more than a step of the grid: {rates}"


@dataclass(frozen=True)
class CoordCheck:
    """What a coordinate check found.

    Attributes:
        axes: over widths, and over depths.
        steps: of the optimizer, after which outputs were compared.
        seeds: how many all is a mean over.
        rates: where learning rates were given.
    """

    axes: tuple[Axis, ...]
    steps: int
    seeds: int
    rates: Rates | None = None

    def __str__(self) -> str:
        tables = [f"rms change of each output after {self.steps} steps, over {self.seeds} seed{'s' if self.seeds > 1 else ''}"]
        tables += ["\n".join(aligned(_axis_rows(axis))) for axis in self.axes]
        if self.rates is not None:
            title = f"training loss after {self.rates.steps} steps, by learning rate"
            tables.append("\n".join([title, *aligned(_rate_rows(self.rates))]))
        told = [axis.told() for axis in self.axes] + ([self.rates.told()] if self.rates is not None else [])
        return "\n\n".join([*tables, "\n".join(told)])

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data; what is not finite is null."""
        axes = [
            {
                "name": axis.name,
                "key": axis.key,
                "sizes": list(axis.sizes),
                "stays": axis.stays,
                "layers": [
                    {"layer": layer, "changes": list(map(finite, values)), "exponent": finite(axis.exponents[layer])}
                    for layer, values in axis.changes.items()
                ],
            }
            for axis in self.axes
        ]
        rates = None
        if self.rates is not None:
            losses = {str(width): list(map(finite, values)) for width, values in self.rates.losses.items()}
            best = {str(width): finite(rate) for width, rate in self.rates.best.items()}
            rates = {"lrs": list(self.rates.lrs), "losses": losses, "best": best, "moves": self.rates.moves, "steps": self.rates.steps}
        return {"axes": axes, "steps": self.steps, "seeds": self.seeds, "rates": rates}

    def to_csv(self) -> str:
        """A row for each layer and size: axis, key, size, layer, change, exponent; and one for each width and rate."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("axis", "key", "size", "layer", "value", "exponent"))
        for axis in self.axes:
            for layer, values in axis.changes.items():
                writer.writerows(
                    (axis.name, axis.key, size, layer, f"{value:.6g}", f"{axis.exponents[layer]:.4g}")
                    for size, value in zip(axis.sizes, values, strict=True)
                )
        if self.rates is not None:
            for width, losses in self.rates.losses.items():
                pairs = zip(self.rates.lrs, losses, strict=True)
                writer.writerows(("loss", self.rates.key, width, f"lr={lr:g}", f"{loss:.6g}", "") for lr, loss in pairs)
        return text.getvalue()

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write coordcheck.png and coordcheck.csv into a folder, which is made where it is not there."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        picture, table = FILES
        write_text(Path(folder) / table, self.to_csv())
        self.plot(Path(folder) / picture)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw changes against widths and depths, and the loss against the learning rate, into a PNG."""
        from modelfactory.reporting.papers.outcome import new_figure

        panels = len(self.axes) + (self.rates is not None)
        figure = new_figure(4.4 * panels + 0.6, 4)
        axes = figure.subplots(1, panels, squeeze=False)[0]
        for panel, axis in zip(axes, self.axes, strict=False):
            _draw_axis(panel, axis, self.steps)
        if self.rates is not None:
            _draw_rates(axes[-1], self.rates)
        write_atomic(path, lambda file: figure.savefig(file, format="png"))


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The power of the sizes that values follow, by least squares on logarithms; NaN where one is not above 0.

    Example:
        >>> round(exponent([64, 256, 1024], [1.0, 2.0, 4.0]), 6)
        0.5
    """
    if not all(math.isfinite(value) and value > 0 for value in values):
        return math.nan
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    centre, middle = sum(x) / len(x), sum(y) / len(y)
    return sum((a - centre) * (b - middle) for a, b in zip(x, y, strict=True)) / sum((a - centre) ** 2 for a in x)


def best_rate(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """The learning rate of the least loss, between those of a grid by a parabola over logarithms; NaN where it is at the grid's edge.

    Example:
        >>> round(best_rate([1e-3, 1e-2, 1e-1], [1.0, 0.5, 1.0]), 4), best_rate([1e-3, 1e-2, 1e-1], [0.2, 0.5, 1.0])
        (0.01, nan)
    """
    at = min(range(len(losses)), key=lambda index: losses[index])
    if at in (0, len(losses) - 1) or not math.isfinite(losses[at]):
        return math.nan
    if not math.isfinite(losses[at + 1]) or not math.isfinite(losses[at - 1]):
        return lrs[at]
    x = [math.log(lr) for lr in lrs[at - 1 : at + 2]]
    left, middle, right = losses[at - 1 : at + 2]
    down, up = (middle - left) / (x[1] - x[0]), (right - middle) / (x[2] - x[1])
    bend = (up - down) / (x[2] - x[0])
    return math.exp((x[0] + x[1]) / 2 - down / (2 * bend)) if bend > 0 else lrs[at]


def _axis_rows(axis: Axis) -> list[list[str]]:
    head = ["layer", *(f"{axis.name} {size}" for size in axis.sizes), "exponent"]
    powers = axis.exponents
    return [head, *([layer, *(f"{value:.3g}" for value in values), f"{powers[layer]:+.2f}"] for layer, values in axis.changes.items())]


def _rate_rows(rates: Rates) -> list[list[str]]:
    rows = [[f"width {width}", *(f"{loss:.3g}" for loss in losses), f"{rates.best[width]:.2g}"] for width, losses in rates.losses.items()]
    return [["", *(f"{lr:g}" for lr in rates.lrs), "best"], *rows]


def _draw_axis(panel: Any, axis: Axis, steps: int) -> None:
    from modelfactory.reporting.papers.outcome import dress

    layers = list(axis.changes)
    if len(layers) > _MOST_LINES:  # the first, the last, and some between
        layers = [layers[round(index * (len(layers) - 1) / (_MOST_LINES - 1))] for index in range(_MOST_LINES)]
    for index, layer in enumerate(layers):
        panel.plot(axis.sizes, axis.changes[layer], color=LIGHT[index % len(LIGHT)], marker="o", linewidth=1.8, label=layer)
    name, value = axis.largest
    dress(panel, f"{name or 'nothing'}: {axis.name}^{value:.2f}", axis.name, f"rms change after {steps} steps")
    _log_sizes(panel, axis.sizes)
    panel.set_yscale("log")
    panel.legend(frameon=False, fontsize=8)


def _draw_rates(panel: Any, rates: Rates) -> None:
    from modelfactory.reporting.papers.outcome import dress

    for index, (width, losses) in enumerate(rates.losses.items()):
        known = [(lr, loss) for lr, loss in zip(rates.lrs, losses, strict=True) if math.isfinite(loss)]
        colour = LIGHT[index % len(LIGHT)]
        panel.plot([lr for lr, _ in known], [loss for _, loss in known], color=colour, marker="o", label=f"width {width}")
    dress(panel, f"loss after {rates.steps} steps", "learning rate", "training loss")
    panel.set_xscale("log")
    panel.legend(frameon=False, fontsize=8)


def _log_sizes(panel: Any, sizes: Sequence[int]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xticks(sizes, [str(size) for size in sizes])
    panel.minorticks_off()
