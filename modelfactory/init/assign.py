"""Works out, before anything is drawn, what fills each parameter: fans, gain, and what only the model's structure says."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.errors import Problems, SchemeError
from modelfactory.config.schema import join
from modelfactory.init.blocks import block_rows, blocks_of, matrix_shape
from modelfactory.init.choose import Choice
from modelfactory.init.default_moments import authored_moments
from modelfactory.init.fans import Block, Fans, torch_fans
from modelfactory.init.input_activation import InputActivation
from modelfactory.init.scheme_call import Default, FromFile, FromScheme, Keep, SchemeCall, given_arguments
from modelfactory.init.schemes.table import Scheme
from modelfactory.init.schemes.table import arguments as arguments_of
from modelfactory.init.schemes.variance import nonlinearity_gain
from modelfactory.init.structural_arguments import Shares, structural_value, unknown_shares
from modelfactory.numerics.activation import gain as gain_of
from modelfactory.parameters.info import ParamInfo

_NO_ARGS: Mapping[str, Any] = {}  # of an assignment that was not worked out


@dataclass(frozen=True)
class Assignment:
    """A parameter with everything that decides its values.

    Attributes:
        choice: the rule that won, and its scheme.
        blocks: the parts of a packed parameter that are filled one by one, each with its fans.
        fans: those of the first block; None where an operator has none (biases, norms).
        gain: the number that was used, None where the scheme has none.
        acting: what acts on the layer's input, when it was looked for.
        expected: mean and std of an entry by the formula; NaN without a closed form.
        args: the scheme's arguments, with what `auto` stood for, and the gain.
        parts: where blocks have different schemes, an assignment for each block.
    """

    choice: Choice
    blocks: tuple[Block, ...] = ()
    fans: Fans | None = None
    gain: float | None = None
    acting: InputActivation | None = None
    expected: tuple[float, float] = (math.nan, math.nan)
    args: Mapping[str, Any] = field(default_factory=lambda: _NO_ARGS)
    parts: tuple[Assignment, ...] = ()

    @property
    def info(self) -> ParamInfo:
        return self.choice.info

    @property
    def call(self) -> SchemeCall:
        return self.choice.call

    def calibrated(self, method: str, factor: float) -> Assignment:
        """Give the assignment after a calibration multiplied its values: the method, the factor in the gain, no expectation."""
        call = replace(self.call, name=f"{self.call.name}+{method}")
        gain = None if "bias" in self.info.roles else factor if self.gain is None else self.gain * factor
        return replace(self, choice=replace(self.choice, call=call), gain=gain, expected=(math.nan, math.nan))


def assign(
    choices: Sequence[Choice],
    acting: Mapping[int, InputActivation],
    fans: str,
    problems: Problems,
    shares: Shares = unknown_shares,
) -> list[Assignment]:
    """Works out fans, gain, structure and expected moments of each choice; what cannot be filled becomes a problem.

    Args:
        acting: by `id` of the parameter, what acts on its layer's input; needed for `gain: auto` and for the fans of
            padded convolutions.
        fans: "effective" or "torch".
        shares: gives the classes' shares in the data, for `prior_bias`; None while they are not known yet.
    """
    found: list[Assignment] = []
    alike: dict[Any, Assignment] = {}
    for choice in choices:
        kind = _kind(choice)
        known = None if kind is None else alike.get(kind)
        if known is None:
            own = _assign(choice, acting.get(id(choice.info.parameter)), fans, problems, shares)
            if kind is not None and own.args is not _NO_ARGS:
                alike[kind] = own
            found.append(own)
        else:
            own = acting.get(id(choice.info.parameter))
            found.append(Assignment(choice, known.blocks, known.fans, known.gain, own, known.expected, known.args))
    return found


def _kind(choice: Choice) -> Any:
    """What decides all of an assignment, where neither the model around it nor a module's settings do; else None."""
    call, info = choice.call, choice.info
    if not isinstance(call, FromScheme) or call.scheme.structural or call.gain == "auto" or info.packed or info.computed is not None:
        return None
    traced = info.facts.fans[:1]
    if info.parameter.ndim >= 2 and (type(info.module) is not nn.Linear or info.facts.axes is not None):
        return None
    seen = [(found.fan_in, found.fan_out, found.copied, found.coming_out) for found in traced]
    return id(call), type(info.module), info.attr, info.parameter.shape, *seen


