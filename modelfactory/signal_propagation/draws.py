"""The band of a signal over draws of the weights, whatever scheme drew them."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.signal_propagation.measure import measure
from modelfactory.signal_propagation.row import SignalRow

_INPUTS_FIRST = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def redrawn(model: nn.Module, seed: int) -> nn.Module:
    """A copy of a model whose weights are another draw: of each matrix the inputs are shuffled and their signs flipped at random.

    That keeps the law, the norm and the spectrum of each matrix, be it normal or orthogonal, and the rows of packed ones; what it
    changes is how one layer meets the next. A pattern, such as an identity (at most one number in a row), stays.

    Example:
        >>> layer = nn.Linear(4, 4)
        >>> other = redrawn(layer, 1)
        >>> torch.equal(other.weight.abs().sort(1).values, layer.weight.abs().sort(1).values), torch.equal(other.weight, layer.weight)
        (True, False)
    """
    made = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in made.modules():
            for parameter in module.parameters(recurse=False):
                if parameter.ndim > 1 and parameter.is_floating_point() and not isinstance(module, nn.Embedding):
                    axis = 0 if isinstance(module, _INPUTS_FIRST) else 1
                    if not _is_pattern(parameter):
                        parameter.copy_(_shuffled(parameter, axis, generator))
    return made


def _shuffled(weight: Tensor, axis: int, generator: torch.Generator) -> Tensor:
    size = weight.shape[axis]
    order = torch.randperm(size, generator=generator).to(weight.device)
    signs = (torch.randint(0, 2, (size,), generator=generator) * 2 - 1).to(weight)
    return weight.index_select(axis, order) * signs.view([-1 if dim == axis else 1 for dim in range(weight.ndim)])


def _is_pattern(weight: Tensor) -> bool:
    return bool((weight.flatten(1) != 0).sum(1).max() <= 1)


def with_band(rows: Sequence[SignalRow], model: nn.Module, example: Any, draws: int, seed: int = 0) -> list[SignalRow]:
    """The rows with their band: lowest and highest root mean square over the model as it is and so many other draws, forward and back.

    Raises:
        ValueError: draws below 1.
    """
    if draws < 1:
        raise ValueError(f"draws: {draws!r} is below 1; give how many draws of the weights the band is over")
    found = [measure(redrawn(model, seed + index + 1), example, seed) for index in range(draws)]

    def banded(row: SignalRow) -> SignalRow:
        forward = [row.measured.forward, *(math.sqrt(one.second.get(row.node, math.nan)) for one in found)]
        gradient = [row.measured.gradient, *(math.sqrt(one.gradient.get(row.node, math.nan)) for one in found)]
        return replace(row, band=(*_ends(forward), *_ends(gradient)))

    return [banded(row) for row in rows]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    known = [value for value in values if math.isfinite(value)]
    return (min(known), max(known)) if known else (math.nan, math.nan)
