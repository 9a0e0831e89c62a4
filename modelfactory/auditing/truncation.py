"""Find truncated normals whose bounds are not what was meant: they cut so close that little of the std is left."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from modelfactory.auditing.finding import Finding
from modelfactory.auditing.scale import fits_a_law
from modelfactory.auditing.subject import AuditedParameter, Subject

_LEAST_CUT = 1.6  # of stds from the mean: cut further out a normal is near enough to what was asked for
_FEWEST = 4096
_MOST = 65536
_CLOSE = 1.63  # of a Kolmogorov-Smirnov distance times the root of the count: one in a hundred is further
_WEAK, _NARROW = 0.25, 0.0401  # of a gain, and of a bound that is written in units of 1 where stds of it were meant


def find_truncated(subject: Subject) -> Iterator[Finding]:
    """Draws that were cut near their own std, or cut so close that they are uniform."""
    for item in subject.items:
        if not item.trains or item.is_constant or not item.is_matrix or item.values is None:
            continue
        message = _cut(subject, item)
        if message is not None:
            std = min(item.std, 0.02) if item.fans is None or item.fans.fan_in <= 0 else 1 / math.sqrt(item.fans.fan_in)
            fix = f"nn.init.trunc_normal_({item.name}, std={std:.2g}, a={-2 * std:.2g}, b={2 * std:.2g}): bounds in stds of its own"
            yield Finding(item.name, "truncated", "warn", message, fix)


def _cut(subject: Subject, item: AuditedParameter) -> str | None:
    """A normal draw cut within 1.6 of its stds, or cut so close that it is uniform."""
    values, bound = item.values, item.high
    if values is None or values.numel() < _FEWEST or abs(item.low + bound) > 0.01 * bound or not 0.4 < item.std / bound < 0.6:
        return None
    sample = values.reshape(-1)
    sample = sample[:: max(1, sample.numel() // _MOST)].double().sort().values / bound
    close = _CLOSE / math.sqrt(len(sample))
    if _distance(sample, (1 + sample) / 2) < close:
        return _uniform(subject, item)
    cut = _cut_at(item.std / bound)
    if cut >= _LEAST_CUT or _distance(sample, _distribution(sample * cut, cut)) > close:
        return None
    asked = bound / cut
    return (
        f"it is a normal draw of std {asked:.3g} cut at {bound:.3g}, {cut:.2g} of its stds, which leaves a std of {item.std:.3g}: the "
        "bounds of trunc_normal_ are in units of the values, not of the std"
    )


def _uniform(subject: Subject, item: AuditedParameter) -> str | None:
    """A weak uniform draw up to a bound that no fans give, as a normal one is whose bounds cut nearly everything."""
    fans = item.fans
    if fans is None or item.roles[0] != "weight" or item.high > _NARROW or fits_a_law(item, fans) or item.has("head", "residual_out"):
        return None
    gain = item.rms * math.sqrt(fans.fan_in) * abs(subject.factor(fans.node))
    rounded = float(f"{item.high:.1g}")
    if gain > _WEAK or subject.is_normalised(fans.node) or abs(item.high / rounded - 1) > 20 / math.prod(item.shape):
        return None
    return (
        f"it is spread evenly up to {rounded:g}, as a normal draw is whose bounds cut nearly all of it, and makes the signal {gain:.2g} of "
        "what it was: the bounds of trunc_normal_ are in units of the values, not of the std"
    )


def _distance(sample: Tensor, law: Tensor) -> float:
    """Kolmogorov's distance of a sorted sample from a distribution."""
    count = len(sample)
    steps = torch.arange(count, dtype=sample.dtype, device=sample.device) / count
    return max((law - steps).max().item(), (steps + 1 / count - law).max().item())


def _distribution(at: Tensor, cut: float) -> Tensor:
    """The distribution of a standard normal cut at so many stds."""
    inside = math.erf(cut / math.sqrt(2))
    return (torch.erf(at / math.sqrt(2)) / inside + 1) / 2


def _cut_at(ratio: float) -> float:
    """At how many of its stds a normal was cut, by its std over its bound."""
    low, high = 1e-3, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        inside = math.erf(middle / math.sqrt(2))
        variance = 1 - 2 * middle * math.exp(-(middle**2) / 2) / math.sqrt(2 * math.pi) / inside
        low, high = (middle, high) if math.sqrt(variance) / middle > ratio else (low, middle)
    return (low + high) / 2