def _assign(choice: Choice, acting: InputActivation | None, fans: str, problems: Problems, shares: Shares) -> Assignment:
    if choice.parts:
        return _assign_parts(choice, acting, fans, problems, shares)
    call, parameter = choice.call, choice.info.parameter
    if choice.follows:
        return Assignment(choice)
    if not isinstance(call, (Default, FromFile)) and any(stride == 0 and size > 1 for stride, size in _layout(parameter)):
        shape = f"{choice.info.name} of shape {tuple(parameter.shape)} is expanded"
        problems.add(choice.path, f"{shape}: several of its entries are one number in memory; make it of its own by .clone()")
        return Assignment(choice)
    if isinstance(call, Default):
        written = choice.info.written
        if written is not None and written.how == "nothing":
            problems.add(choice.path, _never_written(choice))
        if written is not None and not written.by_layer:
            return Assignment(choice, acting=acting, expected=written.moments)
        return Assignment(choice, acting=acting, expected=authored_moments(choice.info.module, choice.info.attr))
    if not isinstance(call, FromScheme):  # a function of one's own, or a block that is kept: what it has is no promise of a rule
        return Assignment(choice, acting=acting, args=given_arguments(call))
    if not call.scheme.min_dims <= parameter.ndim <= call.scheme.max_dims:
        least, most = call.scheme.min_dims, call.scheme.max_dims
        needed = f"{least} dimension{'s' if least > 1 else ''}" if math.isinf(most) or least == most else f"{least} to {most} dimensions"
        problems.add(choice.path, f"{call.name} needs {needed}, and {choice.info.name} has shape {tuple(parameter.shape)}")
        return Assignment(choice)
    if parameter.is_complex() and (choice.info.packed or call.scheme.random and not call.scheme.elementwise):
        what = "draws matrices that are real" if not choice.info.packed else "draws the parts of a packed matrix, which have to be real"
        problems.add(choice.path, f"{call.name} {what}, and {choice.info.name} is complex; give normal or a scheme by fans, or default")
        return Assignment(choice)
    try:
        blocks = _blocks(choice, acting.shape if acting is not None else None) if fans == "effective" else ()
        own_fans = blocks[0].fans if blocks else _torch_fans(parameter) if parameter.ndim >= 2 and fans == "torch" else None
        gain = _gain(choice, call, acting, problems)
        args = {**call.args, **({"gain": gain} if call.gain is not None and gain is not None else {})}
        for name in call.scheme.structural:
            if args.get(name) == "auto":
                args[name] = structural_value(name, call.name, choice.info, shares)
                if name == "groups" and len(blocks) == 1 and args[name] > 1:
                    blocks, args[name] = _by_group(blocks[0], args[name], len(parameter)), 1
        known = (gain is None or math.isfinite(gain)) and None not in (args.get(name, 0) for name in call.scheme.structural)
        expected = _moments(call.scheme, parameter.shape, blocks, own_fans, args) if known or "p" in args else (math.nan, math.nan)
    except SchemeError as error:
        problems.add(choice.path, f"{choice.info.name} of shape {tuple(parameter.shape)}: {error}")
        return Assignment(choice)
    if choice.info.computed is not None and not choice.info.computed.kept:
        expected = (math.nan, math.nan)
    return Assignment(choice, blocks, own_fans, gain, acting, expected, args)


def _layout(parameter: Tensor) -> Iterable[tuple[int, int]]:
    """Stride and size of each dimension."""
    return zip(parameter.stride(), parameter.shape, strict=True)


def _never_written(choice: Choice) -> str:
    name, owner = choice.info.name, type(choice.info.module).__name__
    return (
        f"default leaves {name} as {owner} makes it, which never writes to it (torch.empty is whatever the memory holds); "
        f"give it a scheme: +init.rules.{choice.info.attr}={{match: {name}, scheme: zeros}}, or write it in the class"
    )


def _moments(
    scheme: Scheme, shape: Sequence[int], blocks: Sequence[Block], fans: Fans | None, args: Mapping[str, Any]
) -> tuple[float, float]:
    """Mean and std of an entry of the whole, over blocks of unequal fans by their sizes."""
    if not blocks:
        return scheme.moments(tuple(shape), fans, **args)
    shapes = [tuple(shape) if scheme.elementwise and block.rows is None else matrix_shape(shape, block) for block in blocks]
    moments = [scheme.moments(own, block.fans, **args) for own, block in zip(shapes, blocks, strict=True)]
    if all(one == moments[0] for one in moments):
        return moments[0]
    return _pooled(moments, [math.prod(own) for own in shapes])


