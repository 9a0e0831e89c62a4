"""The `trainer` group of a config, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from modelfactory.config.errors import Problems, did_you_mean
from modelfactory.config.schema import join, key
from modelfactory.training.device import PRECISIONS, check_device, check_precision
from modelfactory.training.loss import LossSpec, read_loss
from modelfactory.training.progress import STYLES
from modelfactory.training.status import CHECKPOINT
from modelfactory.training.trackers import TRACKERS, check_tracker

CACHES = ("memory", "disk")


STRATEGIES = ("auto", "ddp", "fsdp")


SIGNALS = ("picture", "histograms", "table", "none")


# The monitored values, and whether a larger one is better.
MONITORS = {"val_loss": False, "train_loss": False, "val_accuracy": True}


@dataclass(frozen=True)
class TrainerSpec:
    """The `trainer` group of a config.

    Attributes:
        max_epochs: passes over the training data.
        max_steps: optimizer steps in all, after which training stops within an epoch; null: no such limit.
        device: auto, cpu, cuda, xpu, mps, or one of several, such as cuda:1.
        precision: fp32, or autocast to bf16 or to fp16 (with a loss scaler).
        compile: whether torch.compile compiles the model.
        clip_norm: the largest norm of all gradients together; null: no clipping.
        accumulate: batches whose gradients make one optimizer step.
        resume: the directory of a run to go on with.
        loss: `_target_` of a loss module and its arguments; null: cross entropy for classes, mean squares for values.
        monitor: what the best epoch is best by, and what early stopping and ReduceLROnPlateau look at.
        patience: epochs without a better monitored value after which training stops; null: never.
        limit_batches: training batches, and validation batches, that an epoch has at most.
        check_every: optimizer steps between two looks at the loss on a device that is not waited for (all but the CPU).
        cache_features: whether what the frozen beginning of the model gives is computed once and kept: true or memory for
            on the device, disk for under the run directory.
        deterministic: whether the numbers are the same to the last bit for any number of threads and on every run, for which the CPU
            computes in one thread; what torch has no such computation of is refused.
        progress: auto (a bar on a terminal, else a line an epoch), bar, lines or none.
        strategy: how several processes train together; auto and ddp: each has the model and a part of each batch.
        sync_batchnorm: whether batch norm has the statistics of the whole batch, not of each process's part.
        tracker: who is told of each epoch beside metrics.csv: tensorboard, mlflow or wandb; null: nobody.
        signal: what is left of a look at the signal before training: picture (signal.csv and signal.png), histograms (these and
            signal_histograms.png), table (signal.csv), or none, which does not look.
    """

    max_epochs: int = key(20, min=1)
    max_steps: int | None = key(None, min=1)
    device: str = "auto"
    precision: str = key("fp32", choices=tuple(PRECISIONS))
    compile: bool = False
    clip_norm: float | None = key(None, above=0)
    accumulate: int = key(1, min=1)
    resume: str | None = None
    loss: dict | None = None
    monitor: str = key("val_loss", choices=tuple(MONITORS))
    patience: int | None = key(None, min=1)
    limit_batches: int | None = key(None, min=1)
    check_every: int = key(50, min=1)
    cache_features: bool | str | None = False
    strategy: str = key("auto", choices=STRATEGIES)
    sync_batchnorm: bool = False
    deterministic: bool = False
    progress: str = key("auto", choices=STYLES)
    tracker: str | None = key(None, choices=tuple(TRACKERS))
    signal: str = key("picture", choices=SIGNALS)

    @property
    def cached(self) -> str | None:
        """Where features are kept."""
        named = None if self.cache_features in ("none", "off") else self.cache_features
        return "memory" if named is True else named or None


def check_trainer(spec: TrainerSpec, path: str, problems: Problems) -> tuple[torch.device | None, LossSpec | None]:
    """Say in `problems` what is wrong with keys that are right each for itself; return the device and the loss that they name.

    Example:
        >>> problems = Problems()
        >>> check_trainer(TrainerSpec(device="cpu", strategy="fsdp"), "trainer", problems)
        (device(type='cpu'), None)
        >>> print(*problems)
        trainer.strategy: 'fsdp' is not supported: each process has the whole model; give auto or ddp
    """
    device = check_device(spec.device, join(path, "device"), problems)
    if device is not None:
        check_precision(spec.precision, device, join(path, "precision"), problems)
    if isinstance(spec.cached, str) and spec.cached not in CACHES:
        hint = did_you_mean(spec.cached, CACHES)
        problems.add(join(path, "cache_features"), f"{spec.cache_features!r} is neither true nor false, nor a place{hint}")
    if spec.strategy == "fsdp":
        problems.add(join(path, "strategy"), "'fsdp' is not supported: each process has the whole model; give auto or ddp")
    loss = read_loss(spec.loss, problems, join(path, "loss"))
    check_tracker(spec.tracker, join(path, "tracker"), problems)
    if spec.resume is not None and not Path(spec.resume, CHECKPOINT).is_file():
        problems.add(
            join(path, "resume"), f"{spec.resume!r} has no {CHECKPOINT}; give the directory of a run that finished an epoch"
        )
    return device, loss
