"""Tensors by the storage that holds their entries, and those among the arguments of a call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from modelfactory.tracing.graph import leaves


def address_of(tensor: Tensor) -> int:
    """Where a tensor's storage is: views of one storage have the same."""
    return tensor.untyped_storage()._cdata


def covers_storage(tensor: Tensor) -> bool:
    """Whether a tensor is all of its storage, and no part of it.

    Example:
        >>> import torch
        >>> whole = torch.zeros(4)
        >>> covers_storage(whole), covers_storage(whole[:2])
        (True, False)
    """
    return tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts.

    Example:
        >>> import torch
        >>> len(list(tensors_in(({"x": torch.zeros(2)}, [torch.ones(1), None]))))
        2
    """
    return (item for item in leaves(value) if isinstance(item, Tensor))
