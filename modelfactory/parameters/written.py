"""What the constructors of a model wrote to a parameter, and whether that is a value its author set by hand.

`modelfactory.model.write_history` finds it out while a model is constructed. Set by hand is what a rule for all weights or all
biases would lose: a value rather than a draw (a zero head, a detector's prior, an adapter's second matrix), or a vector that is
not drawn around 0 (the time steps of a state-space model). The ordinary values of their kind are not: 0 in a bias, 1 in the
scale of a norm, 0 in its shift, whatever a layer of torch.nn writes itself, and matrices that are drawn, by whomever.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

KEEP = "_no_reinit"
"""The attribute by which an author says of a parameter that nobody is to initialise it again."""


@dataclass(frozen=True)
class Written:
    """What was written to a parameter last.

    Attributes:
        how: nothing (it is raw memory, or a part of it is), a draw, or a value (a constant, a copy, something computed).
        value: of a value that is the same in all entries, that number; else NaN.
        mean, std: of a draw, by its law; NaN where that is not known.
        by_layer: whether the class of torch.nn (or of this package) that owns it wrote it, and nobody after it.
        part: where a part was set to a value after the rest was written, that number (NaN: several); else None.
        copy_of: the name of the parameter that it is a copy of, as by `copy.deepcopy`; "" where it is none.
        put_off: whether what its author draws was noted and not drawn yet, so that it is drawn by its own name.
    """

    how: Literal["nothing", "draw", "value"]
    value: float = math.nan
    mean: float = math.nan
    std: float = math.nan
    by_layer: bool = False
    part: float | None = None
    copy_of: str = ""
    put_off: bool = False

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and std of an entry, as far as they are known."""
        if self.part is not None or self.how == "nothing":
            return math.nan, math.nan
        return (self.value, 0.0 if math.isfinite(self.value) else math.nan) if self.how == "value" else (self.mean, self.std)


def is_authored(parameter: nn.Parameter, roles: Sequence[str], written: Written | None) -> bool:
    """Whether the author of a model set this parameter by hand.

    Args:
        roles: what the parameter is there for.
        written: what was written to it; None where its constructor was not watched.

    Example:
        >>> bias = nn.Parameter(nn.Linear(2, 2).bias.detach())
        >>> [is_authored(bias, ["bias"], Written("value", value)) for value in (0.0, -4.6)]
        [False, True]
        >>> is_authored(bias, ["bias"], Written("draw", mean=0.0, std=0.1)), is_authored(bias, ["bias"], Written("draw", mean=-3.0))
        (False, True)
    """
    if getattr(parameter, KEEP, False):
        return True
    if written is None or written.copy_of or written.how == "nothing":
        return False
    if not parameter.requires_grad:  # its author froze it
        return True
    if written.by_layer:
        return False
    ordinary = 0.0 if "bias" in roles else 1.0 if "norm" in roles else None
    if written.part is not None:
        return written.part != (0.0 if "embedding" in roles else ordinary)
    if written.how == "value":
        return written.value != ordinary
    return parameter.ndim < 2 and "embedding" not in roles and "norm" not in roles and written.mean != 0
