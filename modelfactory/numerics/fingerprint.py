"""Hashes of initial values: equal if and only if (but for chance, 2^-64) every number is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest(values: Tensor) -> str:
    """16 hex digits of the SHA-256 of the values in float32, row by row, whatever their type, strides and device.

    Example:
        >>> digest(torch.ones(2, 3)) == digest(torch.ones(3, 2, dtype=torch.float64).T)
        True
    """
    plain = values.detach().to("cpu", torch.float32).contiguous()
    return hashlib.sha256(plain.numpy()).hexdigest()[:16]  # pyright: ignore[reportArgumentType]


def combined(digests: Mapping[str, str]) -> str:
    """16 hex digits for all parameters together, by their names and their digests, in any order.

    Example:
        >>> combined({"a": "1", "b": "2"}) == combined({"b": "2", "a": "1"})
        True
    """
    lines = "".join(f"{name} {value}\n" for name, value in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
