"""What modules are constructed under: draws are noted for this thread, and global random state is kept."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from modelfactory.model.deferred_init import DRAWN_WHOLE, Recording
from modelfactory.numerics import rng


@contextmanager
def construction(seed: int, scope: str) -> Iterator[Recording]:
    """Construct under this: draws are noted, and no global random state changes, of torch, `random` or numpy.

    Args:
        seed, scope: decide what a constructor draws at once because it computes with it.

    Example:
        >>> before = torch.random.get_rng_state()
        >>> with construction(seed=0, scope="net") as recording:
        ...     net = nn.LSTM(3, 4)
        >>> torch.equal(before, torch.random.get_rng_state())
        True
    """
    with rng.GLOBAL_STATE:
        numpy = sys.modules.get("numpy.random")
        python_state, numpy_state = random.getstate(), numpy.get_state() if numpy is not None else None
        try:
            with torch.random.fork_rng(devices=[]), _STAND_INS, Recording(seed, scope) as recording:
                torch.default_generator.set_state(rng.generator(seed, f"{scope}\0construct").get_state())
                random.seed(rng.key(seed, f"{scope}\0construct"))
                if numpy is not None:
                    numpy.seed(rng.key(seed, f"{scope}\0construct") % 2**32)
                yield recording
        finally:
            random.setstate(python_state)
            if numpy is not None:
                numpy.set_state(numpy_state)


class _StandIns:
    """Puts stand-ins into torch.nn.init while a thread records; they note for that thread only."""

    def __init__(self) -> None:
        self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            for name, original in DRAWN_WHOLE.items():
                setattr(nn.init, name, _stand_in(original))

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            for name, original in DRAWN_WHOLE.items():
                setattr(nn.init, name, original)


def _stand_in(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def note(*args: Any, **kwargs: Any) -> Any:
        recording = next((mode for mode in _get_current_function_mode_stack() if isinstance(mode, Recording)), None)
        if recording is None:
            return original(*args, **kwargs)
        return recording.__torch_function__(original, (), args, kwargs)

    return note


_STAND_INS = _StandIns()
# Global random state is one for all threads: who constructs at the same time would take over, and leave, another's.
