"""Calibration: the layers of an initialised model scaled so that a first batch leaves them with unit outputs.

One forward pass does it. As the signal arrives at a layer its weight is scaled until its output has the scale asked for, and
what goes on is the scaled output; the layers after it see what they will see in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from modelfactory.config.errors import Problems, SchemeError, did_you_mean, first_line
from modelfactory.config.schema import join, key, read
from modelfactory.model.modes import kept_modes
from modelfactory.numerics import rng
from modelfactory.parameters.residual import MATRICES

METHODS = ("lsuv", "data_dependent")
_DROPPING = ("Dropout", "DropPath", "StochasticDepth", "DropBlock")


@dataclass(frozen=True)
class CalibrateSpec:
    """How to calibrate: `init.calibrate` of a config.

    Attributes:
        method: lsuv (one factor a layer) or data_dependent (a factor and a shift for each channel).
        target: the standard deviation that outputs are to have.
        tol: how far from it they may stay.
        max_iterations: of scaling, for each layer.
    """

    method: str = key("lsuv", choices=METHODS)
    target: float = key(1.0, above=0)
    tol: float = key(0.01, above=0)
    max_iterations: int = key(10, min=1)


def read_calibrate(value: Any, path: str, problems: Problems) -> CalibrateSpec | None:
    """`calibrate: lsuv`, or a mapping of `method` and its settings; None for null, or after adding what is wrong.

    Example:
        >>> read_calibrate({"method": "lsuv", "tol": 0.05}, "init.calibrate", Problems()).tol
        0.05
    """
    if value is None or value is False or value == "none":
        return None
    if isinstance(value, str):
        if value not in METHODS:
            problems.add(path, f"{value!r} is not a calibration{did_you_mean(value, (*METHODS, 'null'))}")
            return None
        value = {"method": value}
    return read(CalibrateSpec, value, path, problems)


@dataclass(frozen=True)
class Calibrated:
    """What was done to one layer.

    Attributes:
        layer: its name.
        names: the parameters that were changed; none where `note` says why.
        before, after: the std of its output (data_dependent: of the channel farthest from the target).
        factor: what its weight was multiplied by (data_dependent: the mean over channels).
        iterations: how often it was scaled.
        note: why it was left as it is, or is not within the tolerance; "" otherwise.
    """

    layer: str
    names: tuple[str, ...]
    before: float
    after: float
    factor: float
    iterations: int
    note: str = ""


@dataclass(frozen=True)
class Calibration:
    """What a calibration did, one row a layer, in the order of forward."""

    method: str
    rows: tuple[Calibrated, ...]

    @property
    def factors(self) -> dict[str, float]:
        """By parameter, what it was multiplied by."""
        return {name: row.factor for row in self.rows for name in row.names}

    def __str__(self) -> str:
        changed = [row for row in self.rows if row.names]
        text = f"{self.method}: {len(changed)} of {len(self.rows)} layers scaled"
        if changed:
            low, high = min(row.after for row in changed), max(row.after for row in changed)
            most = max(row.iterations for row in changed)
            text += f" in at most {most} iteration{'s' if most > 1 else ''} each, output std {low:.4f} to {high:.4f}"
        return "\n".join([text, *(f"  {row.layer}: {row.note}" for row in self.rows if row.note)])


def calibrate(
    model: nn.Module,
    batch: Tensor,
    method: Literal["lsuv", "data_dependent"] = "lsuv",
    *,
    target: float = 1.0,
    tol: float = 0.01,
    max_iterations: int = 10,
    only: Collection[str] | None = None,
) -> Calibration:
    """Scales the weights of linear layers and convolutions, in place, so that `batch` leaves each with outputs of unit std.

    Formula: lsuv: layer by layer W /= std(W x + b) until |std - target| <= tol. data_dependent: for each channel c
    w_c *= target/std_c and b_c = (b_c - mean_c) target/std_c, so that its output has mean 0 and std target.

    Frozen parameters (`requires_grad` False), tied ones and those not in `only` stay as they are, and so do buffers,
    modes, and global random state. Dropout is off meanwhile; norms that train use the batch's statistics. Factors are
    rounded to 12 bits, so that they do not hang on the last bits of a sum, and with it on the number of threads.

    Source: Mishkin & Matas 2016 (LSUV, which begins from orthogonal weights); Kraehenbuehl, Doersch, Donahue & Darrell 2016.

    Use: deep nets without norms, of activations whose gain is not known, or of mixed parts.

    Args:
        model: any module that takes the batch.
        batch: a first batch of inputs [N, ...], on the model's device.
        method: one factor a layer, or a factor and a shift a channel.
        target: the std that outputs are to have.
        tol: how far from it they may stay.
        max_iterations: of scaling, for each layer.
        only: names of the parameters that may change; None: all that train.

    Raises:
        SchemeError: there is no such method, nothing to calibrate, the model cannot take the batch, or an output is not finite.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
        >>> done = calibrate(model, torch.randn(256, 8))
        >>> [row.layer for row in done.rows], round(model[0](torch.randn(4096, 8)).std().item(), 1)
        (['0', '2', '4'], 1.0)
    """
    spec = CalibrateSpec(method, target, tol, max_iterations)
    _check(spec, batch)
    allowed = {name for name, parameter in model.named_parameters() if parameter.requires_grad and (only is None or name in only)}
    run = _Run(spec, model, allowed)
    if not run.layers:
        raise SchemeError("there is nothing to calibrate: no linear layer or convolution whose weight may change")
    with _quiet(model, batch), run:
        try:
            model(batch)
        except SchemeError:
            raise
        except Exception as error:  # whatever a model says of a batch that it cannot take
            what = f"{str(batch.dtype).removeprefix('torch.')} of shape {list(batch.shape)}"
            raise SchemeError(f"the model cannot take the batch, {what}: {first_line(error)}") from error
    return Calibration(method, (*run.rows, *run.never_run()))


def _check(spec: CalibrateSpec, batch: Any) -> None:
    if spec.method not in METHODS:
        raise SchemeError(f"{spec.method!r} is not a calibration{did_you_mean(str(spec.method), METHODS)}")
    if not (spec.target > 0 and spec.tol > 0 and spec.max_iterations >= 1):
        raise SchemeError(f"calibration needs target > 0, tol > 0 and max_iterations >= 1, not {spec}")
    if not isinstance(batch, Tensor) or batch.numel() == 0 or batch.is_meta:
        raise SchemeError("calibration needs a batch: a tensor of inputs with values")
    if batch.is_floating_point() and not bool(batch.isfinite().all()):
        raise SchemeError("calibration needs a batch of finite numbers; this one has NaN or infinity in it")


class _Run:
    """The hooks of one calibrating pass."""

    def __init__(self, spec: CalibrateSpec, model: nn.Module, allowed: Collection[str]):
        self.spec = spec
        self.rows: list[Calibrated] = []
        self._done: set[nn.Module] = set()
        self._handles: list[Any] = []
        owners: dict[int, int] = {}
        for module in model.modules():
            for parameter in module._parameters.values():
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
        self.layers: dict[nn.Module, tuple[str, dict[str, nn.Parameter]]] = {}
        self.left: dict[nn.Module, tuple[str, str]] = {}
        for name, module in model.named_modules():
            if not isinstance(module, MATRICES):
                continue
            inside = {join(name, inner): parameter for inner, parameter in module.named_parameters()}
            weights = {full: parameter for full, parameter in inside.items() if not full.endswith("bias")}
            if any(owners[id(parameter)] > 1 for parameter in weights.values()):
                self.left[module] = (name, "its weight is tied to another, and stays")
            elif not set(weights) <= set(allowed):
                self.left[module] = (name, "its weight is frozen, pretrained or left out, and stays")
            else:
                self.layers[module] = (name, {full: parameter for full, parameter in inside.items() if full in allowed})

    def __enter__(self) -> None:
        self._handles = [module.register_forward_hook(self._hook, with_kwargs=True) for module in self.layers]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def never_run(self) -> Iterator[Calibrated]:
        """What the pass did not come by, and what was left out."""
        for module, (name, _) in self.layers.items():
            if module not in self._done:
                note = "its forward is not called (part of an attention, or not used), so it stays"
                yield Calibrated(name, (), math.nan, math.nan, 1.0, 0, note)
        for name, note in self.left.values():
            yield Calibrated(name, (), math.nan, math.nan, 1.0, 0, note)

    def _hook(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if module in self._done:
            return None
        self._done.add(module)
        name, parameters = self.layers[module]
        scale = _scale_layer if self.spec.method == "lsuv" else _scale_channels
        row, output = scale(self.spec, module, name, parameters, output, lambda: module(*args, **kwargs))
        self.rows.append(row)
        return output


def _scale_layer(
    spec: CalibrateSpec, module: nn.Module, name: str, parameters: dict[str, nn.Parameter], output: Tensor, again: Callable[[], Tensor]
) -> tuple[Calibrated, Tensor]:
    first = std = _finite_std(name, output)
    factor, iterations, note = 1.0, 0, ""
    while abs(std - spec.target) > spec.tol and iterations < spec.max_iterations:
        if std == 0:
            note = "its output is constant on the batch, so no factor helps and it stays"
            break
        step = _rounded(spec.target / std)
        kept = [parameter.detach().clone() for parameter in parameters.values()]
        scaled = _multiply(module, step)
        output, before = again(), std
        std = _finite_std(name, output)
        if not scaled or math.isclose(std, before, rel_tol=1e-4):
            for parameter, values in zip(parameters.values(), kept, strict=True):
                parameter.copy_(values)
            note = "its parametrisation keeps its scale, so it stays"
            output, std = again(), before
            break
        factor, iterations = factor * step, iterations + 1
    if not note and abs(std - spec.target) > spec.tol:
        note = f"output std {std:.4f} after {iterations} iterations, {abs(std - spec.target):.4f} from the target"
    names = tuple(full for full in parameters if not full.endswith("bias")) if iterations else ()
    return Calibrated(name, names, first, std, factor, iterations, note), output


def _scale_channels(
    spec: CalibrateSpec, module: nn.Module, name: str, parameters: dict[str, nn.Parameter], output: Tensor, again: Callable[[], Tensor]
) -> tuple[Calibrated, Tensor]:
    _finite_std(name, output)
    if parametrize.is_parametrized(module) or "weight" not in module._parameters:
        return Calibrated(name, (), math.nan, math.nan, 1.0, 0, "its weight is parametrised, so that its channels stay"), output
    mean, std = _by_channel(module, output)
    live = std > 0
    factors = torch.where(live, spec.target / std.clamp_min(torch.finfo(std.dtype).tiny), torch.ones_like(std))
    factors = torch.tensor([_rounded(value) for value in factors.tolist()], dtype=output.dtype, device=output.device)
    _multiply_channels(module, factors)
    names = [full for full in parameters if not full.endswith("bias")]
    bias = module._parameters.get("bias")
    moved = bias is not None and any(parameter is bias for parameter in parameters.values())
    if moved and bias is not None:
        bias.copy_((bias - mean) * factors)
        names += [full for full, parameter in parameters.items() if parameter is bias]
    first = float(std[(std - spec.target).abs().argmax()])
    output = again()
    after = _by_channel(module, output)[1]
    notes = [] if moved else ["it has no bias that may change, so means stay"]
    if not bool(live.all()):
        notes.append(f"{int((~live).sum())} channels are constant on the batch and stay")
    last = float(after[(after - spec.target).abs().argmax()])
    return Calibrated(name, tuple(names), first, last, float(factors.mean()), 1, "; ".join(notes)), output


def _finite_std(name: str, output: Tensor) -> float:
    std = float(output.detach().float().std(correction=0))
    if not math.isfinite(std):
        raise SchemeError(f"the output of {name or 'the model'} is not finite on the batch, so it has no scale")
    return std


def _rounded(factor: float) -> float:
    """To 12 bits."""
    mantissa, exponent = math.frexp(factor)
    return math.ldexp(round(mantissa * 4096) / 4096, exponent)


def _multiply(module: nn.Module, factor: float) -> bool:
    """Multiplies a layer's weight, through its parametrisation where it has one; False where that cannot be undone so."""
    if parametrize.is_parametrized(module, "weight"):
        try:
            module.weight = module.weight * factor  # pyright: ignore[reportOperatorIssue]
        except (NotImplementedError, RuntimeError, AttributeError):
            return False
    else:
        own = module._parameters
        weight = next(own[name] for name in ("weight", "weight_g", "weight_orig") if own.get(name) is not None)
        weight.mul_(factor)  # pyright: ignore[reportOptionalMemberAccess]
    return True


