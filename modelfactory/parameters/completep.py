"""CompleteP (Dey et al. 2025): learning rate, weight decay and eps of each parameter by width, depth and what it is there for.

What is right at a base width and a base number of residual branches is right at any. With m = fan_in/base_width of a matrix,
m_N = width/base_width of what is written to, m_L = branches/base_branches, and Adam (their table 1 with alpha = 1):

| | lr | weight decay | eps |
|---|---|---|---|
| embeddings, the first layer, norms and biases outside of branches | 1 | 1 | 1/m_N |
| matrices in a branch | 1/m | m | 1/(m_N m_L) |
| norms, biases and scales in a branch | 1 | 1 | 1/(m_N m_L) |
| what ends a branch | 1/(m m_L), of a bias or norm 1/m_L | the inverse | 1/m_N |
| the head | 1/m, of its bias 1 | the inverse | 1 |

The paper has two multipliers in the forward pass, 1/m_L of a branch and 1/m_N of the head. Here they are in the weights before them: a
matrix c times as small, with c times the learning rate, 1/c of the decay and 1/c of the eps, trains as one with a multiplier c behind
it. So it is for any model, as it is. The ends of a branch that its container divides (`modelfactory.Residual` with `base_branches`) have
what the paper has, the numbers of the other matrices in the branch.

The same follows for others. SGD: Adam's learning rate over the size of the gradients, which is that of eps. Muon: as Adam, but its
update of a matrix has full rank, so that lr is 1/sqrt(m) with `adjust_lr: match_rms_adamw`, and 1 where `adjust_lr` goes by widths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from modelfactory.config.schema import key
from modelfactory.parameters.info import ParamInfo
from modelfactory.parameters.residual import Branch
from modelfactory.parameters.widths import input_width, output_width


@dataclass(frozen=True)
class CompleteP:
    """The sizes at which the optimizer's numbers are right as they stand.

    Attributes:
        base_width: inputs of a matrix, and the width of what is written to.
        base_branches: residual branches of the model: 4 for two layers of a transformer, which have two each.
    """

    base_width: float = key(above=0)
    base_branches: float = key(above=0)


@dataclass(frozen=True)
class Multipliers:
    """By what the optimizer's numbers are multiplied for a parameter.

    Attributes:
        place: where it stands and between which widths; parameters of one place have the same numbers.
        wider: m of a matrix whose input is a width of the model, 1 of all else.
    """

    place: str
    wider: float
    lr: float
    weight_decay: float
    eps: float


def multipliers(infos: Sequence[ParamInfo], spec: CompleteP) -> list[Multipliers]:
    """What CompleteP multiplies for each parameter under Adam; `of_sgd` and `of_muon` turn it into what others need.

    Example:
        >>> from torch import nn
        >>> from modelfactory.parameters.roles import describe
        >>> model = nn.Sequential(nn.Linear(2, 128), nn.Linear(128, 128), nn.Linear(128, 3))
        >>> found = multipliers(describe(model), CompleteP(64, 4))
        >>> [(each.place, each.lr, each.eps) for each in found if each.lr < 1]
        [('from128.to128', 0.5, 0.5), ('head.from128', 0.5, 1.0)]
    """
    branches = infos[0].model.branches if infos else []
    return [_of_one(info, branches, spec) for info in infos]


def of_sgd(adam: Multipliers) -> Multipliers:
    """SGD moves by the gradient itself, whose size is that of Adam's eps.

    Example:
        >>> of_sgd(Multipliers("to128", 1.0, 1.0, 1.0, 0.5)).lr
        2.0
    """
    lr = adam.lr / adam.eps
    return replace(adam, lr=lr, weight_decay=1 / lr, eps=1.0)


def of_muon(adam: Multipliers, by_rms: bool) -> Multipliers:
    """Muon moves a matrix by one of full rank: of entries as large as Adam's the spectral norm grows by sqrt(m) and not by m.

    Args:
        by_rms: whether the entries are as large as Adam's; else `adjust_lr` has given the spectral norm its size already.

    Example:
        >>> of_muon(Multipliers("from256.to256", 4.0, 0.25, 4.0, 0.25), by_rms=True).lr
        0.5
    """
    lr = adam.lr * (math.sqrt(adam.wider) if by_rms else adam.wider)
    return replace(adam, lr=lr, weight_decay=1 / lr, eps=1.0)


def _of_one(info: ParamInfo, branches: Sequence[Branch], spec: CompleteP) -> Multipliers:
    width = _fan_in(info)
    wider = 1.0 if width is None else width / spec.base_width
    taken = "" if width is None else f"from{width}"
    around = [branch for branch in branches if info.name in branch.inside]
    if not around and "head" in info.roles:
        return _made(("head", taken), wider, 1.0, 1.0)
    branch = min(around, key=lambda branch: len(branch.inside), default=None)
    written = output_width(info) if branch is None else branch.width
    narrower = 1.0 if written is None else spec.base_width / written
    place = (taken, "" if written is None else f"to{written}")
    if branch is None:
        return _made(place, wider, 1.0, narrower)
    shallower = spec.base_branches / len(branches)
    if not _ends(info, branch):
        return _made(("branch", *place), wider, 1.0, narrower * shallower)
    own = spec.base_branches / branch.undivided
    return _made(("end", *place), wider, own, narrower * shallower / own)


def _made(names: tuple[str, ...], wider: float, own: float, eps: float) -> Multipliers:
    lr = own / wider
    return Multipliers(".".join(filter(None, names)), wider, lr, 1 / lr, eps)


def _fan_in(info: ParamInfo) -> int | None:
    """How many features a matrix takes; None of one that takes the data, whose size is no width of the model, and of what is none."""
    return input_width(info) if "weight" in info.roles and "stem" not in info.roles else None


def _ends(info: ParamInfo, branch: Branch) -> bool:
    """Whether a parameter is the last before the sum: a matrix with its bias, or the norm behind them."""
    if "bias" not in info.roles:
        return "residual_end" in info.roles
    return "residual_out" in info.roles if branch.norm is None else info.name == f"{branch.norm.removesuffix('weight')}bias"
