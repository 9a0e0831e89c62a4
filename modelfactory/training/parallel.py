"""What of a training does not go with several processes, each with its reason and what would do."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from modelfactory.config.errors import Problems
from modelfactory.data.dataset import Data
from modelfactory.training.distributed import World
from modelfactory.training.launched import PATH
from modelfactory.training.spec import TrainerSpec
from modelfactory.training.sync_batchnorm import batch_norms


def check_parallel(spec: TrainerSpec, device: torch.device, model: nn.Module, data: Data, world: World, problems: Problems) -> None:
    """Say in `problems` why a training cannot be done by the processes of `world`; one process can do any.

    Example:
        >>> from modelfactory.data.dataset import Split
        >>> split = Split(torch.zeros(8, 2), torch.zeros(8, 1))
        >>> data, problems = Data(split, split, "regression", 1, (2,), batch_size=2), Problems()
        >>> check_parallel(TrainerSpec(), torch.device("cpu"), nn.Linear(2, 1), data, World(0, 3), problems)
        >>> print(*problems)
        data.batch_size: 2 samples cannot be divided among 3 processes; give 3 or more, or start fewer
    """
    if world.size == 1:
        return
    size, samples = world.size, len(data.train)
    if data.batch_size < size:
        message = f"{data.batch_size} samples cannot be divided among {size} processes; give {size} or more, or start fewer"
        problems.add("data.batch_size", message)
    elif samples < size:
        problems.add(PATH, f"{samples} training samples cannot be divided among {size} processes; start fewer")
    _check_device(spec, device, world, problems)
    if spec.cached == "disk":
        problems.add("trainer.cache_features", f"'disk' is written by one process, and there are {size}; give memory, or false")
    for name, module in model.named_modules():
        if getattr(module, "sparse", False) is True and isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            problems.add(PATH, f"the sparse gradient of {name!r} cannot be summed over {size} processes; leave sparse=true out")
        if isinstance(module, nn.SyncBatchNorm):
            problems.add(PATH, f"{name!r} is SyncBatchNorm; give BatchNorm1d, 2d or 3d, and trainer.sync_batchnorm=true")
    for name, norm in batch_norms(model).items():
        if norm.running_mean is None:
            message = f"{name!r} has no running statistics: it would validate by those of a part of a batch; leave track_running_stats out"
            problems.add(PATH, message)
        elif spec.sync_batchnorm and type(norm).forward is not _BatchNorm.forward and not isinstance(norm, nn.SyncBatchNorm):
            problems.add("trainer.sync_batchnorm", f"{name!r} ({type(norm).__name__}) is not torch's own batch norm; give false")
    if spec.sync_batchnorm and spec.compile:
        problems.add("trainer.sync_batchnorm", "true does not go with trainer.compile, which cannot see other processes; give false")


def _check_device(spec: TrainerSpec, device: torch.device, world: World, problems: Problems) -> None:
    """Each process has an accelerator to itself, or computes on the CPU."""
    if ":" in spec.device:
        problems.add("trainer.device", f"{spec.device!r} is one device, and each of {world.size} processes has its own; give auto or cuda")
    elif device.type not in ("cpu", "cuda"):
        problems.add("trainer.device", f"{world.size} processes cannot train on {device.type}; give cpu")
    elif device.type == "cuda" and world.local_rank >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        message = f"process {world.local_rank} of this machine, counted from 0, has none of its {count} GPUs; start {count}, or give cpu"
        problems.add("trainer.device", message)
