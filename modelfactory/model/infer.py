"""What leaves a layer, found by running it on the meta device: no memory, no numbers, no global random state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from modelfactory.config.errors import ConfigError, Problems, did_you_mean, first_line
from modelfactory.config.schema import join
from modelfactory.model.blueprint import Leaf, construct_leaf
from modelfactory.model.deferred_construction import construction
from modelfactory.model.layers.sizes import shape_text, size_rules, why_no_sizes
from modelfactory.tracing.meta_shapes import KnownShapes


class Unknown(Enum):
    """Why it is not known what comes in."""

    NOT_GIVEN = "no input shape is given"
    AFTER_A_PROBLEM = "a layer before it is wrong"


_WANTS_INDICES = "scalar types: Long, Int"  # as torch says it of an embedding
UNKNOWN, BROKEN = Unknown.NOT_GIVEN, Unknown.AFTER_A_PROBLEM
Incoming = torch.Tensor | tuple[Any, ...] | Mapping[str, Any] | Unknown


@dataclass(frozen=True)
class Traits:
    """What a trial construction told: what leaves the layer, and whether it has parameters or buffers."""

    outgoing: Incoming
    has_state: bool


def shape_of(incoming: Incoming) -> torch.Size | None:
    """The batched shape of a tensor that comes in, None of anything else."""
    return incoming.shape if isinstance(incoming, torch.Tensor) else None


class Inference:
    """Fills in sizes and finds out what leaves each layer; equal layers with equal input are tried once."""

    def __init__(self, problems: Problems):
        self.problems = problems
        self._tried: dict[tuple[Any, ...], Traits] = {}

    def sizes(self, target: Callable[..., Any], given: Mapping[str, Any], path: str, incoming: Incoming) -> dict[str, Any]:
        """The arguments that the input tells and the config leaves out; one it gives otherwise is a problem."""
        shape, found = shape_of(incoming), {}
        if (wrong := why_no_sizes(target)) is not None:
            self.problems.add(join(path, "_target_"), wrong)
        for rule in size_rules(target):
            size = rule.of(shape) if shape is not None else None
            value = given.get(rule.argument)
            where = join(path, rule.argument)
            if value is None and size is not None:
                found[rule.argument] = size
            elif value is None and shape is not None:
                self.problems.add(
                    where, f"cannot be inferred from what comes in, {shape_text(shape)}; give it, or change the layer before"
                )
            elif value is None and isinstance(incoming, tuple):
                self.problems.add(
                    where, "cannot be inferred: the layer before returns a tuple; say which part goes on with output: 0 beside it"
                )
            elif value is None and incoming is UNKNOWN:
                if rule.argument != "num_parameters":
                    self.problems.add(where, "cannot be inferred: what comes in is not known; give it, or data.input_shape")
            elif (
                isinstance(value, int) and size is not None and value != size and value > 0 and rule.argument != "num_parameters"
            ):
                shown = shape_text(shape) if shape is not None else ""
                self.problems.add(where, f"{value} does not fit what comes in, {shown}: leave it out, or give {size}")
        return found

    def left_open(self, target: Callable[..., Any], incoming: Incoming) -> set[str]:
        """The sizes that may be missing because a problem is already told, or will be."""
        return {rule.argument for rule in size_rules(target)}

    def run(self, leaf: Leaf, path: str, incoming: Incoming) -> Traits | None:
        """Constructs the layer on the meta device and runs it; None after telling what it refused."""
        key = (leaf.target, repr(sorted(leaf.arguments.items())), _signature(incoming))
        if key in self._tried:
            return self._tried[key]
        missing = [rule.argument for rule in size_rules(leaf.target) if rule.argument not in leaf.arguments]
        if missing and incoming is BROKEN:
            return Traits(BROKEN, True)
        try:
            with torch.device("meta"), construction(0, path):
                module = construct_leaf(leaf)
        except ConfigError as error:
            self.problems.extend(error.problems)
            return None
        has_state = any(True for _ in module.parameters()) or any(True for _ in module.buffers())
        traits = Traits(incoming, has_state)
        if isinstance(incoming, (torch.Tensor, tuple)):
            outgoing = self.forward(module, path, incoming)
            if outgoing is None:
                return None
            traits = Traits(outgoing, has_state)
        self._tried[key] = traits
        return traits

    def forward(self, module: nn.Module, path: str, incoming: torch.Tensor | tuple[Any, ...]) -> Incoming | None:
        """What leaves a module on the meta device; None after telling what it cannot take.

        Not known is what leaves a forward that asks for values (`if x.sum() > 0`), which there are none of on that device.
        """
        name = type(module).__name__
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), KnownShapes():
                outgoing = module.eval()(incoming)
        except Exception as error:  # whatever a layer raises here is about what comes in, and told with its path
            if needs_values(error):
                return UNKNOWN
            what = shape_text(incoming.shape) if isinstance(incoming, torch.Tensor) else f"a tuple of {len(incoming)}"
            hint = "" if isinstance(incoming, torch.Tensor) else "; say which part goes on with output: 0 beside the layer before"
            if isinstance(incoming, torch.Tensor) and incoming.is_floating_point() and _WANTS_INDICES in str(error):
                hint = "; where the data are indices give data.input_dtype=int64"
            self.problems.add(path, f"{name} cannot take what comes in, {what}: {first_line(error)}{hint}")
            return None
        return tuple(outgoing) if isinstance(outgoing, list) else outgoing


def why_no_part(returned: Any, index: int | str) -> str | None:
    """What is wrong with taking a part of an example of what a layer returns; None where nothing is, or nothing is known of it.

    Example:
        >>> why_no_part((torch.zeros(1), torch.ones(1)), 2)
        '2 is outside of the 2 parts that the layer returns'
        >>> why_no_part({"logits": torch.ones(2)}, "logit")
        "the layer returns no 'logit'; did you mean 'logits'?"
    """
    if isinstance(returned, torch.Tensor):
        return f"the layer returns one tensor of shape {shape_text(returned.shape)}; leave output out"
    if isinstance(index, str):
        is_mapping = isinstance(returned, Mapping)
        if isinstance(returned, Unknown) or (index in returned if is_mapping else hasattr(returned, index)):
            return None
        names = list(returned) if is_mapping else [*getattr(returned, "_fields", ())]
        if isinstance(returned, tuple) and not names:  # whose parts have places only
            quoted = f" (leave the quotes out: {index})" if index.removeprefix("-").isdigit() else ""
            return f"{index!r} is a text; give a whole number{quoted}"
        return f"the layer returns no {index!r}{did_you_mean(index, names)}"
    if isinstance(returned, (tuple, Mapping)) and not -len(returned) <= index < len(returned):
        return f"{index} is outside of the {len(returned)} parts that the layer returns"
    return None


def needs_values(error: Exception) -> bool:
    """Whether a forward failed because tensors of the meta device have no values.

    Example:
        >>> try:
        ...     torch.empty(1, device="meta").item()
        ... except Exception as error:
        ...     print(needs_values(error))
        True
    """
    return isinstance(error, (NotImplementedError, RuntimeError)) and "meta" in str(error).lower()


def _signature(incoming: Incoming) -> Any:
    if isinstance(incoming, torch.Tensor):
        return incoming.shape, incoming.dtype
    if isinstance(incoming, Mapping):  # an object with named parts, such as transformers returns
        return tuple((name, _signature(part)) for name, part in incoming.items())
    return tuple(map(_signature, incoming)) if isinstance(incoming, tuple) else incoming
