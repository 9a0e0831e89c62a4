"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels, installed with scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modelfactory.config.errors import ConfigError, Problem, Problems, first_line
from modelfactory.data.dataset import Data, Split, data_of_splits, split_indices, standardise
from modelfactory.data.tabular import read_table


def digits(
    val_fraction: float = 0.2,
    split_seed: int = 0,
    transforms: Mapping[str, Any] | None = None,
    test_fraction: float | None = None,
) -> Data:
    """UCI's test set of handwritten digits (Alpaydin and Kaynak, 1998) as scikit-learn ships it.

    Inputs [N, 1, 8, 8], of 0..16 standardised with one mean and std over all pixels of the training part, so that
    their rms is 1; targets [N] in 0..9. The validation part is `val_fraction` of each class and depends on
    `split_seed` alone. scikit-learn's file is read without importing scikit-learn.

    Args:
        test_fraction: of each class, held out besides, for the test part; None: there is none.
        transforms: as for `image_folder`, `train` and `val`, each a list (or a mapping of names) of `_target_` mappings. They
            are applied once, to all images of the part as floats in 0..1, in place of the standardisation; those of `val` to the test part.

    Raises:
        ConfigError: scikit-learn is not installed; a transform draws, or refuses the images.

    Config:
        data: {_target_: modelfactory.data.digits, input_shape: [1, 8, 8], num_classes: 10, batch_size: 64}
    """
    table = read_table("digits.csv.gz")
    x, y = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].long()
    parts = split_indices(len(y), val_fraction, split_seed, y, test_fraction)
    if transforms is None:
        xs = standardise(*(x[part] for part in parts))
    else:
        xs = [_transformed(x[part] / 16, transforms, "val" if index else "train") for index, part in enumerate(parts)]
    splits = [Split(x_part, y[part]) for x_part, part in zip(xs, parts, strict=True)]
    return data_of_splits(splits, "classification", 10, xs[0].shape[1:])


def _transformed(x: Tensor, transforms: Mapping[str, Any], part: str) -> Tensor:
    from modelfactory.data.image_folder import read_transforms

    problems = Problems()
    steps = read_transforms(transforms, "data.transforms", problems)[part]
    problems.raise_if_any()
    state, path = torch.get_rng_state(), f"data.transforms.{part}"
    try:
        for step in steps:
            x = step(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError([Problem(path, f"the digits, {list(x.shape)}, are refused: {first_line(error)}")]) from error
    if not torch.equal(state, torch.get_rng_state()):
        torch.set_rng_state(state)
        raise ConfigError([Problem(path, "draws at random, and would once only, for data in memory; take it away, or use image_folder")])
    return x
