"""White inputs and a linear map of them: what a deep linear net can learn to the last digit."""

from __future__ import annotations

import math

import torch

from modelfactory.data.dataset import Data, Split, data_of_splits
from modelfactory.init.schemes.structured import orthogonal_
from modelfactory.numerics.rng import generator


def linear_map(
    input_shape: tuple[int, ...] = (64,),
    num_classes: int = 10,
    num_samples: int = 512,
    num_val_samples: int = 128,
    sample_seed: int = 0,
    num_test_samples: int | None = None,
) -> Data:
    """White inputs, and targets that are a random semi-orthogonal map of them; all of it depends on `sample_seed` alone.

    Inputs [N, n] have X^T X = N I to rounding, if there are at least n of them. Targets [N, num_classes] are X R^T with
    R R^T = I (if num_classes <= n), so that their mean square, the loss of a model that says 0, is 1.

    Source: the setting of Saxe, McClelland & Ganguli 2014, in which a linear net's learning can be solved.

    Config:
        data: {_target_: modelfactory.data.linear_map, input_shape: [64], num_classes: 10, batch_size: 512}
    """
    size = math.prod(input_shape)
    truth = orthogonal_(torch.empty(num_classes, size), generator=generator(sample_seed, "data.linear_map.truth"))

    def draw(count: int, name: str) -> Split:
        x = orthogonal_(torch.empty(count, size), math.sqrt(count), generator=generator(sample_seed, f"data.linear_map.{name}"))
        return Split(x.reshape(count, *input_shape), x @ truth.T)

    sizes = {"train": num_samples, "val": num_val_samples, "test": num_test_samples}
    splits = [draw(size, name) for name, size in sizes.items() if size is not None]
    return data_of_splits(splits, "regression", num_classes, input_shape)
