"""Muon for matrices, with AdamW for all else, as one optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: the steepest quintic at 0 that stays near 1
_SMALLEST_NORM = 1e-7
_ADJUSTMENTS = ("match_rms_adamw", "original", "spectral_unclamped")


class Muon(Optimizer):
    r"""Momentum whose update of a matrix is made orthogonal (Jordan et al. 2024) in groups that say `muon: true`; AdamW in all others.

    A matrix moves by `-lr * scale * NS(g + momentum * b)`, where b is the momentum's mean and NS five Newton-Schulz steps that bring every
    singular value near 1, as in `torch.optim.Muon`: in bfloat16, but in float32 on the CPU, where that is 16 times faster. A kernel of a
    2-d convolution is taken as the matrix [out, in * k * k].

    Args:
        params: parameters, or groups with an option `muon`: whether all of the group are matrices to move so.
        lr: of both; with `match_rms_adamw` an update has the size of one of AdamW, so that one rate does for both.
        weight_decay: decoupled, of both.
        momentum, nesterov, ns_steps: of Muon.
        adjust_lr: the scale of an update of a matrix [A, B]: `match_rms_adamw` is .2 sqrt(max(A, B)) (Liu et al. 2025), `original`
            sqrt(max(1, A/B)) (Jordan et al. 2024), `spectral_unclamped` sqrt(A/B) (Bernstein 2025).
        betas, eps: of AdamW.

    Raises:
        ValueError: a number out of range, or a parameter of another number of dimensions in a group with `muon: true`.

    Example:
        >>> layer = torch.nn.Linear(4, 4)
        >>> optimizer = Muon([{"params": [layer.weight], "muon": True}, {"params": [layer.bias]}], lr=0.1)
        >>> layer(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
        >>> sorted(optimizer.state[layer.weight]), sorted(optimizer.state[layer.bias])
        (['momentum_buffer'], ['exp_avg', 'exp_avg_sq', 'step'])
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr: str = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        muon: bool = False,
    ):
        for name, value in (("lr", lr), ("weight_decay", weight_decay), ("eps", eps)):
            if value < 0:
                raise ValueError(f"{name} is {value}; give a number >= 0")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum is {momentum}; give 0 <= momentum < 1")
        if not 0 < ns_steps < 100:
            raise ValueError(f"ns_steps is {ns_steps}; give 1 to 99, such as 5")
        if adjust_lr not in _ADJUSTMENTS:
            raise ValueError(f"adjust_lr is {adjust_lr!r}; give one of {', '.join(_ADJUSTMENTS)}")
        own = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "adjust_lr": adjust_lr, "betas": betas, "eps": eps}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **own, "muon": muon})
        for group in self.param_groups:
            for parameter in group["params"] if group["muon"] else ():
                if parameter.ndim not in (2, 4):
                    raise ValueError(
                        f"a group with muon: true has a parameter of shape {list(parameter.shape)}, which is no matrix; give its group "
                        "muon: false, or let its selector pick layers with matrices, such as module: [Linear, Conv2d]"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    (_step_muon if group["muon"] else _step_adamw)(parameter, parameter.grad, self.state[parameter], group)
        return loss


def _step_muon(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["momentum_buffer"] = torch.zeros_like(gradient)
    momentum, buffer = group["momentum"], state["momentum_buffer"]
    buffer.lerp_(gradient, 1 - momentum)
    direction = gradient.lerp(buffer, momentum) if group["nesterov"] else buffer
    matrix = direction.flatten(1)
    update = orthogonal_update(matrix, group["ns_steps"]).reshape(parameter.shape)
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.add_(update, alpha=-group["lr"] * _scale(matrix.shape, group["adjust_lr"]))


def _scale(shape: torch.Size, adjust_lr: str) -> float:
    rows, columns = shape
    if adjust_lr == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(rows / columns) if adjust_lr == "spectral_unclamped" else math.sqrt(max(1.0, rows / columns))


def precision_on(device: torch.device) -> torch.dtype:
    """The type of Newton-Schulz steps on a device: float32 on the CPU, whose products of bfloat16 are slow, bfloat16 elsewhere.

    Example:
        >>> precision_on(torch.device("cpu"))
        torch.float32
    """
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def orthogonal_update(matrix: Tensor, steps: int = 5) -> Tensor:
    """Bring every singular value of a matrix near 1 by Newton-Schulz steps (Jordan et al. 2024): .68 to 1.13, not exactly 1.

    Example:
        >>> values = torch.linalg.svdvals(orthogonal_update(torch.randn(8, 4)).float())
        >>> bool((values > 0.5).all() and (values < 1.5).all())
        True
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(precision_on(matrix.device))
    x = x.T if tall else x
    x = x / x.norm().clamp(min=_SMALLEST_NORM)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)


def _step_adamw(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
    state["step"] += 1
    (beta1, beta2), step = group["betas"], state["step"].item()
    state["exp_avg"].lerp_(gradient, 1 - beta1)
    state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    size = (state["exp_avg_sq"].sqrt() / math.sqrt(1 - beta2**step)).add_(group["eps"])
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.addcdiv_(state["exp_avg"], size, value=-group["lr"] / (1 - beta1**step))