def _pooled(moments: Sequence[tuple[float, float]], sizes: Sequence[int]) -> tuple[float, float]:
    total = sum(sizes)
    mean = math.fsum(size * one for size, (one, _) in zip(sizes, moments, strict=True)) / total
    square = math.fsum(size * (one**2 + std**2) for size, (one, std) in zip(sizes, moments, strict=True)) / total
    return mean, math.sqrt(max(square - mean * mean, 0.0)) if math.isfinite(square) else math.nan


def _assign_parts(choice: Choice, acting: InputActivation | None, fans: str, problems: Problems, shares: Shares) -> Assignment:
    """Each block by its own choice; expected are the moments of an entry of the whole."""
    blocks = [_block(own) for own in choice.info.blocks()]
    parts = []
    for block, part in zip(blocks, choice.parts, strict=True):
        own = _assign(part, acting, fans, problems, shares)
        parts.append(replace(own, blocks=own.blocks or (block,)))
    sizes = [part.size for part in choice.info.parts]
    expected = _pooled([part.expected for part in parts], sizes)
    first = next(part for part in parts if not isinstance(part.call, Keep))
    return Assignment(choice, tuple(blocks), first.fans, None, acting, expected, {}, tuple(parts))


def _block(info: ParamInfo) -> Block:
    """One block of a packed parameter, without fans where nothing tells them: a scheme that uses them says so where it is assigned."""
    found = Fans(1.0, 1.0) if info.parameter.ndim < 2 else None
    if found is None:
        with suppress(SchemeError):
            found = blocks_of(info)[0].fans
    return Block(block_rows(info), info.packed[info.block or 0], found)


def _gain(choice: Choice, call: FromScheme, acting: InputActivation | None, problems: Problems) -> float | None:
    """The gain as a number: given, computed from the activation that acts on the layer, or the scheme's own."""
    if call.gain == "auto":
        if acting is None or not acting.known:
            why = acting.source if acting is not None else "the model was not looked into"
            problems.add(
                join(choice.path, "gain"),
                f"auto: what acts on {choice.info.name} is not known ({why}); give data.input_shape, or the gain as a number",
            )
            return math.nan
        return 1.0 if acting.activation is None else gain_of(acting.activation)
    if call.gain is not None:
        return float(call.gain)
    if not call.scheme.uses_gain:
        return None
    arguments = {**arguments_of(call.scheme.name), **call.args}
    if "nonlinearity" in arguments:
        return nonlinearity_gain(arguments["nonlinearity"], arguments["a"])
    return arguments["gain"] if isinstance(arguments.get("gain"), float) else 1.0


def needs_shape(info: ParamInfo) -> bool:
    """Whether the fans of this parameter depend on the size of the layer's input: a convolution that pads with zeros, or
    whose windows overlap, so that an input at the border is in fewer of them."""
    module = info.module
    if not isinstance(module, nn.modules.conv._ConvNd) or info.attr != "weight":
        return False
    return module.transposed or any(_pads(module)) or any(map(operator.gt, module.kernel_size, module.stride))


def _pads(module: nn.modules.conv._ConvNd) -> Sequence[Any]:
    return (module.padding != "valid",) if isinstance(module.padding, str) else module.padding


def _blocks(choice: Choice, shape: torch.Size | None) -> tuple[Block, ...]:
    info = choice.info
    if info.parameter.ndim < 2 and info.block is not None:
        return (Block(block_rows(info), info.packed[info.block], Fans(1.0, 1.0)),)
    try:
        return blocks_of(info, shape if needs_shape(info) else None)
    except SchemeError:
        if isinstance(choice.call, FromScheme) and choice.call.scheme.uses_fans:
            raise
        return ()


def _by_group(block: Block, groups: int, rows: int) -> tuple[Block, ...]:
    """A matrix for each group of a convolution: they lie along the first axis, channels out, or in of a transposed one."""
    each = rows // groups
    return tuple(replace(block, rows=slice(index * each, (index + 1) * each)) for index in range(groups))


def _torch_fans(parameter: Tensor) -> Fans:
    return torch_fans(parameter.shape)


def wants_shape(info: ParamInfo, call: SchemeCall) -> bool:
    return isinstance(call, FromScheme) and call.scheme.uses_fans and needs_shape(info)
