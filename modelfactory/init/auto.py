"""The scheme `auto`: for each layer the scheme and gain that suit what acts on it and where it stands, with the reason in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.errors import SchemeError
from modelfactory.init.choose import Choice, in_blocks
from modelfactory.init.input_activation import Acting
from modelfactory.init.rules import SchemeCall
from modelfactory.init.schemes.table import SCHEMES
from modelfactory.numerics.activation import Activation, moments
from modelfactory.parameters.residual import NORMS

_HEAD_GAIN = 0.5
_LEVELS = (1.0, 2.0, 4.0, 8.0, 16.0)
_STEEP = 1.01


def resolve_auto(choices: Sequence[Choice], acting: Mapping[int, Acting]) -> list[Choice]:
    """The choices with a scheme of the catalogue in place of every `auto`, and why in `Choice.reason`.

    - a layer after an activation: `lecun_normal` with its forward gain `1/sqrt(E f^2)`; after nothing or a norm with gain 1.
    - an activation whose variance map is unstable at 1 (gelu, silu, mish, hardswish), in a model without norms: weights and
      biases at the edge of chaos of the least variance at which the map is stable (Hayou et al. 2019), and a first layer
      that begins there.
    - the last layer of a residual branch that no norm ends: gain times `1/sqrt(branches)`, so that the sum grows by e at most.
    - the head: half of its gain, so that the first loss is within a tenth of ln C and the gradient gets through.
    - a layer behind an LSTM or a GRU: gain `1/rms` of the state that its gates settle at.
    - recurrent weights: orthogonal. Tied embeddings: std `1/sqrt(width)`. Biases: 0, of an LSTM's forget gate 1.

    Args:
        acting: what acts on the input of each parameter's layer, by its `id`.
    """
    if not needs_acting(choices):
        return list(choices)
    normed = any(isinstance(choice.info.module, NORMS) or "norm" in choice.info.roles for choice in choices)
    plain = [found.activation for found in acting.values() if found.activation is not None and not found.gated]
    level = 1.0 if normed else _common_level(plain)
    return [_resolved_whole(choice, acting.get(id(choice.info.parameter)), level) for choice in choices]


def _resolved_whole(choice: Choice, acting: Acting | None, level: float) -> Choice:
    """A choice with what `auto` stands for, in its blocks where they have one each."""
    if not any(part.call.automatic for part in choice.parts):
        return _resolved(choice, acting, level) if choice.call.automatic else choice
    parts = [_resolved(part, acting, level, block=True) if part.call.automatic else part for part in choice.parts]
    return in_blocks(choice.info, parts)


def _resolved(choice: Choice, acting: Acting | None, level: float, block: bool = False) -> Choice:
    info = choice.info
    if block and "bias" in info.roles and isinstance(info.module, (nn.LSTM, nn.LSTMCell)):
        opens = "forget_gate" in info.roles and info.attr.startswith("bias_ih")
        why = "the forget gate begins open: 1 in the sum of its two biases" if opens else "biases begin at 0"
        return _with(choice, "ones" if opens else "zeros", None, why)
    if "bias" in info.roles:
        return _bias(choice, acting, level)
    if "tied" in info.roles and "embedding" in info.roles:
        return _with(choice, "tied_embedding", None, "tied to another layer: std 1/sqrt(width)")
    if "embedding" in info.roles or info.parameter.ndim < 2:
        return replace(choice, call=SchemeCall("default"), reason="as its author wrote it")
    if "recurrent" in info.roles:
        return _with(choice, "orthogonal", 1.0, "recurrent: orthogonal, so that no direction grows or shrinks with the steps")
    if acting is None or not acting.known:
        why = "what acts on its input was not looked for" if acting is None else acting.source
        return replace(choice, call=SchemeCall("default"), reason=f"as its author wrote it: {why}")
    gain, reason = _gain(acting, level)
    if "head" in info.roles:
        gain, reason = gain * _HEAD_GAIN, f"{reason}; times {_HEAD_GAIN} as the head, so that the first loss is near that of a guess"
    elif "residual_out" in info.roles and info.branch is not None and info.branch.norm is None and len(info.branch.all) > 1:
        count = len(info.branch.all)
        gain, reason = gain / math.sqrt(count), f"{reason}; times 1/sqrt({count}) as the end of one of {count} residual branches"
    return _with(choice, "lecun_normal", gain, reason)


def _gain(acting: Acting, level: float) -> tuple[float, str]:
    if acting.activation is None:
        if acting.source == "the input":
            return math.sqrt(level), "its input is the data" + ("" if level == 1 else f", which is to have the variance {level:g}")
        gated = _gated_rms(acting.source)
        if gated is not None:
            return 1 / gated, f"its input is a gated state, which settles at an rms of {gated:.2g}: it comes from {acting.source}"
        return 1.0, f"no activation acts on its input: it comes from {acting.source}"
    if acting.gated:
        return _gated_gain(acting, level)
    found = _critical(acting.activation, level) if level != 1 else None
    if found is not None:
        return math.sqrt(found[0]), (
            f"{acting.source} acts on its input, whose variance map is unstable at 1: "
            f"edge of chaos at the variance {level:g}, 1/sqrt(E f'^2)"
        )
    try:
        return 1 / math.sqrt(moments(acting.activation).second), f"{acting.source} acts on its input: 1/sqrt(E f^2)"
    except (SchemeError, ZeroDivisionError) as error:
        return 1.0, f"{acting.source} acts on its input and has no gain ({error})"


def _gated_gain(acting: Acting, level: float) -> tuple[float, str]:
    """Of an input f(z1) z2: E (f(z1) z2)^2 = E f^2 E z2^2, as the two are drawn apart."""
    try:
        second = moments(acting.activation, level).second  # pyright: ignore[reportArgumentType]
        return 1 / math.sqrt(second), f"{acting.source} act on its input, a gated unit: 1/sqrt(E f^2) as E z^2 of the other is kept"
    except (SchemeError, ZeroDivisionError) as error:
        return 1.0, f"{acting.source} act on its input and have no gain ({error})"


def _gated_rms(source: str) -> float | None:
    """The rms of what leaves an LSTM (whose forget gate begins open) or GRU whose gates see N(0, 1); None of other layers.

    With independent gates E c^2 = E s(z)^2 E tanh(z)^2 / (1 - E s(z + 1)^2) and E h^2 = E s(z)^2 E tanh(c)^2 for an LSTM, and
    E h^2 = E s(z)^2 E tanh(z)^2 / (1 - E s(z)^2) for a GRU, s being the sigmoid.
    """
    kind = source.rpartition("(")[2].rstrip(")")
    if kind not in ("LSTM", "GRU"):
        return None
    gate, opened = moments(torch.sigmoid).second, moments(_opened_gate).second
    came_in = gate * moments(torch.tanh).second
    if kind == "GRU":
        return math.sqrt(came_in / (1 - gate))
    return math.sqrt(gate * moments(torch.tanh, came_in / (1 - opened)).second)


def _opened_gate(z: Tensor) -> Tensor:
    return torch.sigmoid(z + 1)


def _bias(choice: Choice, acting: Acting | None, level: float) -> Choice:
    if isinstance(choice.info.module, (nn.LSTM, nn.LSTMCell)):
        made = _with(choice, "forget_bias", None, "the forget gate begins open: 1 in the sum of its two biases, all else 0")
        return replace(made, call=replace(made.call, args={**made.call.args, "val": 1.0}))
    found = None
    if level != 1 and acting is not None and acting.activation is not None and "head" not in choice.info.roles:
        found = _critical(acting.activation, level)
    if found is None or found[1] <= 0:
        return _with(choice, "zeros", None, "biases begin at 0")
    call = SchemeCall("normal", SCHEMES["normal"], None, {"mean": 0.0, "std": math.sqrt(found[1])})
    return replace(choice, call=call, reason=f"the bias that belongs to the edge of chaos of {acting.source if acting else ''}")


def _with(choice: Choice, scheme: str, gain: float | None, reason: str) -> Choice:
    row = SCHEMES[scheme]
    args: dict[str, Any] = dict.fromkeys(row.structural, "auto")
    return replace(choice, call=SchemeCall(scheme, row, None, args, gain if row.uses_gain else None), reason=reason)


def _common_level(activations: Sequence[Activation]) -> float:
    """The variance that suits all unstable activations of a model; 1 where there is none."""
    return max((stable_level(activation) for activation in activations), default=1.0)


def stable_level(activation: Activation) -> float:
    """The least of 1, 2, 4, 8, 16 at which the variance map at the edge of chaos is stable; 1 for an activation that is so anyway.

    Example:
        >>> [stable_level(name) for name in ("relu", "tanh", "mish", "gelu", "hardswish", "silu")]
        [1.0, 1.0, 2.0, 4.0, 8.0, 16.0]
    """
    try:
        if _growth(activation, 1.0) <= _STEEP:
            return 1.0
        return next((q for q in _LEVELS if _critical(activation, q) is not None and _slope(activation, q) <= 1), 1.0)
    except (SchemeError, ZeroDivisionError):
        return 1.0


def _critical(activation: Activation, q: float) -> tuple[float, float] | None:
    """Variances of weights (times fan_in) and biases at the edge of chaos; None where there is no such point."""
    found = moments(activation, q)
    if found.derivative_second <= 0:
        return None
    weight = 1 / found.derivative_second
    bias = q - weight * found.second
    return None if bias < 0 else (weight, bias)


def _slope(activation: Activation, q: float) -> float:
    """`d/dq` of the variance map at the edge of chaos at `q`."""
    found = moments(activation, q)
    return _growth(activation, q) * found.second / (q * found.derivative_second)


def _growth(activation: Activation, q: float) -> float:
    """`d log E f(sqrt(q) z)^2 / d log q`, by a central difference."""
    step = 1e-3
    up, down = moments(activation, q * math.exp(step)).second, moments(activation, q * math.exp(-step)).second
    return (math.log(up) - math.log(down)) / (2 * step)


def needs_acting(choices: Sequence[Choice]) -> bool:
    """Whether any choice is left to `auto`."""
    return any(part.call.automatic for choice in choices for part in choice.parts or (choice,))
