"""Folders of images: what is there, the declared transforms, and the datasets that read them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelfactory.config import target
from modelfactory.config.errors import ConfigError, Problem, Problems, did_you_mean, some_names
from modelfactory.config.schema import join
from modelfactory.data.dataset import PART_NAMES, Data, Split, data_of_splits, split_indices
from modelfactory.data.image_file import EXTENSIONS, read_rgb, read_tensor
from modelfactory.model.backbone.preprocessing import Preprocessing

_PARTS = ("train", "val")


Fractions = tuple[float | None, float | None]  # of the images, held out to validate and to test


def check_folder(root: Path, fractions: Fractions, path: str, problems: Problems) -> dict[str, Path] | None:
    """The folders of the training images and, unless they are held out of those, of the validation and test images, by the part's name.

    None after saying what is missing.
    """
    where, (val_fraction, test_fraction) = join(path, "root"), fractions
    if not root.is_dir():
        problems.add(
            where, f"there is no folder {root}; give one that holds train and val, or one folder a class with {path}.val_fraction"
        )
        return None
    train = root / "train" if (root / "train").is_dir() else root
    there = {"train": train, **{part: root / part for part in ("val", "test") if (root / part).is_dir()}}
    if train == root and "val" not in there:
        there.pop("test", None)  # a class of that name
    found = len(problems)
    if train == root and "val" in there:
        problems.add(where, f"there is no folder {root / 'train'}, though there is {root / 'val'}")
        return None
    for part, fraction in (("val", val_fraction), ("test", test_fraction)):
        if part in there and fraction is not None:
            problems.add(join(path, f"{part}_fraction"), f"{fraction!r} is not used, for there is {root / part}; give null")
    if "val" not in there and val_fraction is None:
        problems.add(
            where, f"there is no folder {root / 'val'}; make it, or give {path}.val_fraction to hold some of {train} out"
        )
    return there if len(problems) == found else None


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


def image_reader(declared: Any, mean: Sequence[float], std: Sequence[float]) -> tuple[Callable[[str], Any], Callable[[Any], Tensor]]:
    """Give what reads an image file and what makes an input of it: the declared transforms, then a normalised tensor.

    Args:
        declared: transforms of one part, as `read_transforms` gives them.

    Example:
        >>> read, transform = image_reader([], [0.5] * 3, [0.5] * 3)
        >>> transform(torch.full((3, 2, 2), 255, dtype=torch.uint8)).max()
        tensor(1.)
    """
    from torchvision.transforms import v2

    if isinstance(declared, Preprocessing):
        return read_rgb, declared.transform
    last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std)), v2.ToPureTensor()]
    return read_tensor, v2.Compose([*declared, *last])


def load_folder(
    root: Path,
    transforms: Mapping[str, Any],
    fractions: Fractions,
    split_seed: int,
    normalised: tuple[Sequence[float], Sequence[float]],
) -> Data:
    """See `modelfactory.data.image_folder`; `fractions` are those of validation and test, `normalised` mean and std."""
    problems = Problems()
    folders = check_folder(root, fractions, "data", problems)
    declared = read_transforms(transforms, "data.transforms", problems)
    if folders is None:
        raise ConfigError(problems)
    problems.raise_if_any()

    def images(folder: Path, part: str) -> ImageFiles:
        read, transform = image_reader(declared["train" if part == "train" else "val"], *normalised)
        return ImageFiles(folder, transform, read)

    unused = "test" in folders and not classes_of(folders["test"]) & classes_of(folders["train"])
    left_out = [str(folders.pop("test"))] if unused else []
    whole = {part: images(folder, part) for part, folder in folders.items()}
    train = whole["train"]
    for part, files in whole.items():
        if files.classes != train.classes:
            different = ", ".join(sorted(set(train.classes) ^ set(files.classes)))
            raise ConfigError([Problem("data.root", f"the classes of {folders['train']} and {folders[part]} differ: {different}")])
    held_out = {part: fraction for part, fraction in zip(("val", "test"), fractions, strict=True) if fraction is not None}
    splits = _held_out_of(train, {part: images(folders["train"], part) for part in held_out}, held_out, split_seed)
    splits |= {part: Split(dataset=files) for part, files in whole.items() if part not in splits}
    in_order = [splits[part] for part in PART_NAMES if part in splits]
    shape = tuple(in_order[0].sample(1)[0].shape[1:])
    left_out = [*(path for files in whole.values() for path in files.left_out), *left_out]
    return data_of_splits(in_order, "classification", len(train.classes), shape, warnings=_told(left_out, root))


def _held_out_of(
    train: ImageFiles, others: Mapping[str, ImageFiles], fractions: Mapping[str, float], seed: int
) -> dict[str, Split]:
    """The training images without those that are held out, and these in each of the other parts; nothing where nothing is.

    Raises:
        ConfigError: a part has no images.
    """
    from torch.utils.data import Subset

    if not others:
        return {}
    labels = torch.tensor(train.targets)
    chosen = split_indices(len(train), fractions.get("val", 0.0), seed, labels, fractions.get("test"))
    indices = {part: index for part, index in zip(PART_NAMES, chosen, strict=False) if part == "train" or part in others}
    for part, index in indices.items():
        if not len(index):
            name = part if part in fractions else next(iter(fractions))
            message = f"{fractions[name]} of the images of each class leaves no {PART_NAMES[part]} images"
            raise ConfigError([Problem(f"data.{name}_fraction", f"{message}; give another fraction, or more images")])
    files = {"train": train, **others}
    return {part: Split(dataset=Subset(files[part], index.tolist())) for part, index in indices.items()}  # pyright: ignore[reportArgumentType]


def classes_of(folder: Path) -> set[str]:
    """The names of the classes that a folder has, one folder each.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "cat").mkdir()
        ...     Path(folder, ".hidden").mkdir()
        ...     classes_of(Path(folder))
        {'cat'}
    """
    return {entry.name for entry in os.scandir(folder) if entry.is_dir() and not _is_hidden(entry.name)}


class ImageFiles:
    """The images of a folder, one folder a class, in the order that torchvision's ImageFolder has; what is hidden is left out.

    Attributes:
        samples: (path, class) of each image; `targets`: its class.
        classes: the names of the folders.
        left_out: files that may have been meant: visible ones that are no images, and hidden images.

    Raises:
        ConfigError: there is no class, or a class without an image.
    """

    def __init__(self, folder: Path, transform: Callable[[Any], Tensor], read: Callable[[str], Any]):
        self.transform, self.read = transform, read
        self.samples: list[tuple[str, int]] = []
        inside = sorted(os.scandir(folder), key=lambda entry: entry.name)
        self.classes = [entry.name for entry in inside if entry.is_dir() and not _is_hidden(entry.name)]
        self.left_out = [entry.path for entry in inside if entry.is_file() and not _is_hidden(entry.name)]
        for label, name in enumerate(self.classes):
            self._add(os.path.join(folder, name), label)
        self.targets = [label for _, label in self.samples]
        empty = sorted(set(self.classes) - {self.classes[label] for label in self.targets})
        if empty or not self.classes:
            why = f"there is no image in {', '.join(empty)}" if empty else "there is no folder in it"
            message = f"{folder} is not one folder of images a class: {why}; images are {', '.join(EXTENSIONS)}"
            raise ConfigError([Problem("data.root", message)])

    def _add(self, folder: str, label: int) -> None:
        for place, _, names in sorted(os.walk(folder, followlinks=True)):
            in_hidden = any(map(_is_hidden, place[len(folder) :].split(os.sep)))
            for name in sorted(names):
                hidden = in_hidden or _is_hidden(name)
                is_image = name.lower().endswith(EXTENSIONS)
                if is_image and not hidden:
                    self.samples.append((os.path.join(place, name), label))
                elif is_image or not hidden:
                    self.left_out.append(os.path.join(place, name))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        return self.transform(self.read(path)), label


def _is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's: hidden, or the resource forks of an archive that macOS made."""
    return name.startswith(".") or name == "__MACOSX"


def _told(left_out: Sequence[str], root: Path) -> tuple[str, ...]:
    left_out = list(dict.fromkeys(left_out))  # both parts may be of one folder
    if not left_out:
        return ()
    shown = some_names([os.path.relpath(path, root) for path in left_out], 3)
    files = "1 file is" if len(left_out) == 1 else f"{len(left_out)} files are"
    return (f"data.root: {files} left out, no visible images of a class: {shown}",)
