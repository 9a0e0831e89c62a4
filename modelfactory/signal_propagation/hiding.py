"""Through masked_fill and where: scores some of which are hidden, or a mixture of what stays and of a number."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from modelfactory.numerics.gaussian_moments import NotPredicted
from modelfactory.signal_propagation.graph import NodeRef, SignalNode, TensorRef
from modelfactory.signal_propagation.masking import HIDDEN, Shown, shown
from modelfactory.signal_propagation.rules.base import Context, arguments
from modelfactory.signal_propagation.state import Gradient, State


def hide_forward(context: Context, node: SignalNode, states: list[State]) -> State:
    """masked_fill and where: scores some of which are hidden, or a mixture of what stays and of a number."""
    state, share, number, left = _hidden(context, node, states)
    if number <= HIDDEN:
        return replace(state, shown=left or state.shown)
    rest, square = 1 - share, number * number
    pairs = torch.tensor([share * share, share * share, share, share * share], dtype=torch.float64) * state.pairs
    mean = share * state.mean + rest * number
    return State(state.power * share + rest * square, mean, pairs + rest * square, state.unit, None, state.chance, state.own)


def hide_backward(context: Context, node: SignalNode, states: list[State], _out: State, gradient: Gradient) -> list[Gradient | None]:
    _, share, number, _ = _hidden(context, node, states)
    kept = gradient if number <= HIDDEN else replace(gradient.scaled(share), where=None, far=gradient.far * share)
    return [kept] + [None] * (len(states) - 1)


def _hidden(context: Context, node: SignalNode, states: list[State]) -> tuple[State, float, float, Shown | None]:
    """The signal of which a mask takes a part, the share that stays, the number in place of the rest, and what is left of scores."""
    if node.op == "masked_fill":
        given = arguments(node, ("input", "mask", "value"))
        signal, condition, number, kept = given["input"], given["mask"], given["value"], False
    else:
        given = arguments(node, ("condition", "input", "other"))
        kept = isinstance(given["input"], NodeRef)
        condition, signal, number = given["condition"], *((given["input"], given["other"]) if kept else (given["other"], given["input"]))
    number = number.tensor if isinstance(number, TensorRef) else number
    if isinstance(number, Tensor):
        if number.is_meta or number.numel() != 1 and not bool((number == number.flatten()[0]).all()):
            raise NotPredicted(f"{node.called} takes the place of it by another tensor")
        number = number.flatten()[0].item()
    if not isinstance(signal, NodeRef) or not isinstance(number, (int, float)):
        raise NotPredicted(f"{node.called} mixes two signals")
    if not isinstance(condition, TensorRef) or condition.tensor.is_meta:
        if number <= HIDDEN:
            return states[0], 1.0, number, None
        raise NotPredicted(f"the mask of {node.called} is not known")
    stays = condition.tensor.bool() if kept else ~condition.tensor.bool()
    return states[0], stays.double().mean().item(), number, shown(stays) if stays.ndim > 1 else None
