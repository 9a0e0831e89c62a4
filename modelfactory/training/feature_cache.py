"""Features once: what the frozen beginning of a model gives for each sample is computed once, and the rest trains on it.

`check_features` tries whether that would be the same, and says why not; `with_features` computes the features and gives the
loop batches of them, in the order that the samples would have had. On disk they are raw files that are mapped into memory,
and found again by a later start of the same run.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.errors import ConfigError, Problem, Problems, TrainingError
from modelfactory.data.batches import BatchPart, MemoryBatches, make_batches
from modelfactory.data.dataset import PART_NAMES, Data, Split
from modelfactory.data.determinism import Fixed, draws_at_random
from modelfactory.model.weights.tensor_file import DamagedFile
from modelfactory.training.checkpoint import read_state, save_state
from modelfactory.training.frozen_prefix import PATH, Parts, divide, why_not_fixed
from modelfactory.training.nonfinite import not_finite
from modelfactory.training.setup import Run

log = logging.getLogger(__name__)
FOLDER = "features"
INDEX = "index.safetensors"
Kept = Mapping[str, tuple[Tensor, Tensor]]  # features and targets of each part, by its name in a config
_TRIED, _PROBED = 8, 64  # samples that are tried, and that tell one data set on disk from another


def check_features(
    run: Run, model: nn.Module, data: Data, thaws: Mapping[str, int] | None, run_dir: Path | None
) -> Parts:
    """Divides the model, and tries whether the same sample gives the same features in every epoch, alone and among others.

    Raises:
        ConfigError: it does not, with the reason.
    """
    problems = Problems()
    parts = divide(model, thaws, problems)
    if run.spec.cached == "disk" and run_dir is None:
        problems.add(PATH, "'disk' needs a run directory, and this training has none; give memory")
    for part, split in data.parts.items():
        if split.dataset is not None and any(draws_at_random(split.dataset, index) for index in range(min(_TRIED, len(split)))):
            problems.add(
                PATH,
                f"the {PART_NAMES[part]} samples are drawn with chance, so their features would differ in each epoch; "
                "take the random transforms away (data.transforms), or give false",
            )
    if parts is not None and not problems:
        x = data.train.sample(min(_TRIED, data.batch_size))[0].to(run.device)
        why = why_not_fixed(model, parts.body, x, run.autocast)
        if why is not None:
            problems.add(PATH, f"{why}, or give false")
    if parts is None or problems:
        raise ConfigError(problems)
    return parts


def with_features(run: Run, model: nn.Module, parts: Parts, data: Data, run_dir: Path | None) -> Run:
    """The run with batches of features in place of inputs, and the rest of the model in place of the whole."""
    began = time.perf_counter()
    folder = None if run.spec.cached == "memory" or run_dir is None else run_dir / FOLDER
    model.eval()
    mark = "" if folder is None else _fingerprint(run, parts.body, data)
    kept = None if folder is None else _read_kept(folder, mark, run.device)
    reused = kept is not None
    held_size = data.val_batch_size or data.batch_size
    if kept is None:
        sizes = {"train": data.batch_size, "val": held_size, "test": held_size}
        wanted = {"train": len(data.train), "val": run.val_batches * held_size, "test": run.test_batches * held_size}
        kept = {
            name: _compute(run, parts.body, split, sizes[name], min(len(split), wanted[name]), data.num_workers, folder, name)
            for name, split in data.parts.items()
        }
        if folder is not None:
            _write_kept(folder, mark, kept)
    x, y = kept["train"]
    log.info(
        "features: %s of %s samples, %.1f MiB %s, %s in %.1f s",
        list(x.shape[1:]),
        " + ".join(str(len(features)) for features, _ in kept.values()),
        sum(features.numel() * features.element_size() for features, _ in kept.values()) / 2**20,
        "in memory" if folder is None else f"in {folder}",
        "found again" if reused else "computed",
        time.perf_counter() - began,
    )
    batches = {"device": run.device, "moved": folder is None, "part": BatchPart(run.world.rank, run.world.size)}
    return replace(
        run,
        train=MemoryBatches(x, y, data.batch_size, seed=data.seed, drop_last=data.drop_last, **batches),
        val=MemoryBatches(*kept["val"], held_size, **batches),
        test=MemoryBatches(*kept["test"], held_size, **batches) if "test" in kept else None,
        forward=torch.compile(parts.head) if run.spec.compile else parts.head,
        trained=parts.head,
    )


def _compute(
    run: Run, body: nn.Module, split: Split, batch_size: int, wanted: int, num_workers: int, folder: Path | None, name: str
) -> tuple[Tensor, Tensor]:
    """Features [wanted, ...] and targets of the first `wanted` samples, computed in batches of the size they train in."""
    fixed = split if split.dataset is None else Split(dataset=Fixed(split.dataset))
    batches = make_batches(fixed, batch_size, run.device, num_workers=num_workers)
    features, targets, done = None, [], 0
    with torch.no_grad():
        for x, y in islice(batches.epoch(1), -(-wanted // batch_size)):
            with run.autocast:
                given = body(x)
            if given.isnan().any():
                raise not_finite(body, x, float("nan"), step=1, epoch=1, what="feature")
            if features is None:
                features = _room(given, wanted, folder, name)
            features[done : done + len(given)] = given
            targets.append(y)
            done += len(given)
    if features is None:
        raise TrainingError(f"there are no {name} samples to compute features of")
    return features, torch.cat(targets)


def _room(like: Tensor, size: int, folder: Path | None, name: str) -> Tensor:
    """An empty tensor [size, ...] on the device of `like`, or in a file that is mapped into memory."""
    shape = (size, *like.shape[1:])
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        return _mapped(folder / f"{name}.bin", shape, like.dtype, fresh=True)
    try:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    except (RuntimeError, MemoryError) as error:
        gigabytes = size * like[0].numel() * like.element_size() / 2**30
        advice = f"{PATH}=disk keeps them on disk"
        raise TrainingError(f"the features take {gigabytes:.1f} GiB, more than {like.device} has; {advice}") from error


def _mapped(file: Path, shape: tuple[int, ...], dtype: torch.dtype, fresh: bool) -> Tensor:
    if fresh:
        file.unlink(missing_ok=True)
    size = torch.Size(shape).numel()
    return torch.from_file(str(file), shared=True, size=size, dtype=dtype).view(shape)


def _write_kept(folder: Path, mark: str, kept: Kept) -> None:
    """Writes what the mapped files hold and their checksums, last, so that it speaks of whole files only."""
    state = {
        "mark": mark,
        "dtype": str(kept["train"][0].dtype).removeprefix("torch."),
        "shapes": {name: list(x.shape) for name, (x, _) in kept.items()},
        "targets": {name: y for name, (_, y) in kept.items()},
        "sha256": {name: _checksum(x) for name, (x, _) in kept.items()},
    }
    save_state(folder / INDEX, state)


def _read_kept(folder: Path, mark: str, device: torch.device) -> Kept | None:
    """Features that a start of this run before left, if they are of the same layers, data and settings."""
    if not (folder / INDEX).is_file():
        return None
    try:
        state = read_state(folder / INDEX)
        if state["mark"] != mark:
            return None
        xs = {name: _read_mapped(folder, name, shape, state) for name, shape in state["shapes"].items()}
        return {name: (x, state["targets"][name].to(device)) for name, x in xs.items()}
    except (ConfigError, KeyError) as error:
        log.warning("the features in %s are computed again: %s", folder, error)
        return None


def _read_mapped(folder: Path, name: str, shape: list[int], index: Mapping[str, Any]) -> Tensor:
    """Features that are mapped from a file as its index says.

    Raises:
        DamagedFile: it is missing, has another size, which torch would extend in silence, or another checksum.
    """
    file, dtype = folder / f"{name}.bin", getattr(torch, index["dtype"])
    size = torch.Size(shape).numel() * dtype.itemsize
    if not file.is_file() or file.stat().st_size != size:
        raise DamagedFile([Problem("", f"{file} does not have {size} bytes")])
    mapped = _mapped(file, tuple(shape), dtype, fresh=False)
    if _checksum(mapped) != index["sha256"][name]:
        raise DamagedFile([Problem("", f"{file} is damaged")])
    return mapped


def _checksum(features: Tensor) -> str:
    return hashlib.sha256(features.reshape(-1).view(torch.uint8).numpy()).hexdigest()  # pyright: ignore[reportArgumentType]


def _fingerprint(run: Run, body: nn.Module, data: Data) -> str:
    """A hash of the frozen layers, the settings that numbers depend on, and the data: all of it where it is in memory, its
    length and evenly spaced samples where it is on disk."""
    sizes = [data.batch_size, data.val_batch_size, *map(len, data.parts.values()), run.val_batches, run.test_batches]
    digest = hashlib.sha256(repr([str(body), sizes, run.device.type, run.spec.precision, torch.__version__]).encode())
    for name, tensor in body.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    for split in data.parts.values():
        if split.x is not None and split.y is not None:
            pairs = [(split.x, split.y)]
        else:
            step = max(1, len(split) // _PROBED)
            pairs = [split.dataset[index] for index in range(0, len(split), step)]
        for pair in pairs:
            for value in pair:
                digest.update(_bytes(torch.as_tensor(value)))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
