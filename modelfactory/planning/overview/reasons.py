"""Why a parameter has the fans and the gain that it has, in a sentence with the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from modelfactory.init.assign import Assignment, needs_shape
from modelfactory.init.fans import Fans, torch_fans
from modelfactory.init.input_activation import InputActivation
from modelfactory.init.scheme_call import FromScheme, SchemeCall, given_arguments
from modelfactory.planning.overview.units import figure


def call_text(call: SchemeCall) -> str:
    """A scheme with its arguments, as the config gives them.

    Example:
        >>> from modelfactory.init.schemes.table import SCHEMES
        >>> call_text(FromScheme("normal", SCHEMES["normal"], {"std": 0.02}))
        'normal(std=0.02)'
    """
    given = {**given_arguments(call), **({"gain": call.gain} if isinstance(call, FromScheme) and call.gain is not None else {})}
    shown = ", ".join(f"{name}={value:.5g}" if isinstance(value, float) else f"{name}={value}" for name, value in given.items())
    return f"{call.name}({shown})" if shown else call.name


def fans_reason(item: Assignment, mode: str) -> str:
    """How the fans of an assignment follow from its operator.

    Args:
        mode: "effective" or "torch", as the init group says.

    Example:
        >>> from modelfactory.init.choose import Choice
        >>> from modelfactory.init.fans import operator_fans
        >>> from modelfactory.init.scheme_call import Default
        >>> from modelfactory.parameters.roles import describe
        >>> info = describe(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8)))[0]
        >>> item = Assignment(Choice(info, "w", "init.rules.w", Default()), fans=operator_fans(info.module, "weight")[0].fans)
        >>> print(fans_reason(item, "effective"))
        fan_in 9 = 1 channel in (8 in 8 groups) x 9 taps (3 x 3); fan_out 9 = 1 channel out (8 in 8 groups) x 9 taps
    """
    fans, info = item.fans, item.info
    if fans is None:
        return "none: it has fewer than two dimensions"
    shape = tuple(info.parameter.shape)
    if mode == "torch":
        read = torch_fans(shape)
        return f"fan_in {figure(read.fan_in)} and fan_out {figure(read.fan_out)} as torch.nn.init reads them off the shape {list(shape)}"
    module = info.module
    if isinstance(module, nn.modules.conv._ConvNd) and info.attr == "weight":
        return _convolution(module, fans, item.acting.shape if item.acting is not None and needs_shape(info) else None)
    blocks = [block.name for block in item.blocks if block.name]
    each = f" for each of the {len(blocks)} blocks packed into it ({', '.join(blocks)})" if len(blocks) > 1 else ""
    return f"fan_in {figure(fans.fan_in)} = {_in_words(item)}{each}; fan_out {figure(fans.fan_out)}{_out_words(item)}"


def _in_words(item: Assignment) -> str:
    module, shape = item.info.module, tuple(item.info.parameter.shape)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "the one row that an index picks"
    if isinstance(module, nn.Linear):
        return "in_features"
    if isinstance(module, nn.Bilinear):
        return f"in1_features x in2_features = {shape[1]} x {shape[2]}"
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return "the input's width" if "_ih" in item.info.attr else "the state's width"
    if isinstance(module, nn.MultiheadAttention):
        return "the width that is projected"
    return "all dimensions of the shape but the first" if len(shape) > 1 else "1"


def _out_words(item: Assignment) -> str:
    module = item.info.module
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return " = embedding_dim"
    if isinstance(module, nn.Linear):
        return " = out_features"
    if isinstance(module, nn.Bilinear):
        return ", a mean over both inputs"
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return " = hidden_size"
    return " = the rows of one block" if len(item.blocks) > 1 else " = the first dimension, times the kernel"


def _convolution(module: nn.modules.conv._ConvNd, fans: Fans, input_shape: Sequence[int] | None) -> str:
    groups = module.groups
    sides = []
    for name, value, channels, way in (
        ("fan_in", fans.fan_in, module.in_channels, "in"),
        ("fan_out", fans.fan_out, module.out_channels, "out"),
    ):
        own = channels // groups
        kept = f" ({channels} in {groups} groups)" if groups > 1 else ""
        taps = value / own
        sides.append((name, value, f"{own} channel{'s' * (own > 1)} {way}{kept}", taps))
    kernel = math.prod(module.kernel_size)
    (_, fan_in, into, taps_in), (_, fan_out, out, taps_out) = sides
    size = " x ".join(map(str, module.kernel_size))
    text = f"fan_in {figure(fan_in)} = {into} x {_taps(taps_in, kernel)}{f' ({size})' if taps_in == kernel else ''}"
    text += f"; fan_out {figure(fan_out)} = {out} x {_taps(taps_out, kernel)}"
    why = [*_lost(module, taps_in, taps_out, kernel, input_shape)]
    return text + (f": {', and '.join(why)}" if why else "")


def _taps(taps: float, kernel: int) -> str:
    return f"{figure(taps)} tap{'s' * (taps != 1)}" + ("" if taps == kernel else f" of {kernel}")


def _lost(module: nn.modules.conv._ConvNd, taps_in: float, taps_out: float, kernel: int, input_shape: Sequence[int] | None):
    """Why fewer taps than the kernel has count."""
    if module.transposed and math.prod(module.stride) > 1:
        yield f"an output is reached by one tap in {math.prod(module.stride)}, the stride {_of(module.stride)}"
    elif math.prod(module.stride) > 1:
        yield f"an input is seen by one window in {math.prod(module.stride)}, the stride {_of(module.stride)}"
    if input_shape is not None and (taps_in, taps_out) != (kernel, kernel) and not module.transposed:
        size = " x ".join(map(str, input_shape[2:]))
        padded = module.padding_mode == "zeros" and taps_in < kernel
        yield f"on an input of {size} " + (
            "some taps lie on zero padding, and inputs at the border are in fewer windows"
            if padded
            else "inputs at the border are in fewer windows"
        )


def _of(values: Sequence[int]) -> str:
    return " x ".join(map(str, values))


def gain_reason(item: Assignment) -> str:
    """Where the gain of an assignment comes from."""
    call, acting = item.call, item.acting
    if item.gain is None or not isinstance(call, FromScheme):
        return "none: the scheme has no gain"
    value = f"{item.gain:.5g}"
    if item.choice.reason:
        return f"{value} (auto): {item.choice.reason}"
    if call.gain == "auto":
        return f"{value} (auto): {_acts(acting)}" if acting is not None else f"{value} (auto)"
    if call.gain is not None:
        return f"{value}, as the config gives it"
    nonlinearity = call.args.get("nonlinearity")
    note = ""
    if nonlinearity is not None and acting is not None and acting.known:
        note = f"; {_on_input(acting)}"
    if "nonlinearity" in call.args or call.name.startswith("kaiming"):
        return f"{value} = torch.nn.init.calculate_gain({nonlinearity or 'leaky_relu'!r}), as nonlinearity says{note}"
    return f"{value}, the scheme's own"


def _acts(acting: InputActivation) -> str:
    if acting.activation is None:
        return _on_input(acting)
    return f"1/sqrt(E f(z)^2) for z ~ N(0, 1), f being {acting.source}, which acts on this layer's input"


def _on_input(acting: InputActivation) -> str:
    if acting.activation is None:
        return f"no activation acts on this layer's input: it comes from {acting.source}"
    return f"on this layer's input acts {acting.source}"
