"""Residual and Parallel: the two graphs that a chain of layers cannot say."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn


class Residual(nn.Sequential):
    r"""`shortcut(x) + scale * branch(x)`, where the branch is the chain of its children.

    Args:
        layers: the branch, by name. A child named `shortcut` is the other way; without one it is the identity.
        scale: None adds the branch as it is; a number multiplies it (fixed).
        learn_scale: a learned scale that starts at this value: 0 is rezero (Bachlechner et al. 2020) and skip-init
            (De & Smith 2020), a small value per channel is layer scale (Touvron et al. 2021).
        channels: with `learn_scale`, one scale for each of so many channels instead of one for all.
        channel_dim: the dimension of the output the channels lie in, counted from the end: -1 for (N, ..., C),
            -3 for images (N, C, H, W).
        base_branches: says that `scale` is this over the number of branches of the model: the multiplier 1/m_L of CompleteP (Dey et al.
            2025), which `init=completep` and `optimizer.completep` then leave out of the weights.

    In a config `scale` takes all forms: `scale: 0.5`, `scale: {learn: 0.0}`, `scale: {learn: 1e-4, per: channel}`, and
    `scale: {base_branches: 4}`, which counts the branches of the model.

    Raises:
        ValueError: both scales are given, base_branches without `scale`, or an empty branch.

    Example:
        >>> block = Residual({"fc": nn.Linear(4, 4), "act": nn.ReLU()}, learn_scale=0.0)
        >>> x = torch.ones(2, 4)
        >>> torch.equal(block(x), x), sorted(block.state_dict())
        (True, ['fc.bias', 'fc.weight', 'scale'])

    In a config:
        >>> config = '''
        ... body:
        ...   _target_: modelfactory.Residual
        ...   layers: {fc: {_target_: torch.nn.Linear, out_features: 64}, act: {_target_: torch.nn.ReLU}}
        ... '''
    """

    is_residual = True
    modelfactory_roles = {"scale": "scale"}
    scale: float | nn.Parameter | None

    def __init__(
        self,
        layers: dict[str, nn.Module],
        scale: float | None = None,
        learn_scale: float | None = None,
        channels: int | None = None,
        channel_dim: int = -1,
        base_branches: float | None = None,
    ):
        if scale is not None and learn_scale is not None:
            raise ValueError("give scale (fixed) or learn_scale (learned), not both")
        if base_branches is not None and (scale is None or not base_branches > 0):
            raise ValueError("base_branches > 0 goes with a fixed scale, which is base_branches over the number of branches")
        if not any(name != "shortcut" for name in layers):
            raise ValueError("the branch has no layer")
        super().__init__(OrderedDict(layers))
        self.base_branches = base_branches
        if learn_scale is None:
            self.scale = scale
        else:
            shape = () if channels is None else (channels, *(1,) * (-channel_dim - 1))
            self.scale = nn.Parameter(torch.empty(shape))
            self.learn_scale = float(learn_scale)
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """Puts a learned scale back to where it starts."""
        if isinstance(self.scale, nn.Parameter):
            nn.init.constant_(self.scale, self.learn_scale)

    def forward(self, input: Tensor) -> Tensor:
        branch = shortcut = input
        for name, module in self._modules.items():
            if name == "shortcut":
                shortcut = module(input)  # pyright: ignore[reportOptionalCall]
            else:
                branch = module(branch)  # pyright: ignore[reportOptionalCall]
        return shortcut + branch if self.scale is None else shortcut + self.scale * branch

    def extra_repr(self) -> str:
        if self.scale is None:
            return ""
        return f"scale=learned{tuple(self.scale.shape)}" if isinstance(self.scale, nn.Parameter) else f"scale={self.scale:g}"


class Parallel(nn.Module):
    """Every child sees the same input; their outputs are concatenated or summed.

    Args:
        layers: the branches, by name.
        combine: "cat" (along `dim`) or "sum".
        dim: the dimension to concatenate, 1 (channels, features) unless told.

    Raises:
        ValueError: no branch, or another `combine`.

    Example:
        >>> both = Parallel({"a": nn.Linear(4, 2), "b": nn.Linear(4, 3)})
        >>> both(torch.ones(1, 4)).shape
        torch.Size([1, 5])

    In a config:
        >>> config = '''
        ... paths:
        ...   _target_: modelfactory.Parallel
        ...   combine: cat
        ...   layers:
        ...     narrow: {_target_: torch.nn.Conv2d, out_channels: 8, kernel_size: 1}
        ...     wide: {_target_: torch.nn.Conv2d, out_channels: 8, kernel_size: 3, padding: 1}
        ... '''
    """

    def __init__(self, layers: dict[str, nn.Module], combine: Literal["cat", "sum"] = "cat", dim: int = 1):
        if not layers:
            raise ValueError("there is no branch")
        if combine not in ("cat", "sum"):
            raise ValueError(f"combine is {combine!r}; give cat or sum")
        super().__init__()
        for name, module in layers.items():
            self.add_module(name, module)
        self.combine = combine
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        outputs = [module(input) for module in self.children()]
        if self.combine == "cat":
            return torch.cat(outputs, self.dim)
        total = outputs[0]
        for output in outputs[1:]:
            total = total + output
        return total

    def extra_repr(self) -> str:
        return f"combine={self.combine}" + (f", dim={self.dim}" if self.combine == "cat" else "")
