"""What a module's author wrote, done again: keyed by the parameter's name, from the noted constructor or `reset_parameters`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from modelfactory.config.errors import SchemeError
from modelfactory.init.assign import Assignment
from modelfactory.model.deferred_construction import construction
from modelfactory.model.deferred_init import Recording


class Author:
    """Does what a module's author wrote, keyed by name: the noted constructor, or `reset_parameters` noted anew."""

    def __init__(self, seed: int, recordings: Mapping[str, Recording], fresh: bool):
        self._seed, self._recordings, self._fresh = seed, recordings, fresh

    def fill(self, items: Sequence[Assignment]) -> None:
        """Fills the parameters of these items, whose scheme is `default`."""
        by_module: dict[int, list[Assignment]] = {}
        for item in items:
            by_module.setdefault(id(item.info.module), []).append(item)
        for group in by_module.values():
            recording = self._recording_of(group[0].info.module_name)
            if recording is not None:
                for item in group:
                    recording.replay(item.info.parameter, self._seed, item.info.name)
            else:
                self._reset(group)

    def _recording_of(self, module_name: str) -> Recording | None:
        while True:
            if module_name in self._recordings:
                return self._recordings[module_name]
            if not module_name:
                return None
            module_name = module_name.rpartition(".")[0]

    def _reset(self, group: Sequence[Assignment]) -> None:
        module = group[0].info.module
        reset = reset_of(module) if group[0].info.computed is None else None  # written to a computed weight, it would be lost
        if reset is None:
            raise SchemeError(
                f"{group[0].info.name}: {type(module).__name__} has no reset_parameters, so its author's init cannot be done again"
            )
        wanted = {id(item.info.parameter) for item in group}
        others = [tensor for tensor in (*module.parameters(), *module.buffers()) if id(tensor) not in wanted and not self._fresh]
        kept = [(tensor, tensor.detach().clone()) for tensor in others]
        with construction(self._seed, group[0].info.module_name) as recording:
            reset()
        for item in group:
            recording.replay(item.info.parameter, self._seed, item.info.name)
        with torch.no_grad():
            for tensor, values in kept:
                tensor.copy_(values)


def reset_of(module: nn.Module) -> Callable[[], Any] | None:
    """The method by which a module's author initialises it, if there is one.

    Example:
        >>> reset_of(nn.Linear(2, 2)).__name__, reset_of(nn.Sequential())
        ('reset_parameters', None)
    """
    return next(
        (reset for name in ("reset_parameters", "_reset_parameters") if (reset := getattr(module, name, None)) is not None), None
    )
