"""What an initialisation will do to learning, said before training: layers whose units cannot become different."""

from __future__ import annotations

import math
from collections.abc import Sequence

from modelfactory.parameters.info import ParamInfo


def find_symmetric(infos: Sequence[ParamInfo], spreads: Sequence[float]) -> list[str]:
    """What to say of layers all of whose units start equal, and so get equal gradients and stay equal.

    A layer's weights (and biases, if any) are one constant then. The head, and the end of a residual branch, may be:
    their units differ by the targets, or by the way around.

    Args:
        infos: the parameters of a model.
        spreads: the std of each one's entries.

    Example:
        >>> from torch import nn
        >>> from modelfactory.parameters.roles import describe
        >>> infos = describe(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)))
        >>> print(*find_symmetric(infos, [0.0, 0.0, 0.1, 0.0]))
        the 8 units of 0 are symmetric: ...
    """
    constant = {
        id(info.module): math.isclose(spread, 0.0, abs_tol=1e-12)
        for info, spread in zip(infos, spreads, strict=True)
        if "bias" in info.roles
    }
    found = []
    for info, spread in zip(infos, spreads, strict=True):
        shape = info.parameter.shape
        if spread > 1e-12 or math.isnan(spread) or len(shape) < 2 or "weight" not in info.roles:
            continue
        units = shape[1] if getattr(info.module, "transposed", False) else shape[0]
        if units < 2:
            continue
        if not {"head", "residual_out"} & set(info.roles) and constant.get(id(info.module), True):
            found.append((info, units))
    if not found:
        return []
    info, units = found[0]
    others = [info.module_name for info, _ in found[1:]]
    also = f" (so are those of {', '.join(others[:3])}{', ...' if others[3:] else ''})" if others else ""
    zero = not bool(info.parameter.detach().any())
    why = (
        "all of its weights are 0, so no signal and no gradient passes"
        if zero
        else "all of its weights are equal, so they get equal gradients"
    )
    return [
        f"the {units} units of {info.module_name or 'the model'} are symmetric: {why} and they stay the same unit for ever{also}; "
        "the model will hardly learn: give random weights, such as init=kaiming_normal"
    ]
