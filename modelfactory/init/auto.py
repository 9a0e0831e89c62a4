"""The scheme `auto`: for each layer the scheme and gain that suit what acts on it and where it stands, with the reason in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.errors import SchemeError
from modelfactory.init.choose import Choice, in_blocks
from modelfactory.init.input_activation import InputActivation
from modelfactory.init.scheme_call import Auto, Default, FromScheme
from modelfactory.init.schemes.table import SCHEMES
from modelfactory.numerics.activation import Activation, moments
from modelfactory.parameters.residual import NORMS

_ABOVE_A_GUESS = 0.07
"""The share of ln C by which the first loss is above ln C on average; what chance adds at finite widths stays within a tenth."""
_ALIKE = 0.25
_ALIKE_TOKENS = 0.75  # in a stream that begins small: tokens are then mostly what attention gave to all of them
_BEFORE_A_NORM = 1 / math.sqrt(3)
_STREAM = 0.02  # rms of what begins a pre-norm stream, the std that transformers' positions and embeddings have
_WORTH_CENTRING = 0.05  # share of the power of what a head takes, from which on it is worth leaving the mean out
_ONE_OUTPUT = 0.5  # rms of what a head gives that is no classifier's
_LEVELS = (1.0, 2.0, 4.0, 8.0, 16.0)
_STEEP = 1.01


def resolve_auto(choices: Sequence[Choice], acting: Mapping[int, InputActivation]) -> list[Choice]:
    """The choices with a scheme of the catalogue in place of every `auto`, and why in `Choice.reason`.

    - a layer after an activation: `lecun_normal` with its forward gain `1/sqrt(E f^2)`; after nothing or a norm with gain 1.
    - an activation whose variance map is unstable at 1 (gelu, silu, mish, hardswish), in a model without norms: weights and
      biases at the edge of chaos of the least variance at which the map is stable (Hayou et al. 2019), and a first layer
      that begins there.
    - the last layer of a residual branch that no norm ends: gain times `1/sqrt(branches)`, so that the sum grows by e at most;
      its bias likewise.
    - the head: `s/sqrt(E f^2)` at the variance that the layers before leave, that of the edge of chaos or of the residual sums, less
      what a mean over places takes away; `s` is the rms of its outputs at which the first loss is 1.07 ln C, as softmax gives
      `ln C + s^2/2 (1 - 1/C)`. Behind an activation with a mean each output's weights add up to 0.
    - a layer whose outputs norms alone take: std 1/sqrt(3 fan_in), torch's default, since its scale only tells how fast it learns.
    - the first layer of a pre-norm residual stream (layer norm before each branch and the head): gain 0.02, since the stream's
      scale is free, and branches and positions are to count beside it.
    - a layer behind an LSTM or a GRU: gain `1/rms` of the state that its gates settle at.
    - recurrent weights: orthogonal. Tied embeddings: std `1/sqrt(width)`. Biases: 0, of an LSTM's forget gate 1.

    Args:
        acting: what acts on the input of each parameter's layer, by its `id`.
    """
    if not needs_acting(choices):
        return list(choices)
    signal = _signal_of(choices, acting)
    return [_resolved_whole(choice, acting.get(id(choice.info.parameter)), signal) for choice in choices]


@dataclass(frozen=True)
class _Signal:
    """What variance the layers of a model are to see.

    Attributes:
        level: that of pre-activations, 1 or where the variance map of all activations is stable.
        at_head: that of what the head, or the activation before it, takes.
        alike: correlation of two places of an image or two tokens: what is left of a mean over k is 1/k + (1 - 1/k) alike.
    """

    level: float = 1.0
    at_head: float = 1.0
    alike: float = _ALIKE


def _signal_of(choices: Sequence[Choice], acting: Mapping[int, InputActivation]) -> _Signal:
    """Norms bring a variance back to 1; without them it is the level of the activations, or what the residual sums have grown to."""
    if any(isinstance(choice.info.module, NORMS) or "norm" in choice.info.roles for choice in choices):
        small = any("stem" in choice.info.roles and _in_stream(choice, acting) for choice in choices)
        return _Signal(alike=_ALIKE_TOKENS if small else _ALIKE)
    level = _common_level([found.activation for found in acting.values() if found.activation is not None and not found.gated])
    ends = [choice for choice in choices if _ends_a_branch(choice) and choice.info.parameter.ndim > 1]
    return _Signal(level, _grown(level, [acting.get(id(choice.info.parameter)) for choice in ends]))


def _in_stream(choice: Choice, acting: Mapping[int, InputActivation]) -> bool:
    found = acting.get(id(choice.info.parameter))
    return found is not None and found.in_stream


def _ends_a_branch(choice: Choice) -> bool:
    """Whether a layer is the last of a residual branch that no norm ends."""
    return choice.info.branch is not None and choice.info.branch.norm is None and "residual_out" in choice.info.roles


def _grown(level: float, ends: Sequence[InputActivation | None]) -> float:
    """The variance of a stream after the sums of residual branches, which begins at `level`: each adds what its last layer gives."""
    q = level
    for acting in ends:
        share = q / level
        if acting is not None and acting.activation is not None and not acting.gated:
            with suppress(SchemeError, ZeroDivisionError):
                share = moments(acting.activation, q).second / moments(acting.activation, level).second
        q += level * share / len(ends)
    return q


def _resolved_whole(choice: Choice, acting: InputActivation | None, signal: _Signal) -> Choice:
    """A choice with what `auto` stands for, in its blocks where they have one each."""
    if not any(isinstance(part.call, Auto) for part in choice.parts):
        return _resolved(choice, acting, signal) if isinstance(choice.call, Auto) else choice
    parts = [_resolved(part, acting, signal, block=True) if isinstance(part.call, Auto) else part for part in choice.parts]
    return in_blocks(choice.info, parts)


def _resolved(choice: Choice, acting: InputActivation | None, signal: _Signal, block: bool = False) -> Choice:
    info, level = choice.info, signal.level
    if block and "bias" in info.roles and isinstance(info.module, (nn.LSTM, nn.LSTMCell)):
        opens = "forget_gate" in info.roles and info.attr.startswith("bias_ih")
        why = "the forget gate begins open: 1 in the sum of its two biases" if opens else "biases begin at 0"
        return _with(choice, "ones" if opens else "zeros", None, why)
    if "bias" in info.roles:
        return _bias(choice, acting, level)
    if "tied" in info.roles and "embedding" in info.roles:
        return _with(choice, "tied_embedding", None, "tied to another layer: std 1/sqrt(width)")
    if "embedding" in info.roles or info.parameter.ndim < 2:
        return replace(choice, call=Default(), reason="as its author wrote it")
    if "recurrent" in info.roles:
        return _with(choice, "orthogonal", 1.0, "recurrent: orthogonal, so that no direction grows or shrinks with the steps")
    if acting is None or not acting.known:
        why = "what acts on its input was not looked for" if acting is None else acting.source
        return replace(choice, call=Default(), reason=f"as its author wrote it: {why}")
    if "head" in info.roles:
        return _head(choice, acting, signal)
    if acting.normed:
        why = "a norm follows, so that its scale only tells how fast it learns: that of torch's default, 1/sqrt(3)"
        return _with(choice, "lecun_normal", _BEFORE_A_NORM, why)
    if acting.in_stream and "stem" in info.roles:
        why = f"it begins a stream that is normed before each branch, whose scale is free: {_STREAM}, as of positions"
        return _with(choice, "lecun_normal", _STREAM, why)
    gain, reason = _gain(acting, level)
    if _ends_a_branch(choice) and info.branch is not None and len(info.branch.all) > 1:
        count = len(info.branch.all)
        gain, reason = gain / math.sqrt(count), f"{reason}; times 1/sqrt({count}) as the end of one of {count} residual branches"
    return _with(choice, "lecun_normal", gain, reason)


def _head(choice: Choice, acting: InputActivation, signal: _Signal) -> Choice:
    """The head: its outputs have the rms at which the first loss is near that of a guess, whatever comes in.

    What all inputs have in common by the mean of the activation is left out: it would be a guess by chance, and of a mean over places
    it is the larger part, so that what tells inputs apart would have to be as much smaller.
    """
    scale = _output_scale(choice)
    if acting.activation is None and acting.source != "the input":
        gain, reason = _gain(acting, 1.0)
        gain /= math.sqrt(signal.at_head)
    elif acting.activation is None or acting.gated:
        gain, reason = _gain(acting, 1.0)
    else:
        gain, reason = _forward_gain(acting, signal.at_head)
    share = _mean_share(acting, signal.at_head)
    shape = choice.info.parameter.shape
    centred = share > _WORTH_CENTRING and len(shape) == 2 and shape[1] > 1
    left = _left_by_mean(acting, share, centred, signal.alike)
    at = "" if signal.at_head == 1 else f" of variance {signal.at_head:.3g}"
    pooled = "" if acting.averaged == 1 else f" by a mean over {acting.averaged:g} places"
    which = " without what its inputs have in common" if centred else ""
    lost = "" if left == 1 else f"; divided by {math.sqrt(left):.2g}, what is left of it{pooled}{which}"
    why = f"{reason}{at}{lost}; times {scale:.2g} as the head, so that the first loss is near that of a guess"
    return _with(choice, "centred_normal" if centred else "lecun_normal", gain * scale / math.sqrt(left), why)


def _mean_share(acting: InputActivation, q: float) -> float:
    """The share of the power of what an activation gives at the variance `q` that its mean has."""
    if acting.activation is None or acting.gated:
        return 0.0
    with suppress(SchemeError, ZeroDivisionError):
        found = moments(acting.activation, q)
        return found.mean**2 / found.second
    return 0.0


def _left_by_mean(acting: InputActivation, share: float, centred: bool, alike: float) -> float:
    """What a mean over k places leaves of the power: that of the mean, unless it is left out, and of the rest `1/k + (1 - 1/k) alike`."""
    apart = 1 / acting.averaged
    return (0.0 if centred else share) + (1 - share) * (apart + (1 - apart) * alike)


def _output_scale(choice: Choice) -> float:
    """The rms of logits of C classes at which the mean of the first loss, `ln C + s^2/2 (1 - 1/C)`, is 1.07 ln C."""
    shape, traced = choice.info.parameter.shape, choice.info.facts.fans[:1]
    classes = math.prod(shape[axis] for axis in traced[0].coming_out) if traced else shape[0]
    return math.sqrt(2 * _ABOVE_A_GUESS * math.log(classes) / (1 - 1 / classes)) if classes > 1 else _ONE_OUTPUT


def _gain(acting: InputActivation, level: float) -> tuple[float, str]:
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
    return _forward_gain(acting, 1.0)


def _forward_gain(acting: InputActivation, q: float) -> tuple[float, str]:
    """`1/sqrt(E f(sqrt(q) z)^2)`: what comes out has the variance 1."""
    try:
        return 1 / math.sqrt(moments(acting.activation, q).second), f"{acting.source} acts on its input: 1/sqrt(E f^2)"  # pyright: ignore[reportArgumentType]
    except (SchemeError, ZeroDivisionError) as error:
        return 1.0, f"{acting.source} acts on its input and has no gain ({error})"


def _gated_gain(acting: InputActivation, level: float) -> tuple[float, str]:
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


def _bias(choice: Choice, acting: InputActivation | None, level: float) -> Choice:
    if isinstance(choice.info.module, (nn.LSTM, nn.LSTMCell)):
        return _with(choice, "forget_bias", None, "the forget gate begins open: 1 in the sum of its two biases, all else 0", val=1.0)
    found = None
    if level != 1 and acting is not None and acting.activation is not None and "head" not in choice.info.roles:
        found = _critical(acting.activation, level)
    if found is None or found[1] <= 0:
        return _with(choice, "zeros", None, "biases begin at 0")
    count = len(choice.info.branch.all) if choice.info.branch is not None and _ends_a_branch(choice) else 1
    call = FromScheme("normal", SCHEMES["normal"], {"mean": 0.0, "std": math.sqrt(found[1] / count)})
    return replace(choice, call=call, reason=f"the bias that belongs to the edge of chaos of {acting.source if acting else ''}")


def _with(choice: Choice, scheme: str, gain: float | None, reason: str, **given: float) -> Choice:
    row = SCHEMES[scheme]
    args: dict[str, Any] = {**dict.fromkeys(row.structural, "auto"), **given}
    return replace(choice, call=FromScheme(scheme, row, args, gain if row.uses_gain else None), reason=reason)


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
    return any(isinstance(part.call, Auto) for choice in choices for part in choice.parts or (choice,))
