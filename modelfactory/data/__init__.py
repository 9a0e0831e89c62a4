"""Data sets by `_target_`: each factory here, and any trusted one, gives a training and a validation split, and maybe a test split.

The keys `batch_size`, `val_batch_size`, `seed`, `num_workers`, `input_shape`, `num_classes`, `classes` and `per_class` are common to all;
the other keys of the `data` group are the factory's own arguments.
"""

from modelfactory.data.batches import make_batches
from modelfactory.data.byte_windows import byte_windows
from modelfactory.data.dataset import Data, Split
from modelfactory.data.digits import digits
from modelfactory.data.linear_map import linear_map
from modelfactory.data.spec import build_data, check_data
from modelfactory.data.synthetic import fake
from modelfactory.data.tabular import diabetes, wine
from modelfactory.data.vision import cifar10, cifar100, fashion_mnist, image_folder, mnist

__all__ = [
    "Data",
    "Split",
    "build_data",
    "byte_windows",
    "check_data",
    "cifar10",
    "cifar100",
    "diabetes",
    "digits",
    "fake",
    "fashion_mnist",
    "image_folder",
    "linear_map",
    "make_batches",
    "mnist",
    "wine",
]
