"""Images through torchvision: MNIST and CIFAR in memory, and folders of one's own on disk.

torchvision is imported when one of these is used, and at no other time. Nothing here reads a pickle: CIFAR is read
from its authors' binary version, not from the pickled Python version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelfactory.config.errors import ConfigError, Problem, Problems, first_line
from modelfactory.config.schema import join
from modelfactory.data.dataset import Data, Split, data_of_splits, split_indices, standardise
from modelfactory.data.record_files import check_archive, damaged, read_cifar, read_idx


@dataclass(frozen=True)
class _Source:
    """Files of a data set under `root`, and where its authors publish them."""

    folder: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    records: tuple[int, int]  # of a training file, and of a validation file
    num_classes: int
    archive: tuple[str, str] | None = None  # (url, md5); None: torchvision's class of that name knows
    label_bytes: int = 1

    @property
    def files(self) -> tuple[str, ...]:
        return self.train + self.val


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_IDX = (("train-images-idx3-ubyte", "train-labels-idx1-ubyte"), ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"))
_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_SOURCES = {
    "mnist": _Source("MNIST/raw", *_IDX, records=(60_000, 10_000), num_classes=10),
    "fashion_mnist": _Source("FashionMNIST/raw", *_IDX, records=(60_000, 10_000), num_classes=10),
    "cifar10": _Source(
        "cifar-10-batches-bin",
        tuple(f"data_batch_{index}.bin" for index in range(1, 6)),
        ("test_batch.bin",),
        records=(10_000, 10_000),
        num_classes=10,
        archive=(_CIFAR + "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
    ),
    "cifar100": _Source(
        "cifar-100-binary",
        ("train.bin",),
        ("test.bin",),
        records=(50_000, 10_000),
        num_classes=100,
        archive=(_CIFAR + "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
        label_bytes=2,  # the coarse label, then the fine one
    ),
}


def mnist(root: str = "data", download: bool = False, val_fraction: float | None = None, split_seed: int = 0) -> Data:
    """MNIST (LeCun et al., 1998): 60,000 training and 10,000 validation images [1, 28, 28] of 10 digits.

    Read from root/MNIST/raw, torchvision's place for it. Inputs are standardised with one mean and std over all pixels of the training
    part: rms 1.

    Args:
        val_fraction: of the training images of each class, the validation part; the official test part is the test part then.
            None: the official test part is the validation part, and there is no test part.
        split_seed: which images are held out.

    Raises:
        ConfigError: the files are not there and `download` is false, or they are not what was published.

    Config:
        data: {_target_: modelfactory.data.mnist, input_shape: [1, 28, 28], num_classes: 10, root: data, download: false}
    """
    return _load("mnist", root, download, val_fraction, split_seed)


def fashion_mnist(root: str = "data", download: bool = False, val_fraction: float | None = None, split_seed: int = 0) -> Data:
    """Fashion-MNIST (Xiao et al., 2017): the shapes and the parts of `mnist`, ten kinds of clothes, from root/FashionMNIST/raw.

    Config:
        data: {_target_: modelfactory.data.fashion_mnist, input_shape: [1, 28, 28], num_classes: 10, root: data}
    """
    return _load("fashion_mnist", root, download, val_fraction, split_seed)


def cifar10(root: str = "data", download: bool = False, val_fraction: float | None = None, split_seed: int = 0) -> Data:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 training and 10,000 validation images [3, 32, 32] of 10 classes.

    Read from root/cifar-10-batches-bin, the authors' binary version. Each channel is standardised over the training part: rms 1. The parts
    are those of `mnist`.

    Raises:
        ConfigError: the files are not there and `download` is false, or they are not what was published.

    Config:
        data: {_target_: modelfactory.data.cifar10, input_shape: [3, 32, 32], num_classes: 10, root: data}
    """
    return _load("cifar10", root, download, val_fraction, split_seed)


def cifar100(root: str = "data", download: bool = False, val_fraction: float | None = None, split_seed: int = 0) -> Data:
    """CIFAR-100 (Krizhevsky, 2009): like `cifar10` with 100 (fine) classes, from root/cifar-100-binary.

    Config:
        data: {_target_: modelfactory.data.cifar100, input_shape: [3, 32, 32], num_classes: 100, root: data}
    """
    return _load("cifar100", root, download, val_fraction, split_seed)


def image_folder(
    root: str,
    transforms: Mapping[str, Any] | None = None,
    val_fraction: float | None = None,
    split_seed: int = 0,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    test_fraction: float | None = None,
) -> Data:
    """Images in one folder a class: root/train/CLASS/*.png, root/val/CLASS/*.png, maybe root/test/CLASS/*.png, read by DataLoader workers.

    Each image becomes a uint8 tensor [3, H, W], passes the declared torchvision v2 transforms of its part, and ends
    as float32 in 0..1, less `mean` and over `std` (a channel each; None: ImageNet's).

    Args:
        transforms: `train` and `val`, each a list (or a mapping of names) of `_target_` mappings. In a config the word
            `backbone` in place of either, or of both, is the preprocessing of the backbone's published weights, whole.
        val_fraction: where there is no root/val, the fraction of each class of root/train (or of root, where there
            is no root/train) that is held out; depends on `split_seed` alone.
        test_fraction: likewise for the test part; None: root/test where it has the same classes, else there is none.

    Raises:
        ConfigError: a missing folder, or classes of the parts that differ.

    Config:
        data:
          _target_: modelfactory.data.image_folder
          root: data/flowers
          input_shape: [3, 64, 64]
          num_classes: 5
          transforms:
            train: [{_target_: torchvision.transforms.v2.RandomResizedCrop, size: 64}]
            val: [{_target_: torchvision.transforms.v2.Resize, size: [64, 64]}]
    """
    from modelfactory.data.image_folder import load_folder

    return load_folder(
        Path(root), transforms or {}, (val_fraction, test_fraction), split_seed, (mean or IMAGENET_MEAN, std or IMAGENET_STD)
    )


