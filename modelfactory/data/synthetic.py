"""Random samples with a rule that can be learnt, of any shape, for trying a model out."""

from __future__ import annotations

import torch

from modelfactory.data.dataset import Data, Split, data_of_splits
from modelfactory.numerics.rng import generator


def fake(
    input_shape: tuple[int, ...] = (3, 32, 32),
    num_classes: int = 10,
    num_samples: int = 512,
    num_val_samples: int = 128,
    noise: float = 0.5,
    sample_seed: int = 0,
    num_test_samples: int | None = None,
) -> Data:
    """`num_classes` random prototypes, each sample one of them plus noise; the samples depend on `sample_seed` alone.

    An input [*input_shape] of class c is (prototype_c + noise * e) / sqrt(1 + noise^2), prototypes and e standard
    normal: rms 1 in expectation. Targets [N] are drawn uniformly from the classes.

    Config:
        data: {_target_: modelfactory.data.fake, input_shape: [3, 32, 32], num_classes: 10, num_samples: 512}
    """
    shape = tuple(input_shape)
    prototypes = torch.randn(num_classes, *shape, generator=generator(sample_seed, "data.fake.prototypes"))

    def draw(size: int, name: str) -> Split:
        source = generator(sample_seed, f"data.fake.{name}")
        y = torch.randint(num_classes, (size,), generator=source)
        x = prototypes[y].add_(torch.randn(size, *shape, generator=source), alpha=noise)
        return Split(x.div_((1 + noise**2) ** 0.5), y)

    sizes = {"train": num_samples, "val": num_val_samples, "test": num_test_samples}
    splits = [draw(size, name) for name, size in sizes.items() if size is not None]
    return data_of_splits(splits, "classification", num_classes, shape)
