"""What an epoch gave, told to TensorBoard, MLflow or Weights & Biases through their own libraries, which their own settings steer."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from modelfactory.config.errors import Problems
from modelfactory.config.files import write_text

Track = Callable[[Mapping[str, Any]], object]


@contextlib.contextmanager
def tensorboard(folder: Path, config: Any, step: int) -> Iterator[Track]:
    """Event files in the run's folder: `tensorboard --logdir multirun` shows a sweep."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=step + 1) as writer:

        def track(row: Mapping[str, Any]) -> None:
            for name, value in _numbers(row).items():
                writer.add_scalar(name, value, row["step"])

        yield track


@contextlib.contextmanager
def mlflow(folder: Path, config: Any, step: int) -> Iterator[Track]:
    """A run of MLflow, where MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say; mlflow.txt in the run's folder has its id."""
    import mlflow as library  # pyright: ignore[reportMissingImports]

    known = folder / "mlflow.txt"
    run_id = known.read_text(encoding="utf-8") if step and known.exists() else None
    with library.start_run(run_id=run_id, run_name=None if run_id else folder.name) as run:
        write_text(known, run.info.run_id)
        if run_id is None:
            library.log_params({name: str(value)[:500] for name, value in flat(config or {}).items()})
        yield lambda row: library.log_metrics(_numbers(row), step=row["step"])


@contextlib.contextmanager
def wandb(folder: Path, config: Any, step: int) -> Iterator[Track]:
    """A run of Weights & Biases, where WANDB_PROJECT, WANDB_MODE and its other variables say; wandb.txt has its id."""
    import wandb as library  # pyright: ignore[reportMissingImports]

    known = folder / "wandb.txt"
    run_id = known.read_text(encoding="utf-8") if step and known.exists() else None
    with library.init(dir=str(folder), config=config, id=run_id, resume="allow", name=folder.name) as run:
        write_text(known, run.id)
        yield lambda row: run.log(_numbers(row), step=row["step"])


TRACKERS = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}


def check_tracker(name: str | None, path: str, problems: Problems) -> None:
    """Says in `problems` where the library of a tracker is not installed.

    Example:
        >>> problems = Problems()
        >>> check_tracker("tensorboard", "trainer.tracker", problems)
    """
    if name in TRACKERS and importlib.util.find_spec(name) is None:
        problems.add(path, f"{name!r} is not installed; pip install 'modelfactory[{name}]', or give null")


def open_tracker(
    name: str | None, folder: Path | None, config: Any, step: int
) -> contextlib.AbstractContextManager[Track | None]:
    """A context that gives what to call with each epoch's row of metrics; None without a tracker, or a folder.

    Args:
        config: plain data, which the tracker shows beside the numbers.
        step: the optimizer steps that a run that is gone on with had done.
    """
    if name is None or folder is None:
        return contextlib.nullcontext()
    return TRACKERS[name](folder, config, step)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in ("step", "epoch") and value is not None}


def flat(config: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The values of a config by their paths.

    Example:
        >>> flat({"seed": 0, "model": {"width": 8}})
        {'seed': 0, 'model.width': 8}
    """
    values: dict[str, Any] = {}
    for name, value in config.items():
        where = f"{path}.{name}" if path else str(name)
        values |= flat(value, where) if isinstance(value, Mapping) and value else {where: value}
    return values
