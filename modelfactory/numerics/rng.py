"""One generator a parameter, keyed by the seed and the parameter's name."""

from __future__ import annotations

import hashlib

import torch


def key(seed: int, name: str) -> int:
    """A 63-bit key of (seed, name), the same in every process and on every machine.

    Example:
        >>> key(0, "fc.weight") == key(0, "fc.weight") != key(1, "fc.weight")
        True
    """
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator that draws what belongs to parameter `name` under `seed`.

    Example:
        >>> torch.equal(torch.rand(2, generator=generator(0, "a")), torch.rand(2, generator=generator(0, "a")))
        True
    """
    return torch.Generator().manual_seed(key(seed, name))