def check_image_folder(arguments: Mapping[str, Any], path: str, problems: Problems) -> None:
    """Adds to `problems` missing folders and wrong transforms of an `image_folder` config."""
    from modelfactory.data.image_folder import check_folder, read_transforms

    check_folder(Path(arguments["root"]), (arguments.get("val_fraction"), arguments.get("test_fraction")), path, problems)
    for name in ("mean", "std"):
        values = arguments.get(name) or IMAGENET_STD
        if len(values) != 3 or name == "std" and min(values) <= 0:
            wanted = "three numbers, a channel each" + (", > 0" if name == "std" else "")
            problems.add(join(path, name), f"{list(values)} does not do; give {wanted}")
    read_transforms(arguments.get("transforms") or {}, join(path, "transforms"), problems)


def check_files(name: str, root: str, download: bool, path: str, problems: Problems) -> None:
    """Adds to `problems` the files of data set `name` that are not under `root`, unless they may be downloaded.

    Example:
        >>> problems = Problems()
        >>> check_files("mnist", "nowhere", False, "data", problems)
        >>> print(*problems)
        data.root: there is no folder nowhere/MNIST/raw; give the folder that holds it, or data.download=true to fetch it
    """
    folder = Path(root, _SOURCES[name].folder)
    missing = [file for file in _SOURCES[name].files if not (folder / file).is_file()]
    if not missing or download:
        return
    what = f"folder {folder}" if not folder.is_dir() else f"file {', '.join(missing)} in {folder}"
    pickled = Path(root, folder.name.replace("-bin", "-py").replace("binary", "python"))
    hint = f" ({pickled} holds pickles, which are never read)" if "cifar" in name and pickled.is_dir() else ""
    problems.add(
        join(path, "root"),
        f"there is no {what}{hint}; give the folder that holds it, or {path}.download=true to fetch it",
    )


def _load(name: str, root: str, download: bool, val_fraction: float | None, split_seed: int) -> Data:
    problems = Problems()
    check_files(name, root, download, "data", problems)
    problems.raise_if_any()
    source, folder = _SOURCES[name], Path(root, _SOURCES[name].folder)
    if not all((folder / file).is_file() for file in source.files):
        _download(name, source, Path(root))
    pairs = [_read_records(name, folder, part) for part in ("train", "val")]
    if val_fraction is not None:
        x, y = pairs[0]
        pairs[:1] = [(x[part], y[part]) for part in split_indices(len(y), val_fraction, split_seed, classes=y)]
    xs = standardise(*(x.float() for x, _ in pairs), dims=None if source.archive is None else (0, 2, 3))
    splits = [Split(x, y) for x, (_, y) in zip(xs, pairs, strict=True)]
    return data_of_splits(splits, "classification", source.num_classes, xs[0].shape[1:])


def _read_records(name: str, folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images [N, channels, H, W] uint8 and labels [N] int64 of a part (train or val) of a data set; reads no pickle.

    Raises:
        ConfigError: a file that does not hold the records that were published, with its name and how many it holds.
    """
    source = _SOURCES[name]
    files = tuple(folder / file for file in (source.train if part == "train" else source.val))
    count = source.records[part == "val"]
    if source.archive is not None:
        parts = [read_cifar(file, count, source.label_bytes) for file in files]
        x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    else:
        for file in files:
            if (archive := file.with_name(f"{file.name}.gz")).is_file():
                check_archive(file, archive, dict(_published(name).resources)[archive.name])
        x, y = read_idx(files[0], count, (28, 28)).unsqueeze(1), read_idx(files[1], count, ()).long()
    if int(y.max()) >= source.num_classes:
        file = files[int(y.argmax()) // count] if source.archive is not None else files[1]
        raise damaged(file, f"has the label {int(y.max())}, of {source.num_classes} classes")
    return x, y


def _published(name: str) -> Any:
    """Torchvision's class of a data set, which knows where its files are published and their checksums."""
    from torchvision import datasets

    return {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[name]


def _download(name: str, source: _Source, root: Path) -> None:
    """Fetches the files; torchvision checks each against its md5.

    Raises:
        ConfigError: one that cannot be had, with where it is published and where to put it.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    if source.archive is not None:
        wanted, folder = [(Path(source.archive[0]).name, source.archive[1])], root
        mirrors = [source.archive[0].rpartition("/")[0] + "/"]
    else:
        owner = _published(name)
        wanted, mirrors, folder = owner.resources, owner.mirrors, root / source.folder
    for file, md5 in wanted:
        errors = []
        for mirror in mirrors:
            try:
                download_and_extract_archive(mirror + file, str(folder), filename=file, md5=md5)
                break
            except (OSError, RuntimeError) as error:  # no answer; or it is not what was published
                errors.append(f"{mirror}{file} ({first_line(error)})")
        else:
            place = f"put the file at {folder / file}, whence data.download=true unpacks it"
            raise ConfigError([Problem("data.root", f"{file} cannot be fetched from {' or '.join(errors)}; {place}")])
