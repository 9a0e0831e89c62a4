"""scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels, installed with scikit-learn."""

from __future__ import annotations

from modelfactory.data.sets import Data, Split, split_indices, standardise
from modelfactory.data.tabular import read_table


def digits(val_fraction: float = 0.2, split_seed: int = 0) -> Data:
    """UCI's test set of handwritten digits (Alpaydin and Kaynak, 1998) as scikit-learn ships it.

    Inputs [N, 1, 8, 8], of 0..16 standardised with one mean and std over all pixels of the training part, so that
    their rms is 1; targets [N] in 0..9. The validation part is `val_fraction` of each class and depends on
    `split_seed` alone. scikit-learn's file is read without importing scikit-learn.

    Raises:
        ConfigError: scikit-learn is not installed.

    Config:
        data: {_target_: modelfactory.data.digits, input_shape: [1, 8, 8], num_classes: 10, batch_size: 64}
    """
    table = read_table("digits.csv.gz")
    x, y = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].long()
    train, val = split_indices(len(y), val_fraction, split_seed, classes=y)
    x_train, x_val = standardise(x[train], x[val])
    return Data(Split(x_train, y[train]), Split(x_val, y[val]), "classification", 10, (1, 8, 8))
