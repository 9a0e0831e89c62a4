"""Read inputs for a trained model from files: images as its validation images were prepared, or rows of a CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.data.backbone_transforms import put_preprocessing, read_own_backbone
from modelfactory.data.image_file import EXTENSIONS
from modelfactory.data.image_folder import image_reader, read_transforms, resizing
from modelfactory.data.vision import IMAGENET_MEAN, IMAGENET_STD

_FOLDER = "modelfactory.data.image_folder"


def read_files(files: Sequence[Path], data: Mapping[str, Any], backbone: Any = None) -> Tensor:
    """Read files of one kind into inputs [N, ...].

    Args:
        files: images, for a model of `modelfactory.data.image_folder`, or CSV files of one sample a row, in the numbers that the model
            takes; a first row that is not numbers is taken for a header.
        data: the `data` group of the model's run.
        backbone: its `backbone` group, for `transforms: backbone`.

    Raises:
        ConfigError: a file that is neither, is not there, or does not go with the data.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a.csv").write_text("a,b\\n1,2\\n3,4\\n")
        ...     read_files([Path(folder, "a.csv")], {"input_shape": [2, 1]}).shape
        torch.Size([2, 2, 1])
    """
    problems = Problems()
    if not files:
        problems.add("", "there is no file to read; give images or CSV files")
    kinds = set(map(_kind, files))
    for file in files:
        if not file.is_file():
            problems.add(str(file), "there is no such file")
        elif not _kind(file):
            problems.add(str(file), f"is neither a CSV file nor an image ({', '.join(EXTENSIONS)})")
    if len(kinds) > 1 and not problems:
        problems.add("", "images and CSV files cannot be read together; give files of one kind")
    problems.raise_if_any()
    if kinds == {"csv"}:
        return torch.cat([_read_rows(file, data.get("input_shape")) for file in files])
    if data.get("_target_") != _FOLDER:
        what = f"images are prepared for {_FOLDER}, and the model was trained on {data.get('_target_')!r}; give CSV files"
        raise ConfigError([Problem("data._target_", what)])
    prepared = put_preprocessing(data, read_own_backbone(data, backbone, problems), problems)
    declared = read_transforms(prepared.get("transforms") or {}, "data.transforms", problems)
    problems.raise_if_any()
    normalised = prepared.get("mean") or IMAGENET_MEAN, prepared.get("std") or IMAGENET_STD
    read, transform = image_reader(declared["val"] or resizing(data.get("image_size")), *normalised)
    return torch.stack([transform(read(str(file))) for file in files])


def _kind(file: Path) -> str:
    return "csv" if file.suffix.lower() == ".csv" else "image" if file.name.lower().endswith(EXTENSIONS) else ""


def _read_rows(file: Path, shape: Sequence[int] | None) -> Tensor:
    """The rows of a CSV file, each in the shape of an input."""
    with file.open(newline="", encoding="utf-8-sig") as stream:
        rows = [(number, row) for number, row in enumerate(csv.reader(stream), start=1) if row]
    if rows and not _is_numbers(rows[0][1]):
        del rows[0]
    size = None if shape is None else math.prod(shape)
    for number, row in rows:
        if not _is_numbers(row):
            raise ConfigError([Problem(f"{file}:{number}", f"{','.join(row)[:60]!r} is not a row of numbers")])
        if len(row) != (len(rows[0][1]) if size is None else size):
            wanted = f"{len(rows[0][1])}, as the first row has" if size is None else f"{size}, an input of shape {list(shape or ())}"
            raise ConfigError([Problem(f"{file}:{number}", f"{len(row)} numbers; give {wanted}")])
    if not rows:
        raise ConfigError([Problem(str(file), "has no row")])
    values = torch.tensor([[float(cell) for cell in row] for _, row in rows])
    return values if shape is None else values.reshape(len(rows), *shape)


def _is_numbers(row: Sequence[str]) -> bool:
    try:
        return all(math.isfinite(float(cell)) for cell in row)
    except ValueError:
        return False
