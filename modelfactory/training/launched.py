"""What a launcher says of the processes that it started together: torchrun, srun, mpirun. Nothing here needs torch."""

from __future__ import annotations

import os
from typing import NamedTuple

from modelfactory.config.errors import ConfigError, Problem

PATH = "trainer.strategy"


class Launched(NamedTuple):
    """The place of this process among those of its launcher."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


# how many processes there are, the number of this one, and of this one on its machine
_TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
_OTHERS = {
    "srun": ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MPI": ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
}
_MEETING = ("MASTER_ADDR", "MASTER_PORT")


def launched() -> Launched:
    """Find out which of how many processes of a run this is. WORLD_SIZE decides; without it the variables of srun and MPI do.

    Raises:
        ConfigError: the variables are incomplete: several processes that do not know of each other would each train the whole run.

    Example:
        >>> launched()
        Launched(rank=0, size=1, local_rank=0)
    """
    if "WORLD_SIZE" in os.environ:
        found = _read(*_TORCHRUN)
        missing = [name for name in ("RANK", *_MEETING) if not os.environ.get(name)] if found.size > 1 else []
        if missing:
            message = f"WORLD_SIZE is {found.size}, and {', '.join(missing)} is not set; start with torchrun, or unset WORLD_SIZE"
            raise ConfigError([Problem(PATH, message)])
        return found
    for launcher, (size, rank, local_rank) in _OTHERS.items():
        found = _read(size, rank, local_rank)
        if found.size == 1 or rank not in os.environ:  # a shell in an allocation has the size alone
            continue
        if not all(os.environ.get(name) for name in _MEETING):
            message = (
                f"{launcher} started {found.size} processes ({size}), which do not know where to meet; start torchrun by it, or set "
                f"{' and '.join(_MEETING)}; WORLD_SIZE=1 says that this process is alone"
            )
            raise ConfigError([Problem(PATH, message)])
        return found
    return Launched()


def _read(size: str, rank: str, local_rank: str) -> Launched:
    numbers = [os.environ.get(name, "") for name in (rank, size, local_rank)]
    place, count, local = (int(text) if text.isdigit() else None for text in numbers)
    return Launched(place or 0, count or 1, local if local is not None else place or 0)
