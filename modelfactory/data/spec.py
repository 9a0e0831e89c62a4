"""The `data` group of a config: read, checked, and loaded by its `_target_`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from modelfactory.config import target
from modelfactory.config.errors import ConfigError, Problems, did_you_mean
from modelfactory.config.schema import join, key, read
from modelfactory.data.backbone_transforms import put_preprocessing, read_own_backbone
from modelfactory.data.byte_windows import byte_windows, check_bytes
from modelfactory.data.checked_samples import labels_outside
from modelfactory.data.dataset import IGNORED, PART_NAMES, Data
from modelfactory.data.digits import digits
from modelfactory.data.first_batch import known_targets
from modelfactory.data.image_folder import read_transforms
from modelfactory.data.linear_map import linear_map
from modelfactory.data.own_data import as_data, is_dataset
from modelfactory.data.subset import narrow
from modelfactory.data.synthetic import fake
from modelfactory.data.tabular import check_sklearn, diabetes, wine
from modelfactory.data.vision import check_files, check_image_folder, cifar10, cifar100, fashion_mnist, image_folder, mnist
from modelfactory.model.backbone.spec import KnownBackbone
from modelfactory.model.layers.sizes import check_input_shape


@dataclass(frozen=True)
class DataSpec:
    """The keys that every data set has.

    Attributes:
        input_shape: what one input is declared to be; checked against what was loaded.
        num_classes: classes, or values a sample in regression; checked against what was loaded.
        batch_size: samples a training batch.
        val_batch_size: samples a validation or test batch; null: `batch_size`.
        seed: decides the order of batches, the augmentation, and which samples `per_class` takes.
        num_workers: processes that load a data set on disk; unused by those in memory.
        drop_last: whether a last training batch that is smaller than `batch_size` is left out.
        classes: the classes to keep, of which `classes[i]` becomes class i; null: all.
        per_class: training samples of each class; null: all.
        input_dtype: float32, or int64 for indices such as an embedding takes; null: not declared.
    """

    input_shape: Any = None
    num_classes: int | None = key(None, min=1)
    batch_size: int = key(64, min=1)
    val_batch_size: int | None = key(None, min=1)
    seed: int = key(0, min=0)
    num_workers: int = key(0, min=0)
    drop_last: bool = False
    classes: tuple[int, ...] | None = None
    per_class: int | None = key(None, min=1)
    input_dtype: str | None = key(None, choices=("float32", "int64"))


@dataclass(frozen=True)
class DataSource:
    """A data set that is not loaded yet: its function and arguments, and the keys that every data set has.

    Attributes:
        path: of the group, for what is wrong with it.
    """

    keys: DataSpec
    factory: Callable[..., Any]
    arguments: Mapping[str, Any]
    path: str = "data"


FACTORIES = (digits, wine, diabetes, fake, linear_map, mnist, fashion_mnist, cifar10, cifar100, image_folder, byte_windows)


log = logging.getLogger(__name__)
_COMMON = frozenset(field.name for field in fields(DataSpec))


RANGES: dict[str, dict[str, float]] = {
    "val_fraction": {"above": 0, "max": 0.9},
    "test_fraction": {"above": 0, "max": 0.9},
    "split_seed": {"min": 0},
    "sample_seed": {"min": 0},
    "num_samples": {"min": 1},
    "num_val_samples": {"min": 1},
    "num_test_samples": {"min": 1},
    "noise": {"min": 0},
    "image_size": {"min": 1},
    "context": {"min": 1},
    "stride": {"min": 1},
}


def read_data(mapping: Any, problems: Problems, path: str = "data", backbone: KnownBackbone = None) -> DataSource | None:
    """The `data` group of a config, or None after adding to `problems` all that is wrong; loads nothing.

    Checks the target, its arguments, and that the files it needs are there.

    Args:
        backbone: what the config says of it, whose preprocessing `transforms: backbone` takes; BROKEN where that is wrong.

    Example:
        >>> problems = Problems()
        >>> read_data({"_target_": "modelfactory.data.digits", "batch_size": 0}, problems)
        >>> print(*problems)
        data.batch_size: 0 is too small; give a whole number >= 1
    """
    found = len(problems)
    if not isinstance(mapping, Mapping):
        problems.add(path, f"{mapping!r} is not a mapping; give _target_, such as modelfactory.data.digits")
        return None
    name, given = target.split(put_preprocessing(mapping, backbone, problems, path))
    spec = read(DataSpec, {name: value for name, value in given.items() if name in _COMMON}, path, problems)
    if given.get("input_shape") is not None:
        shape = check_input_shape(given["input_shape"], join(path, "input_shape"), problems)
        spec = replace(spec, input_shape=shape) if spec is not None else None
    factory = find_factory(name, join(path, "_target_"), problems)
    if factory is None:
        return None
    takes = inspect.signature(factory).parameters
    unasked = {name for name in RANGES if given.get(name) is None}  # null asks for nothing, which a function of one's own need not know
    arguments = {name: value for name, value in given.items() if name in takes or name not in _COMMON | unasked}
    limits = RANGES if _is_ours(factory) else {}
    checked = target.check_arguments(factory, arguments, path, problems, limits=limits, also=sorted(_COMMON))
    if checked is not None:
        _check_needs(factory, checked, problems, path)
    return DataSource(spec, factory, checked, path) if spec is not None and checked is not None and len(problems) == found else None


def check_data(mapping: Any, problems: Problems, path: str = "data", backbone: Any = None) -> DataSpec | None:
    """The common keys of a `data` group, or None after adding to `problems` all that is wrong; loads nothing.

    Args:
        backbone: the `backbone` group, whose preprocessing `transforms: backbone` takes.

    Example:
        >>> check_data({"_target_": "modelfactory.data.digits", "batch_size": 32}, Problems()).batch_size
        32
    """
    source = read_data(mapping, problems, path, read_own_backbone(mapping, backbone, Problems()))
    return None if source is None else source.keys


def build_data(mapping: Mapping[str, Any], path: str = "data", backbone: Any = None, ignored: int = IGNORED) -> Data:
    """Reads a `data` group and loads its data set.

    Args:
        backbone: the `backbone` group, whose preprocessing `transforms: backbone` takes.
        ignored: the class that the loss ignores: the only target that may be none of the classes.

    Raises:
        ConfigError: what `check_data` says, or `input_shape` or `num_classes` are not those of what was loaded.

    Example:
        >>> data = build_data({"_target_": "modelfactory.data.digits", "batch_size": 32})
        >>> len(data.train), len(data.val), data.input_shape, data.batch_size
        (1438, 359, (1, 8, 8), 32)
    """
    problems = Problems()
    source = read_data(mapping, problems, path, read_own_backbone(mapping, backbone, problems))
    if source is None or problems:
        raise ConfigError(problems)
    return load_source(source, ignored)


def load_source(source: DataSource, ignored: int = IGNORED) -> Data:
    """Loads a data set.

    Args:
        ignored: the class that the loss ignores: the only target that may be none of the classes.

    Raises:
        ConfigError: `input_shape` or `num_classes` are not those of what was loaded.

    Example:
        >>> len(load_source(DataSource(DataSpec(), digits, {})).train)
        1438
    """
    spec, path, problems = source.keys, source.path, Problems()
    made = source.factory(**source.arguments)
    if _is_ours(source.factory):
        data = made
    else:
        data = as_data(made, spec.num_classes if spec.classes is None else None, path, ignored)
    theirs = inspect.signature(source.factory).parameters
    classes, per_class = (None if name in theirs else getattr(spec, name) for name in ("classes", "per_class"))
    data = narrow(data, classes, per_class, spec.seed, path, problems)
    return _as_declared(data, spec, path, problems, ignored)


def data_of(
    train: Any, val: Any, keys: Mapping[str, Any] | None = None, path: str = "data", ignored: int = IGNORED, test: Any = None
) -> Data:
    """Make the data of a training from what a program has in its hands.

    Args:
        train: samples to train on: a pair of tensors (inputs, targets), a torch data set of such pairs, or a DataLoader, of which the data
            set and the batch size are taken.
        val: samples to validate on, likewise.
        test: samples to measure the best epoch on, likewise; None: there are none.
        keys: those that every `data` group has, such as `batch_size`, `seed` and `num_classes`.

    Raises:
        ConfigError: none of these, a part without samples, parts that do not go together, or keys that are wrong.

    Example:
        >>> import torch
        >>> data = data_of((torch.zeros(5, 3), torch.tensor([0, 1, 1, 0, 1])), (torch.zeros(2, 3), torch.tensor([1, 0])))
        >>> data.task, data.num_classes, data.input_shape
        ('classification', 2, (3,))
    """
    from torch.utils.data import DataLoader, TensorDataset

    problems = Problems()
    given = {name: part for name, part in (("train", train), ("val", val), ("test", test)) if name != "test" or part is not None}
    loaders = [part for part in (train, val) if isinstance(part, DataLoader)]
    sizes = {name: loader.batch_size for name, loader in zip(("batch_size", "val_batch_size"), loaders, strict=False) if loader.batch_size}
    spec = read(DataSpec, {**sizes, **(keys or {})}, path, problems)
    if spec is None:
        raise ConfigError(problems)
    parts = [part.dataset if isinstance(part, DataLoader) else part for part in given.values()]
    sets = tuple(TensorDataset(*part) if isinstance(part, tuple) and len(part) == 2 else part for part in parts)
    for name, part in zip(given, sets, strict=True):
        if not is_dataset(part):
            problems.add(name, f"{type(part).__name__} is no data; give (inputs, targets), a torch data set with a length, or a DataLoader")
    problems.raise_if_any()
    return _as_declared(as_data(sets, spec.num_classes, path, ignored), spec, path, problems, ignored)


def _as_declared(data: Data, spec: DataSpec, path: str, problems: Problems, ignored: int) -> Data:
    """The data with the keys that are common to all, checked against them."""
    _check_loaded(data, spec, path, problems, ignored)
    problems.raise_if_any()
    for warning in data.warnings:
        log.warning(warning)
    names = ("batch_size", "val_batch_size", "seed", "num_workers", "drop_last")
    return replace(data, **{name: getattr(spec, name) for name in names})


def find_factory(name: Any, path: str, problems: Problems) -> Callable[..., Any] | None:
    """Find the function that a `_target_` of `data` names, or None after adding to `problems` why it may not be one.

    Example:
        >>> find_factory("modelfactory.data.digits", "data._target_", Problems()) is digits
        True
    """
    factory = target.resolve(name, path, problems, kind="data")
    if factory is None or not _is_ours(factory) or factory in FACTORIES:
        return factory
    hint = did_you_mean(factory.__name__, [ours.__name__ for ours in FACTORIES])
    problems.add(path, f"{name!r} is not a data set{hint}")
    return None


def _is_ours(factory: Callable[..., Any]) -> bool:
    return factory.__module__.startswith("modelfactory.data.")


def _check_needs(factory: Callable[..., Any], arguments: Mapping[str, Any], problems: Problems, path: str) -> None:
    """Says what the factory needs and is not there, and which fractions leave nothing."""
    fractions = [arguments.get(name) or 0 for name in ("val_fraction", "test_fraction")] if _is_ours(factory) else []
    if sum(fractions) > RANGES["val_fraction"]["max"]:
        what = f"with {join(path, 'val_fraction')}={fractions[0]} less than a tenth is left to train on; give a smaller one"
        problems.add(join(path, "test_fraction"), f"{fractions[1]} is too large: {what}")
    if factory in (digits, wine, diabetes):
        check_sklearn(join(path, "_target_"), problems)
        if arguments.get("transforms") is not None:
            read_transforms(arguments["transforms"], join(path, "transforms"), problems)
    elif factory in (mnist, fashion_mnist, cifar10, cifar100):
        check_files(factory.__name__, arguments.get("root", "data"), arguments.get("download", False), path, problems)
    elif factory is image_folder:
        check_image_folder(arguments, path, problems)
    elif factory is byte_windows:
        check_bytes(arguments, problems, path)


def _check_loaded(data: Data, spec: DataSpec, path: str, problems: Problems, ignored: int) -> None:
    empty = [name for name, split in data.parts.items() if len(split) == 0]
    for name in empty:
        fix = "; give more samples" if name == "train" else f"; give a larger {path}.{name}_fraction, or more samples"
        problems.add(path, f"the {PART_NAMES[name]} part has no samples{fix}")
    if empty:
        return
    if spec.input_shape is not None and spec.input_shape != tuple(data.input_shape):
        problems.add(join(path, "input_shape"), f"{list(spec.input_shape)} is not what was loaded; give {list(data.input_shape)}")
    if spec.input_dtype is not None and (loaded := str(data.train.sample(1)[0].dtype).removeprefix("torch.")) != spec.input_dtype:
        problems.add(join(path, "input_dtype"), f"{spec.input_dtype!r} is not what was loaded, which is {loaded}")
    if spec.num_classes is not None and spec.num_classes != data.num_classes:
        what = "classes" if data.task == "classification" else "values a sample"
        problems.add(join(path, "num_classes"), f"{spec.num_classes} is not what was loaded; give {data.num_classes} ({what})")
    if spec.drop_last and len(data.train) < spec.batch_size:
        why = f"{spec.batch_size} is more than the {len(data.train)} training samples"
        problems.add(join(path, "batch_size"), f"{why}, and drop_last leaves smaller batches out; give fewer")
    ys = {name: split.sample(1)[1] for name, split in data.parts.items()}
    kinds = {name: (y.is_floating_point(), y.ndim) for name, y in ys.items()}
    other = next((name for name, kind in kinds.items() if kind != kinds["train"]), None)
    if other is not None:
        told = {name: f"{'floats' if y.is_floating_point() else 'classes'} of shape {list(y.shape[1:])}" for name, y in ys.items()}
        message = f"the training targets are {told['train']}, and the {PART_NAMES[other]} targets {told[other]}"
        problems.add(path, f"{message}; they have to be of one kind")
        return
    for name, split in data.parts.items():
        labels = split.y if split.y is not None else known_targets(split.dataset)
        if data.task != "classification" or labels is None or labels_outside(labels, data.num_classes, ignored) is None:
            continue
        counted = labels[labels != ignored]
        low, high = int(counted.min()), int(counted.max())
        fix = f"classes go from 0 to {data.num_classes - 1}" if low < 0 else f"give {high + 1}, or correct them"
        message = f"{data.num_classes} is too small: the {PART_NAMES[name]} targets go from {low} to {high}; {fix}"
        problems.add(join(path, "num_classes"), message)
