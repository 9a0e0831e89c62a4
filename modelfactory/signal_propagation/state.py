"""What is predicted of a tensor: its second moment place by place, and how two inputs and two places go together.

Units are alike and, given the layer before, independent (mean-field theory); places (pixels, tokens) are not. Of pairs of
entries of one unit four kinds are kept, since each goes through weights and activations as such:
`near` two neighbouring places of one input, `far` any two places of one input, `other` one place of two inputs, `apart` two
places of two inputs. For white noise `near` equals `far` and all is exact; for images that is what the four are for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.init.fill import measure
from modelfactory.numerics.gaussian_moments import Law, NotPredicted, correlation, gaussian
from modelfactory.signal_propagation.masking import Shown

KINDS = ("near", "far", "other", "apart")


@dataclass(frozen=True)
class State:
    """A signal on its way forward.

    Attributes:
        power: second moment [as many dimensions as the tensor, each 1 where all its places are alike].
        mean: over units, places and inputs.
        pairs: mean product of two entries of a unit, [near, far, other, apart].
        unit: the dimension the units lie in.
        law: of an entry, None for a Gaussian one.
        latent: correlations of the Gaussians behind the law, by kind of pair.
        spread: weights of single inputs' power about the mean, as `spread.grid`; None where it does not matter.
        chance: variance of the log of the mean second moment over draws of the weights before, by the finite width.
        own: the part of it that this tensor's own, finitely many units add.
        scatter: variance over pairs of places of what they have in common beyond the mean, relative to the variance, as finitely
            many units before left it; without what this tensor's own add.
        narrow: what is to be added to it for what a unit of a grouped convolution sees.
        parts: of what is put side by side along the units, each part's share and variance about its own mean; () for one part.
        row: of scores, the mean product of two in a row (the last dimension); None: as `far`.
        shown: of scores, what a mask leaves of them.
    """

    power: Tensor
    mean: float
    pairs: Tensor
    unit: int
    law: Law | None = None
    chance: float = 0.0
    own: float = 0.0
    latent: tuple[float, ...] | None = None
    spread: Tensor | None = None
    scatter: float = 0.0
    narrow: float = 0.0
    parts: tuple[tuple[float, float], ...] = ()
    row: float | None = None
    shown: Shown | None = None

    @property
    def correlations(self) -> tuple[float, ...]:
        """By kind of pair, those of the Gaussians behind."""
        if self.law is not None and self.latent is not None:
            return self.latent
        return tuple(correlation(pair, self.mean, self.variance) for pair in self.pairs.tolist())

    @property
    def second(self) -> float:
        return self.power.mean().item()

    @property
    def variance(self) -> float:
        return max(self.second - self.mean**2, 0.0)

    @property
    def cosines(self) -> list[float]:
        """The four pairs relative to the second moment."""
        second = self.second
        return [min(max(pair / second, -1.0), 1.0) if second > 0 else 0.0 for pair in self.pairs.tolist()]

    @property
    def points(self) -> Law:
        """The law of an entry."""
        return gaussian(float(f"{self.mean:.12g}"), float(f"{self.variance:.12g}"))[1] if self.law is None else self.law

    def scaled(self, factor: float) -> State:
        """Times a number."""
        square = factor * factor
        law = None if self.law is None else self.law.scaled(factor)
        row = None if self.row is None else self.row * square
        return replace(self, power=self.power * square, mean=self.mean * factor, pairs=self.pairs * square, law=law, row=row)


@dataclass(frozen=True)
class Gradient:
    """A gradient on its way back.

    Attributes:
        power: as `State.power`.
        far: mean product of the gradients of one unit at two places, relative to the second moment.
        chance: as `State.chance`.
        where: the weight of each point of the law behind that the gradient lands on; None where it lands everywhere.
        worth: relative to the mean, of an input of each power, as `spread.grid`; None where it does not matter.
        common: which share of its power a whole row (the last dimension) has in common.
        balanced: how many entries each row adds up to 0 over, as behind a softmax; 0 where it does not.
        normed: whether it comes from a norm over the batch, so that it adds up to 0 over the batch.
        parts: of `State.parts`, each one's power relative to the mean.
        lifted: by which units of small variance raised it in the norm that it comes from.
    """

    power: Tensor
    far: float = 0.0
    chance: float = 0.0
    where: Tensor | None = None
    worth: Tensor | None = None
    common: float = 0.0
    balanced: float = 0.0
    normed: bool = False
    parts: tuple[float, ...] = ()
    lifted: float = 1.0

    @property
    def second(self) -> float:
        return self.power.mean().item()

    def scaled(self, factor: float | Tensor) -> Gradient:
        return replace(self, power=self.power * factor)


@dataclass(frozen=True)
class Input:
    """What is known of the data.

    Attributes:
        mean, second: of an entry.
        near, far, other, apart: mean products of pairs of entries relative to the second moment.
        power: second moment place by place [1, 1, *places]; None where all places are alike.
        unit: the dimension that the units lie in.
    """

    mean: float = 0.0
    second: float = 1.0
    near: float = 0.0
    far: float = 0.0
    other: float = 0.0
    apart: float = 0.0
    power: Tensor | None = None
    unit: int = 1

    def state(self, dims: int) -> State:
        power = flat(self.second, dims) if self.power is None or self.power.ndim != dims else self.power
        pairs = torch.tensor([getattr(self, kind) * self.second for kind in KINDS], dtype=torch.float64)
        return State(power, self.mean, pairs, unit=min(self.unit, max(dims - 1, 0)))


def flat(value: float, dims: int) -> Tensor:
    """A map that is one number everywhere."""
    return torch.full((1,) * dims, value, dtype=torch.float64)


def averaged(power: Tensor, dims: Sequence[int]) -> Tensor:
    """The mean over some dimensions, which stay with size 1."""
    return power.mean(tuple(dims), keepdim=True) if dims else power


def interior(power: Tensor) -> float:
    """The power of places that have neighbours on both sides, relative to the mean of all: of pairs of neighbours, as a mean."""
    dims = [dim for dim in range(power.ndim) if power.shape[dim] > 1]
    mean = power.mean().item()
    if not dims or mean <= 0:
        return 1.0
    inner = [(power.narrow(d, 0, power.shape[d] - 1).mean() + power.narrow(d, 1, power.shape[d] - 1).mean()).item() / 2 for d in dims]
    return sum(inner) / len(inner) / mean


_SEEN = 65536  # entries of a parameter that tell its kurtosis
_BY_CHANCE = 1e-3  # of what a sum of independent weights is: one below it is meant to be 0


class WeightMoments:
    """Mean and second moment of every parameter: as told, or as the values are.

    Args:
        moments: mean and std by the parameter's name, and, where there is a third part, whether the weights of each output add up to 0;
            what is missing, or NaN, is taken from the values.
        model: whose values these are; where it is on the meta device, there are none to take.
    """

    def __init__(self, moments: Mapping[str, tuple[Any, ...]] | None, model: nn.Module):
        known = {name: told for name, told in (moments or {}).items() if all(map(_is_known, told[:2]))}
        self._told = {name: (told[0], told[1]) for name, told in known.items()}
        self._centred = {name: bool(told[2:] and told[2]) for name, told in known.items()}
        named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
        self._values = dict[str | None, Tensor](named)
        self._parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        self._cache: dict[Any, tuple[float, float]] = {}

    def is_parameter(self, name: str | None) -> bool:
        """Whether a name is that of weights that are drawn, and not of a buffer or a constant."""
        return name in self._parameters

    def is_centred(self, name: str | None, tensor: Tensor) -> bool:
        """Whether the weights [out, ...] of each output add up to 0, so that what all inputs have in common does not get through."""
        if name in self._told:
            return self._centred.get(name or "", False)
        values = self._values.get(name, tensor) if tensor.is_meta else tensor
        if values.is_meta or values.ndim < 2 or values[:1].numel() < 2:
            return False
        key = ("centred", name, id(values))
        if key not in self._cache:
            rows = values.detach().flatten(1).double()
            by_chance = rows.std().item() * math.sqrt(rows.shape[1])
            self._cache[key] = (float(by_chance > 0 and rows.sum(1).abs().max().item() < _BY_CHANCE * by_chance), 0.0)
        return bool(self._cache[key][0])

    def moments(self, name: str | None, tensor: Tensor, rows: slice | None = None) -> tuple[float, float]:
        """Mean and variance of an entry.

        Args:
            name: of the parameter, None for a constant.
            tensor: in its place in the graph, which may be on the meta device.
            rows: a part of its first axis.

        Raises:
            NotPredicted: neither told, nor has the tensor values.
        """
        if name in self._told:
            mean, std = self._told[name]
            return float(mean or 0.0), float(std or 0.0) ** 2
        values = self._values.get(name, tensor) if tensor.is_meta else tensor
        if values.is_meta:
            raise NotPredicted(f"the values of {name or 'a constant'} are not known")
        key = (name, id(values), None if rows is None else rows.start)
        if key not in self._cache:
            mean, std = measure(values if rows is None else values[rows])
            self._cache[key] = (0.0, 0.0) if math.isnan(mean) else (mean, std * std)
        return self._cache[key]

    def kurtosis(self, name: str | None, tensor: Tensor) -> float:
        """`E w^4/(E w^2)^2` of the entries; 3, as of normal ones, where their values are not known."""
        values = self._values.get(name, tensor) if tensor.is_meta else tensor
        if values.is_meta or name in self._told or values.numel() == 0:
            return 3.0
        key = ("kurtosis", name, id(values))
        if key not in self._cache:
            square = values.detach().reshape(-1)[:_SEEN].double().square()
            self._cache[key] = (((square * square).mean() / square.mean().square().clamp(min=1e-300)).item(), 0.0)
        return self._cache[key][0]

    def taps(self, name: str | None, tensor: Tensor) -> Tensor | None:
        """Second moment of each tap of a kernel [out, in, *kernel], relative to the mean over taps; None where they are alike."""
        values = self._values.get(name, tensor) if tensor.is_meta else tensor
        if values.is_meta or name in self._told or values.shape != tensor.shape:
            return None
        square = values.detach().double().square().mean((0, 1)).cpu()
        mean = square.mean()
        if mean <= 0:
            return None
        alike = 6 / math.sqrt(max(values.shape[0] * values.shape[1], 1))  # six times what chance makes them differ
        return square / mean if (square / mean - 1).abs().max() > max(alike, 0.2) else None


def _is_known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
