"""Small layers without which common models cannot be written as a chain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn


class Item(nn.Module):
    """One part of what a layer returns: what `output: 0` (of a tuple) or `output: logits` (of an object) beside it puts after it.

    Example:
        >>> Item(1)((torch.zeros(1), torch.ones(1)))
        tensor([1.])
        >>> Item("logits")({"loss": None, "logits": torch.ones(2)})
        tensor([1., 1.])
    """

    def __init__(self, index: int | str):
        super().__init__()
        self.index = index

    def forward(self, input: Any) -> Any:
        if isinstance(self.index, str) and not isinstance(input, Mapping):
            return getattr(input, self.index)
        return input[self.index]

    def extra_repr(self) -> str:
        return str(self.index)


class Select(nn.Module):
    """One slice along a dimension, such as the last time step: (N, T, D) -> (N, D) with `dim=1, index=-1`.

    Example:
        >>> Select(dim=1, index=-1)(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(self, dim: int = 1, index: int = -1):
        super().__init__()
        self.dim, self.index = dim, index

    def forward(self, input: Tensor) -> Tensor:
        return input.select(self.dim, self.index)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, index={self.index}"


class Permute(nn.Module):
    """The dimensions in another order, the batch among them: (N, C, T) -> (N, T, C) with `dims=[0, 2, 1]`.

    Example:
        >>> Permute([0, 2, 1])(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 3, 5])
    """

    def __init__(self, dims: list[int]):
        super().__init__()
        self.dims = tuple(dims)

    def forward(self, input: Tensor) -> Tensor:
        return input.permute(self.dims)

    def extra_repr(self) -> str:
        return f"dims={list(self.dims)}"


class Reduce(nn.Module):
    """The mean, sum or maximum over a dimension: (N, T, D) -> (N, D) with `dim=1`.

    Example:
        >>> Reduce(dim=1, how="mean")(torch.ones(2, 5, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(self, dim: int = 1, how: Literal["mean", "sum", "max"] = "mean"):
        if how not in ("mean", "sum", "max"):
            raise ValueError(f"how is {how!r}; give mean, sum or max")
        super().__init__()
        self.dim, self.how = dim, how

    def forward(self, input: Tensor) -> Tensor:
        if self.how == "max":
            return input.amax(self.dim)
        return input.mean(self.dim) if self.how == "mean" else input.sum(self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, how={self.how}"


class PositionalEmbedding(nn.Module):
    """Adds a learned vector to each position: (N, T, D) -> (N, T, D), N(0, 0.02) as in ViT (Dosovitskiy et al. 2021).

    In a config both sizes are inferred.

    Example:
        >>> PositionalEmbedding(length=5, embedding_dim=3)(torch.zeros(2, 5, 3)).shape
        torch.Size([2, 5, 3])
    """

    def __init__(self, length: int, embedding_dim: int, std: float = 0.02):
        if std < 0:
            raise ValueError(f"std is {std:g}; give a number >= 0")
        super().__init__()
        self.std = std
        self.position_embedding = nn.Parameter(torch.empty(1, length, embedding_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.position_embedding, std=self.std)

    def forward(self, input: Tensor) -> Tensor:
        return input + self.position_embedding


class SelfAttention(nn.MultiheadAttention):
    """torch.nn.MultiheadAttention whose query, key and value are its one input; returns (output, weights or None).

    In a chain of layers `_target_: torch.nn.MultiheadAttention` builds this, with `output: 0` to go on.

    Example:
        >>> output, weights = SelfAttention(8, 2, batch_first=True)(torch.zeros(2, 5, 8))
        >>> output.shape, weights
        (torch.Size([2, 5, 8]), None)
    """

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(input, input, input, need_weights=False)
