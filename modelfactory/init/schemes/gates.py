"""Schemes for the biases of gates: how long a recurrent net remembers before it has learnt anything.

torch's LSTM has two biases for each gate, which it adds, in the order input, forget, cell, output. `second` says that a tensor
is the second of the two, bias_hh: it is 0, so that the sum is what the scheme promises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from modelfactory.config.errors import SchemeError
from modelfactory.init.fans import Fans
from modelfactory.init.schemes.variance import _no_grad


def forget_bias_(tensor: Tensor, val: float = 1.0, second: bool = False) -> Tensor:
    """An LSTM that remembers at first: its forget gates are open.

    Formula: b_ih + b_hh = val for forget gates, 0 for the others: val in the forget block of b_ih, 0 in all of b_hh.

    Source: Gers, Schmidhuber & Cummins 2000; Jozefowicz, Zaremba & Sutskever 2015.

    Use: every LSTM. `init=lstm` has it with Xavier weights and one orthogonal block a gate.

    Args:
        tensor: [4 hidden], in torch's order of gates.
        val: what the sum of both biases is for forget gates.
        second: whether this is the second bias, which is 0.

    Raises:
        SchemeError: its length is not a multiple of 4.

    Example:
        >>> forget_bias_(torch.empty(8)), forget_bias_(torch.empty(8), second=True).sum()
        (tensor([0., 0., 1., 1., 0., 0., 0., 0.]), tensor(0.))
    """
    forget_bias_moments(tensor.shape, None, val, second)
    with _no_grad(tensor):
        tensor.zero_()
        if not second:
            tensor.view(4, -1)[1].fill_(val)
    return tensor


def forget_bias_moments(
    shape: Sequence[int], fans: Fans | None, val: float = 1.0, second: bool = False
) -> tuple[float, float]:
    _check_gates("forget_bias", shape)
    return (0.0, 0.0) if second else (val / 4, abs(val) * math.sqrt(3) / 4)


def chrono_(
    tensor: Tensor, max_steps: int, second: bool = False, *, generator: torch.Generator | None = None
) -> Tensor:
    """An LSTM whose units remember for from 1 to as many steps as a sequence has.

    Formula: b_f = log u, u ~ U(1, T - 1); b_i = -b_f; 0 for the others. A gate of bias log u forgets in about u steps, since
    1/(1 - sigmoid(log u)) = 1 + u.

    Source: Tallec & Ollivier 2018.

    Use: sequences whose longest dependency is known to be about T steps.

    Args:
        tensor: [4 hidden], in torch's order of gates.
        max_steps: T, at least 3.
        second: whether this is the second bias, which is 0.
        generator: where the draws come from.

    Raises:
        SchemeError: its length is not a multiple of 4, or T is below 3.

    Example:
        >>> b = chrono_(torch.empty(8), max_steps=100)
        >>> torch.equal(b[:2], -b[2:4]), bool((b[2:4] >= 0).all()), b[4:].sum().item()
        (True, True, 0.0)
    """
    chrono_moments(tensor.shape, None, max_steps, second)
    with _no_grad(tensor):
        tensor.zero_()
        if not second:
            gates = tensor.view(4, -1)
            gates[1].uniform_(1, max_steps - 1, generator=generator).log_()
            gates[0].copy_(gates[1]).neg_()
    return tensor


def chrono_moments(
    shape: Sequence[int], fans: Fans | None, max_steps: int, second: bool = False
) -> tuple[float, float]:
    """Mean 0 by symmetry; the variance is E (log u)^2/2 = [u ((log u)^2 - 2 log u + 2)] from 1 to T - 1, over 2 (T - 2)."""
    _check_gates("chrono", shape)
    if not max_steps >= 3:
        raise SchemeError(f"chrono needs max_steps >= 3, not {max_steps!r}")
    top = math.log(max_steps - 1)
    second_moment = ((max_steps - 1) * (top * top - 2 * top + 2) - 2) / (max_steps - 2)
    return (0.0, 0.0) if second else (0.0, math.sqrt(second_moment / 2))


def _check_gates(name: str, shape: Sequence[int]) -> None:
    if len(shape) != 1 or shape[0] % 4:
        raise SchemeError(f"{name} is for a bias of 4 gates, of shape [4 hidden], not {tuple(shape)}")
