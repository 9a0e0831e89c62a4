"""How large the first steps are: the update of each matrix of weights relative to the matrix, looked at without waiting for the device."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

LOOKED_AT = (5, 10, 20)
"""The optimizer steps whose updates are looked at: after the first ones, which are larger with Adam."""
LOWEST, HIGHEST = -4.0, -1.5
"""Outside of these the steps are told of: language models at std 0.02 train well with 10^-2, which Adam's first steps at 1e-3 are."""
_MOST_MATRICES = 64
_MOST_NUMBERS = 64_000_000


class UpdateWatch:
    """Takes `log10(rms of the update / rms of the weights)` of matrices at a few of the first steps.

    Karpathy 2022: about -3; above -2 steps are large, above -1.5 they write the weights anew in thirty steps; below -4 training is slow.

    Args:
        model: its trainable matrices are looked at, at most 64.
        optimizer: whose learning rate, while it warms up, explains small updates.
        done: optimizer steps made before, as of a run that goes on.

    Example:
        >>> model = nn.Linear(4, 4, bias=False)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> watch = UpdateWatch(model, optimizer)
        >>> step = watch.around(optimizer.step)
        >>> for _ in range(20):
        ...     model.weight.grad = 0.1 * model.weight.detach()
        ...     _ = step()
        >>> watch.ratios()["weight"]
        -1.0
        >>> watch.warnings()
        ['the first updates are large: 10^-1.0 of the weights at weight, the median of 1 matrices; usual is 10^-4 to 10^-2: ...']
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, done: int = 0):
        self._matrices = _choose(model)
        self._optimizer = optimizer
        self._count = done
        self._found: list[tuple[Tensor, Tensor]] = []
        self._warming, self._told = False, done >= LOOKED_AT[0]  # what was found before was told then

    def state_dict(self) -> dict[str, Any]:
        """Plain data: the steps made, and what was found of them."""
        found = [part.tolist() for part in self._found[-1]] if self._found else None
        return {"count": self._count, "found": found, "warming": self._warming}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        self._count, self._warming = state["count"], state["warming"]
        if state["found"] is not None:
            weights, moved = (torch.tensor(part) for part in state["found"])
            self._found = [(weights, moved)]

    def around(self, step: Callable[[], Any]) -> Callable[[], Any]:
        """The same step, watched for the first few times."""
        if self._told or not self._matrices:
            return step

        def watched() -> Any:
            self._count += 1
            if self._count not in LOOKED_AT:
                return step()
            with torch.no_grad():
                before = [parameter.detach().clone() for _, parameter in self._matrices]
                result = step()
                moved = [parameter.detach() - kept for (_, parameter), kept in zip(self._matrices, before, strict=True)]
                sizes = _norms(before), _norms(moved)
            self._found.append(sizes)
            groups = self._optimizer.param_groups
            self._warming = any(group["lr"] < 0.9 * group.get("initial_lr", group["lr"]) for group in groups)
            return result

        return watched

    @property
    def is_over(self) -> bool:
        """Whether no further step is looked at."""
        return self._count >= LOOKED_AT[-1] or not self._matrices

    def ratios(self) -> dict[str, float]:
        """The latest that was taken, by the parameter's name; empty before the first."""
        if not self._found:
            return {}
        weights, updates = (part.tolist() for part in self._found[-1])
        named = zip(self._matrices, weights, updates, strict=True)
        return {name: round(math.log10(update / weight), 6) for (name, _), weight, update in named if weight > 0 and update > 0}

    def tell(self) -> list[str]:
        """Logs the warnings, the first time that there is something to judge, and returns them."""
        if self._told or not self._found:
            return []
        self._told = True
        found = self.warnings()
        for warning in found:
            log.warning(warning)
        return found

    def warnings(self) -> list[str]:
        """What to say where most matrices are outside of what is usual."""
        ranked = sorted((ratio, name) for name, ratio in self.ratios().items())
        if not ranked:
            return []
        ratio, name = ranked[len(ranked) // 2]
        if LOWEST <= ratio < HIGHEST or (ratio < LOWEST and self._warming):
            return []
        size, way = ("large", "lower optimizer.lr") if ratio >= HIGHEST else ("small", "raise optimizer.lr, if the signal gets through")
        return [
            f"the first updates are {size}: 10^{ratio:.1f} of the weights at {name}, the median of {len(ranked)} matrices; "
            f"usual is 10^-4 to 10^-2: {way}"
        ]


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    norms = (torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors)
    return torch.stack([norm.float() for norm in norms])


def _choose(model: nn.Module) -> Sequence[tuple[str, nn.Parameter]]:
    """Trainable matrices, evenly over the depth."""
    matrices = [(name, p) for name, p in model.named_parameters() if p.requires_grad and p.ndim >= 2 and p.is_floating_point()]
    step = -(-len(matrices) // _MOST_MATRICES) if matrices else 1
    chosen = matrices[::step]
    while len(chosen) > 1 and sum(p.numel() for _, p in chosen) > _MOST_NUMBERS:
        chosen = chosen[::2]
    return chosen
