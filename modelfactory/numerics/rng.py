"""Key one generator a parameter, by the seed and the parameter's name, with 128 bits."""

from __future__ import annotations

import hashlib
import threading
from functools import cache

import numpy as np
import torch

INIT_VERSION = 2
"""Raised when the same seed, name, shape and scheme give other values than before; it is in every ledger and result.json."""

GLOBAL_STATE = threading.RLock()
"""Held by whoever draws from the global generators and puts them back: of two threads that do so at once, one would put back what the
other drew."""

_WORDS = slice(24, 24 + 8 * 624)  # of the 624 words in a state of torch's Mersenne twister, 8 bytes each, of which 4 are used


def key(seed: int, name: str) -> int:
    """Hash (seed, name) into 63 bits, the same in every process and on every machine.

    Example:
        >>> key(0, "fc.weight") == key(0, "fc.weight") != key(1, "fc.weight")
        True
    """
    digest = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, name: str, part: int = 0) -> torch.Generator:
    """Make the CPU generator that draws what belongs to parameter `name` under `seed`.

    `torch.Generator.manual_seed` uses 32 bits of a seed, so that two of 10,000 tensors would get equal values with a
    probability of 1.2%. Here the whole state of the Mersenne twister is the output of SHAKE-128 on (seed, name, part).

    Args:
        part: which part of the parameter, where it is drawn in parts; each has a stream of its own.

    Example:
        >>> torch.equal(torch.rand(2, generator=generator(0, "a")), torch.rand(2, generator=generator(0, "a")))
        True
    """
    text = f"{seed}\0{name}" if part == 0 else f"{seed}\0{name}\0{part}"
    words = np.frombuffer(hashlib.shake_128(text.encode()).digest(4 * 624), dtype="<u4")
    state = _fresh_state().clone()
    state.numpy()[_WORDS].view(np.uint64)[:] = words
    made = torch.Generator()
    made.set_state(state)
    return made


@cache
def _fresh_state() -> torch.Tensor:
    """Give the state of a generator that was just seeded, after making sure that its words lie where they are put."""
    state = torch.Generator().manual_seed(5489).get_state()
    # the first word of a Mersenne twister is its seed, and its second 1812433253 (s ^ s >> 30) + 1 modulo 2^32
    second = (1812433253 * (5489 ^ (5489 >> 30)) + 1) % 2**32
    if state.numpy()[_WORDS].view(np.uint64)[:2].tolist() != [5489, second]:
        raise RuntimeError(f"torch {torch.__version__} lays the state of its CPU generator out in another way")
    return state
