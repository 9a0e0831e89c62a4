"""How the processes of a training find each other: by a launcher's variables, or by a process group that there is."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.distributed as dist

from modelfactory.config.errors import RankFailed
from modelfactory.training.distributed import ALONE, World, calls, release_signals
from modelfactory.training.launched import launched
from modelfactory.training.status import who

_PACKAGE = logging.getLogger("modelfactory")


def num_processes() -> int:
    """How many processes there are of this program: those of a process group, or else of the launcher's variables.

    Raises:
        ConfigError: a launcher's variables are incomplete.

    Example:
        >>> num_processes()
        1
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return launched().size


@contextlib.contextmanager
def open_world() -> Iterator[World]:
    """The processes that this one trains with: those of a process group that there is, or else of the launcher's variables.

    All but the first are silent while it is open, errors apart.

    Raises:
        ConfigError: a launcher's variables are incomplete.

    Example:
        >>> with open_world() as world:
        ...     world.size
        1
    """
    size = num_processes()
    if size == 1:
        yield ALONE
        return
    exists = dist.is_initialized()
    if not exists:
        _connect()
    world, level, failed = World(dist.get_rank(), size, training=next(calls)), _PACKAGE.level, True
    try:
        if world.rank:
            _PACKAGE.setLevel(logging.ERROR)
        world = replace(world, processes=tuple(world.gather(who())))
        with world.guarded():
            yield world
            world.wait()
        failed = False
    finally:
        _PACKAGE.setLevel(level)
        if not exists:
            if not failed or not _with_gpus():  # NCCL would wait for what never comes; it ends with the process
                world.leave()
        release_signals()


def _connect() -> None:
    """Joins the process group of the launcher's variables, and takes this process's own accelerator."""
    own = launched()
    if _with_gpus() and own.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(own.local_rank)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if _with_gpus() else "gloo", rank=own.rank, world_size=own.size)
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RankFailed(f"the other processes cannot be reached at {place}: {error}", "failed") from error


def _with_gpus() -> bool:
    return torch.cuda.is_available() and dist.is_nccl_available()
