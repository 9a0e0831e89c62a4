"""Small real tables that scikit-learn ships, read from its files without importing it."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.data.dataset import Data, Split, data_of_splits, split_indices, standardise


def wine(val_fraction: float = 0.2, split_seed: int = 0, test_fraction: float | None = None) -> Data:
    """Chemical analyses of 178 Italian wines of three growers (Forina et al., 1991): 13 features, 3 classes.

    Each feature is standardised over the training part, so that the rms of the inputs [N, 13] is 1; targets [N].
    The validation part is `val_fraction` of each class, the test part, if any, `test_fraction`; both depend on `split_seed` alone.

    Raises:
        ConfigError: scikit-learn is not installed.

    Config:
        data: {_target_: modelfactory.data.wine, input_shape: [13], num_classes: 3, batch_size: 32}
    """
    table = read_table("wine_data.csv", skip=1)
    x, y = table[:, :-1], table[:, -1].long()
    parts = split_indices(len(y), val_fraction, split_seed, y, test_fraction)
    xs = standardise(*(x[part] for part in parts), dims=(0,))
    splits = [Split(x_part, y[part]) for x_part, part in zip(xs, parts, strict=True)]
    return data_of_splits(splits, "classification", 3, (13,))


def diabetes(val_fraction: float = 0.2, split_seed: int = 0, test_fraction: float | None = None) -> Data:
    """Disease progression of 442 diabetes patients (Efron et al., 2004): 10 features, one value.

    Features and target are standardised over the training part, so that the rms of the inputs [N, 10] is 1 and the
    mean squared error of the best constant, over the targets [N, 1], is 1.
    Parts are held out as those of `wine`, regardless of classes.

    Raises:
        ConfigError: scikit-learn is not installed.

    Config:
        data: {_target_: modelfactory.data.diabetes, input_shape: [10], num_classes: 1, batch_size: 32}
    """
    x, y = read_table("diabetes_data_raw.csv.gz"), read_table("diabetes_target.csv.gz")
    parts = split_indices(len(y), val_fraction, split_seed, test_fraction=test_fraction)
    xs, ys = (standardise(*(whole[part] for part in parts), dims=(0,)) for whole in (x, y))
    return data_of_splits([Split(*pair) for pair in zip(xs, ys, strict=True)], "regression", 1, (10,))


def check_sklearn(path: str, problems: Problems) -> Path | None:
    """The folder of scikit-learn's data files, or None after adding to `problems` that it is not installed."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        problems.add(path, "its file comes with scikit-learn, which is not installed; run: pip install scikit-learn")
        return None
    return Path(spec.submodule_search_locations[0], "datasets", "data")


def read_table(name: str, skip: int = 0) -> Tensor:
    """The numbers of one of scikit-learn's data files, rows x columns, float32; `skip` lines are left out on top.

    Raises:
        ConfigError: scikit-learn is not installed, or has no such file.
    """
    problems = Problems()
    folder = check_sklearn("data._target_", problems)
    if folder is None:
        raise ConfigError(problems)
    file = folder / name
    if not file.is_file():
        raise ConfigError(
            [Problem("data._target_", f"the installed scikit-learn has no file {file}; install scikit-learn >= 1.1")]
        )
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        rows = lines.read().splitlines()[skip:]
    numbers = np.array(",".join(rows).replace(" ", ",").split(","), dtype=np.float64)
    return torch.from_numpy(numbers.astype(np.float32)).reshape(len(rows), -1)