def _multiply_channels(module: nn.Module, factors: Tensor) -> None:
    """Multiplies the weights of each output channel."""
    weight: Tensor = module.weight  # pyright: ignore[reportAssignmentType]
    if getattr(module, "transposed", False):  # [in, out/groups, ...]
        parts = weight.view(module.groups, -1, *weight.shape[1:])  # pyright: ignore
        parts.mul_(factors.view(parts.shape[0], 1, -1, *(1,) * (weight.ndim - 2)))
    else:
        weight.mul_(factors.view(-1, *(1,) * (weight.ndim - 1)))


def _by_channel(module: nn.Module, output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std of each output channel."""
    dim = output.ndim - 1 - len(module.kernel_size) if isinstance(module, nn.modules.conv._ConvNd) else output.ndim - 1
    flat = output.detach().movedim(dim, 0).flatten(1)
    std, mean = torch.std_mean(flat.double() if flat.device.type != "mps" else flat, dim=1, correction=0)
    return mean.to(output.dtype), std.to(output.dtype)


@contextmanager
def _quiet(model: nn.Module, batch: Tensor) -> Iterator[None]:
    """Dropout off, buffers and modes put back, no gradient, and global random state as it was."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    rates = [(module, module.dropout) for module in model.modules() if isinstance(getattr(module, "dropout", None), float)]
    devices = [batch.device] if batch.device.type == "cuda" else []
    try:
        with kept_modes(model), torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.default_generator.manual_seed(rng.key(0, "calibrate"))
            model.train()
            for module in model.modules():
                if type(module).__name__.startswith(_DROPPING) or isinstance(module, nn.modules.dropout._DropoutNd):
                    module.eval()
            for module, _ in rates:
                module.dropout = 0.0  # of attention and recurrent layers  # pyright: ignore[reportArgumentType]
            yield
    finally:
        for module, rate in rates:
            module.dropout = rate
        with torch.no_grad():
            for buffer, values in buffers:
                buffer.copy_(values)
