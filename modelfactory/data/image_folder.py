"""Folders of images: what is there, the declared transforms, and the datasets that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modelfactory.config import target
from modelfactory.config.errors import ConfigError, Problem, Problems, did_you_mean
from modelfactory.config.schema import join
from modelfactory.data.dataset import Data, Split, split_indices
from modelfactory.model.backbone.preprocessing import Preprocessing

_PARTS = ("train", "val")


def check_folder(root: Path, val_fraction: float | None, path: str, problems: Problems) -> tuple[Path, Path | None] | None:
    """The folders of the training and (unless held out of it) the validation images, or None after saying what is missing."""
    where = join(path, "root")
    if not root.is_dir():
        problems.add(
            where, f"there is no folder {root}; give one that holds train and val, or one folder a class with {path}.val_fraction"
        )
        return None
    train = root / "train" if (root / "train").is_dir() else root
    if (root / "val").is_dir():
        if train == root:
            problems.add(where, f"there is no folder {root / 'train'}, though there is {root / 'val'}")
            return None
        if val_fraction is not None:
            problems.add(join(path, "val_fraction"), f"{val_fraction!r} is not used, for there is {root / 'val'}; give null")
            return None
        return train, root / "val"
    if val_fraction is None:
        problems.add(
            where, f"there is no folder {root / 'val'}; make it, or give {path}.val_fraction to hold some of {train} out"
        )
        return None
    return train, None


def read_transforms(mapping: Any, path: str, problems: Problems) -> dict[str, Any]:
    """The transforms of each part, built, or in place of them the preprocessing of a backbone; what is wrong goes to `problems`.

    Example:
        >>> problems = Problems()
        >>> crop = {"_target_": "torchvision.transforms.v2.CenterCrop", "size": 8}
        >>> read_transforms({"train": [crop]}, "data.transforms", problems)
        {'train': [CenterCrop(size=(8, 8))], 'val': []}
    """
    if not isinstance(mapping, Mapping):
        problems.add(path, f"{mapping!r} is not a mapping; give train and val, each a list of transforms")
        return {part: [] for part in _PARTS}
    for name in set(mapping) - set(_PARTS):
        problems.add(join(path, name), f"not a part of the data{did_you_mean(str(name), _PARTS)}")
    return {part: _read_part(mapping.get(part), join(path, part), problems) for part in _PARTS}


def _read_part(declared: Any, path: str, problems: Problems) -> Any:
    """The transforms of one part, or the preprocessing that stands for all of them."""
    return declared if isinstance(declared, Preprocessing) else _read_list(declared or [], path, problems)


def _read_list(entries: Any, path: str, problems: Problems) -> list[Any]:
    if isinstance(entries, Mapping) and "_target_" not in entries:
        named = [(join(path, name), entry) for name, entry in entries.items() if entry is not None]
    elif isinstance(entries, Sequence) and not isinstance(entries, str):
        named = [(join(path, index), entry) for index, entry in enumerate(entries)]
    else:
        problems.add(path, f"{entries!r} is not a list of transforms; put it in [ ]")
        return []
    return [built for where, entry in named if (built := _read_one(entry, where, problems)) is not None]


def _read_one(entry: Any, path: str, problems: Problems) -> Any | None:
    if not isinstance(entry, Mapping):
        problems.add(path, f"{entry!r} is not a mapping; give _target_, such as torchvision.transforms.v2.Resize")
        return None
    name, arguments = target.split(entry)
    found = len(problems)
    factory = target.resolve(name, join(path, "_target_"), problems, kind="transform")
    if factory is None:
        return None
    arguments = {
        key: _read_list(value, join(path, key), problems) if _holds_transforms(value) else value
        for key, value in arguments.items()
    }
    checked = target.check_arguments(factory, arguments, path, problems)
    if checked is None or len(problems) != found:
        return None
    try:
        return factory(**checked)
    except (TypeError, ValueError) as error:
        problems.add(path, f"{name} refuses {arguments}: {error}")
        return None


def _holds_transforms(value: Any) -> bool:
    """Whether an argument is itself a list of transforms, as RandomApply's is."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) and "_target_" in item for item in value)


def load_folder(
    root: Path,
    transforms: Mapping[str, Any],
    val_fraction: float | None,
    split_seed: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Data:
    """See `modelfactory.data.image_folder`."""
    from torch.utils.data import Subset
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    problems = Problems()
    folders = check_folder(root, val_fraction, "data", problems)
    declared = read_transforms(transforms, "data.transforms", problems)
    if folders is None:
        raise ConfigError(problems)
    problems.raise_if_any()

    def images(folder: Path, part: str) -> ImageFolder:
        last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std)), v2.ToPureTensor()]
        if isinstance(declared[part], Preprocessing):
            transform = declared[part].transform
        else:
            transform = v2.Compose([v2.ToImage(), *declared[part], *last])
        try:
            return ImageFolder(str(folder), transform)
        except FileNotFoundError as error:
            raise ConfigError([Problem("data.root", f"{folder} is not one folder of images a class: {error}")]) from error

    train = images(folders[0], "train")
    val = images(folders[1] or folders[0], "val")
    if train.classes != val.classes:
        different = sorted(set(train.classes) ^ set(val.classes))
        raise ConfigError([Problem("data.root", f"the classes of {folders[0]} and {folders[1]} differ: {', '.join(different)}")])
    parts = Split(dataset=train), Split(dataset=val)
    if folders[1] is None and val_fraction is not None:
        chosen = split_indices(len(train), val_fraction, split_seed, classes=torch.tensor(train.targets))
        parts = tuple(Split(dataset=Subset(whole, index.tolist())) for whole, index in zip((train, val), chosen, strict=True))
    shape = tuple(parts[0].sample(1)[0].shape[1:])
    return Data(parts[0], parts[1], "classification", len(train.classes), shape)
