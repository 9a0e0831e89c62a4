"""Activations and what they do to a signal: Gaussian moments by quadrature, gains, criticality.

With `z ~ N(0, 1)` and a pre-activation of variance `q`, all that an initialisation needs of an activation `f` is
`E f(sqrt(q) z)^2` (how it scales the signal) and `E f'(sqrt(q) z)^2` (how it scales the gradient). Both are integrals
of one variable, so they are computed, for any activation, also one never seen before.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from modelfactory.config.errors import SchemeError, did_you_mean
from modelfactory.numerics.quadrature import integrate

Activation: TypeAlias = str | nn.Module | type[nn.Module] | Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "celu": nn.CELU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "hardshrink": nn.Hardshrink,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "hardtanh": nn.Hardtanh,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "logsigmoid": nn.LogSigmoid,
    "mish": nn.Mish,
    "prelu": nn.PReLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "rrelu": nn.RReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "softshrink": nn.Softshrink,
    "softsign": nn.Softsign,
    "tanh": nn.Tanh,
    "tanhshrink": nn.Tanhshrink,
    "threshold": nn.Threshold,
}
"""The elementwise activations of torch.nn by their name in torch.nn.functional, and `identity`."""

_ALIASES = {"linear": "identity", "swish": "silu"}
_BY_NAME = (
    ACTIVATIONS | {cls.__name__: cls for cls in ACTIVATIONS.values()} | {new: ACTIVATIONS[old] for new, old in _ALIASES.items()}
)
_KNOWN = tuple(ACTIVATIONS.values())
_PROBED_VALUES = 4096  # a module with more values of its own than this is no activation, and costly to copy and try


@dataclass(frozen=True)
class Moments:
    """Gaussian moments of an activation `f` at pre-activation variance `q`, over `x ~ N(0, q)`.

    Attributes:
        mean: `E f(x)`.
        second: `E f(x)^2`.
        derivative_mean: `E f'(x)`.
        derivative_second: `E f'(x)^2`.
    """

    mean: float
    second: float
    derivative_mean: float
    derivative_second: float


@dataclass(frozen=True)
class Resolved:
    """An activation made callable on a float64 grid. Equal keys mean equal functions; None means never."""

    key: Any
    function: Callable[[Tensor], Tensor] = field(compare=False)
    label: str = field(compare=False)


def moments(function: Activation, q: float = 1.0) -> Moments:
    """Gaussian moments of an activation, to about 1e-12 of their size.

    Adaptive Gauss-Legendre quadrature in float64, panels bisected at kinks and jumps. Derivatives are those of autograd.
    Results are cached. RReLU is taken as in evaluation (its mean slope), PReLU at the slope it starts from.

    Args:
        function: a name (`relu`, `ReLU`, `torch.nn.ReLU`), a module, a module class that needs no arguments, or a
            function from a tensor to one of the same shape, in place or not.
        q: variance of the pre-activation, > 0.

    Raises:
        SchemeError: it is not elementwise, is not known, or is not finite.

    Example:
        >>> found = moments("relu")
        >>> round(found.mean, 6), round(found.second, 6), round(found.derivative_second, 6)
        (0.398942, 0.5, 0.5)
        >>> round(moments(lambda x: x**3).second, 9)
        15.0
    """
    if not (math.isfinite(q) and q > 0):
        raise SchemeError(f"q = {q!r} is not a variance; give a number > 0")
    resolved = resolve(function)
    compute = _moments.__wrapped__ if resolved.key is None else _moments
    return compute(resolved, float(q))


@lru_cache(maxsize=1024)
def _moments(resolved: Resolved, q: float) -> Moments:
    scale = math.sqrt(q)

    def both(z: Tensor) -> Tensor:
        values, derivatives = value_and_derivative(resolved.function, z * scale)
        finite = values.isfinite() & derivatives.isfinite()
        if not finite.all():
            worst = (z * scale)[~finite].abs().min().item()
            raise SchemeError(f"{resolved.label} or its derivative is not finite at |x| = {worst:.4g}: give a gain")
        return torch.stack([values, derivatives])

    (mean, derivative_mean), (second, derivative_second) = integrate(both)
    return Moments(mean, second, derivative_mean, derivative_second)


def value_and_derivative(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """`f` and `f'` at every entry of `x`, which is left as it is by an in-place `f`."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        values = function(leaf.clone())
        if not values.requires_grad:  # a constant, or a function with no derivative but zero
            return values, torch.zeros_like(x)
        (derivatives,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
    return values.detach(), torch.zeros_like(x) if derivatives is None else derivatives


def gain(activation: Activation, mode: Literal["forward", "backward"] = "forward", q: float = 1.0) -> float:
    """What the weights after an activation are multiplied by so that it does not scale the signal, or the gradient.

    Formula: forward `g = 1/sqrt(E f(sqrt(q) z)^2)`, backward `g = 1/sqrt(E f'(sqrt(q) z)^2)`, `z ~ N(0, 1)`.
    Forward at q = 1 keeps a unit second moment at every layer. The gain belongs to the activation at the layer's input.
    For gelu, silu, mish and hardswish the forward fixed point is unstable: see `critical` for deep nets of these.

    Source: He et al. 2015 for the rectifier; Bingham & Miikkulainen, AutoInit, 2021.

    Raises:
        SchemeError: as `moments`, or the activation passes no signal on.

    Example:
        >>> [round(gain(name), 4) for name in ("relu", "tanh", "gelu")]
        [1.4142, 1.5925, 1.5335]
        >>> round(gain(nn.Sigmoid(), mode="backward"), 4)
        4.7226
    """
    if mode not in ("forward", "backward"):
        raise SchemeError(f"mode {mode!r} is not a choice{did_you_mean(str(mode), ['forward', 'backward'])}")
    found = moments(activation, q)
    power = found.second if mode == "forward" else found.derivative_second
    if power <= 0:
        raise SchemeError(f"{resolve(activation).label} passes no {mode} signal at q = {q:g}: give a gain")
    return 1 / math.sqrt(power)


def critical(activation: Activation, q: float = 1.0, sigma_b: float | None = None) -> tuple[float, float]:
    """Weight and bias variances at the edge of chaos: `(sigma_w^2, sigma_b^2)`.

    Formula: `sigma_w^2 = 1/E f'(sqrt(q) z)^2`, `sigma_b^2 = q - sigma_w^2 E f(sqrt(q) z)^2`. Weights have variance
    `sigma_w^2/fan_in`, biases `sigma_b^2`; then `q` is a fixed point of the pre-activation variance and gradients
    neither grow nor shrink with depth.

    Source: Poole et al. 2016; Schoenholz et al. 2017; Hayou et al. 2019.

    Args:
        activation: as for `moments`.
        q: the fixed point, > 0. Ignored when `sigma_b` is given.
        sigma_b: standard deviation of the biases; the `q` that belongs to it is solved for.

    Raises:
        SchemeError: no critical point there (`sigma_b^2` would be negative, or no `q` has this `sigma_b`).

    Example:
        >>> [round(variance, 4) for variance in critical("tanh")]
        [2.1533, 0.151]
        >>> [round(variance, 4) for variance in critical("relu")]
        [2.0, 0.0]
        >>> [round(variance, 3) for variance in critical("tanh", sigma_b=0.2)]
        [1.701, 0.04]
    """
    if sigma_b is not None:
        q = _solve_fixed_point(activation, sigma_b)
    found = moments(activation, q)
    if found.derivative_second <= 0:
        raise SchemeError(f"{resolve(activation).label} passes no gradient at q = {q:g}: it has no critical point")
    weight = 1 / found.derivative_second
    bias = q - weight * found.second
    if bias < -1e-9 * q:
        raise SchemeError(
            f"{resolve(activation).label} has no critical point at q = {q:g}: the bias variance would be {bias:.4g}; try another q"
        )
    return weight, 0.0 if bias < 1e-9 * q else bias


def _solve_fixed_point(activation: Activation, sigma_b: float) -> float:
    """The least `q` whose critical bias variance is `sigma_b^2`: bracketed on a grid of decades, then Illinois steps."""

    def excess(log_q: float) -> float:
        found = moments(activation, math.exp(log_q))
        if found.derivative_second <= 0:
            raise SchemeError(f"{resolve(activation).label} passes no gradient: it has no critical point")
        return 1 - (found.second / found.derivative_second + sigma_b**2) / math.exp(log_q)

    grid = [step * math.log(10) / 4 for step in range(-24, 13)]
    low, at_low = grid[0], excess(grid[0])
    if abs(at_low) < 1e-5 and sigma_b == 0:
        return math.exp(low)
    for high in grid[1:]:
        at_high = excess(high)
        if at_low < 0 <= at_high:
            break
        low, at_low = high, at_high
    else:
        raise SchemeError(f"{resolve(activation).label} has no critical point with sigma_b = {sigma_b:g}; give q instead")
    for _ in range(100):
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        at_middle = excess(middle)
        if abs(at_middle) < 1e-12 or high - low < 1e-13:
            break
        if at_middle < 0:
            low, at_low, at_high = middle, at_middle, at_high / 2
        else:
            high, at_high, at_low = middle, at_middle, at_low / 2
    return math.exp(middle)


def is_elementwise(activation: Activation) -> bool:
    """Whether each entry of the output depends on the same entry of the input alone, and alike for all entries.

    Tried out on a small float64 tensor on the CPU, in evaluation mode, on a copy. Global random state is left as it is.

    Example:
        >>> is_elementwise(nn.SiLU()), is_elementwise(nn.Softmax(dim=-1)), is_elementwise(nn.GLU())
        (True, False, False)
    """
    if isinstance(activation, nn.Module):
        if isinstance(activation, _KNOWN):
            return True
        if type(activation).__module__.startswith("torch.nn.modules") or _num_values(activation) > _PROBED_VALUES:
            return False
    try:
        function = _unchecked(activation).function
    except SchemeError:
        return False
    return _probe(function)


def is_activation(module: nn.Module) -> bool:
    """Whether a module bends the signal elementwise: torch.nn's activations, and unknown ones that turn out to.

    Example:
        >>> is_activation(nn.ReLU()), is_activation(nn.Linear(2, 2)), is_activation(nn.Identity())
        (True, False, False)
    """
    if isinstance(module, nn.Identity):
        return False
    if isinstance(module, _KNOWN):
        return True
    if not is_elementwise(module):
        return False
    grid = torch.linspace(-3, 3, 12, dtype=torch.float64).reshape(2, 6)
    with torch.no_grad():
        return not torch.equal(_unchecked(module).function(grid.clone()), grid)


def _num_values(module: nn.Module) -> int:
    return sum(tensor.numel() for tensors in (module.parameters(), module.buffers()) for tensor in tensors)


def _probe(function: Callable[[Tensor], Tensor]) -> bool:
    grid = torch.linspace(-2.9, 3.1, 24, dtype=torch.float64).reshape(4, 6)
    kept = (torch.arange(4)[:, None] + torch.arange(6)) % 2 == 0
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            at_grid, at_flipped = function(grid.clone()), function(grid.flip(0, 1)).flip(0, 1)
            at_other = function(torch.where(kept, grid, grid * 0.7 + 0.1))
    except Exception:  # unknown code may raise anything on a tensor it is not made for: then it is not elementwise
        return False
    if not isinstance(at_grid, Tensor) or at_grid.shape != grid.shape or at_other.shape != grid.shape:
        return False
    pairs = ((at_grid, at_flipped), (at_grid[kept], at_other[kept]))
    return all(torch.allclose(one, other, rtol=1e-9, atol=1e-12, equal_nan=True) for one, other in pairs)


def resolve(activation: Activation) -> Resolved:
    """An activation given in any form, as a function on float64.

    Raises:
        SchemeError: it is not elementwise, or not known.

    Example:
        >>> resolve("relu").label
        'ReLU'
    """
    resolved = _unchecked(activation)
    known = isinstance(activation, str) or isinstance(activation, _KNOWN) or activation in _KNOWN
    if not known and not is_elementwise(activation):
        raise SchemeError(f"{resolved.label} is not elementwise: give a gain")
    return resolved


def _unchecked(activation: Activation) -> Resolved:
    if isinstance(activation, str):
        name = activation.removeprefix("torch.nn.").removeprefix("functional.")
        if name not in _BY_NAME:
            raise SchemeError(
                f"{activation!r} is not an activation of torch.nn that acts elementwise{did_you_mean(name, ACTIVATIONS)}"
            )
        activation = _BY_NAME[name]
    if isinstance(activation, type) and issubclass(activation, nn.Module):
        try:
            activation = activation()
        except TypeError as error:
            raise SchemeError(f"{activation.__name__} needs arguments: give a module instead of its class ({error})") from None
    if isinstance(activation, nn.Module):
        return Resolved(_module_key(activation), _module_function(activation), type(activation).__name__)
    if not callable(activation):
        raise SchemeError(f"{activation!r} is not an activation; give a name, a module, a module class or a function")
    return Resolved(activation, activation, getattr(activation, "__name__", repr(activation)))


def _module_function(module: nn.Module) -> Callable[[Tensor], Tensor]:
    if isinstance(module, nn.PReLU):
        slope = module.init
        return lambda x: torch.where(x > 0, x, slope * x)
    if any(tensor.is_meta for tensors in (module.parameters(), module.buffers()) for tensor in tensors):
        raise SchemeError(f"{type(module).__name__} is on the meta device, so its values are not known: give a gain")
    return copy.deepcopy(module).requires_grad_(False).double().cpu().eval()


def _module_key(module: nn.Module) -> Any:
    """What two modules that compute the same have in common, or None where that cannot be told cheaply."""
    if isinstance(module, nn.PReLU):
        return nn.PReLU, module.init
    if (
        next(module.parameters(), None) is not None
        or next(module.buffers(), None) is not None
        or next(module.children(), None) is not None
    ):
        return None
    settings = tuple(
        (name, value) for name, value in vars(module).items() if not name.startswith("_") and name not in ("training", "inplace")
    )
    if not all(isinstance(value, (bool, int, float, str, type(None))) for _, value in settings):
        return None
    return type(module), settings
