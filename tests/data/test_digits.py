import math

import pytest
import torch

from modelfactory.data import build_data

DIGITS = {"_target_": "modelfactory.data.digits", "input_shape": [1, 8, 8], "num_classes": 10}


def test_digits_are_the_real_ones():
    from sklearn.datasets import load_digits

    data = build_data(DIGITS)
    assert data.train.x is not None and data.val.x is not None and data.train.y is not None and data.val.y is not None
    ours = torch.cat([data.train.x, data.val.x]).flatten(1)
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    assert len(ours) == len(images) == 1797
    scale = (images.max() - images.min()) / (ours.max() - ours.min())
    restored = ((ours - ours.min()) * scale).round().long()
    mine = {(*row.tolist(), int(label)) for row, label in zip(restored, torch.cat([data.train.y, data.val.y]), strict=True)}
    assert mine == {(*row.long().tolist(), int(label)) for row, label in zip(images, labels, strict=True)}


def test_inputs_have_mean_0_and_rms_1():
    x = build_data(DIGITS).train.x
    assert x is not None and x.dtype == torch.float32 and x.shape[1:] == (1, 8, 8)
    assert abs(x.mean()) < 1e-6 and abs(x.square().mean() - 1) < 1e-5


def test_the_validation_part_is_stratified():
    data = build_data(DIGITS)
    assert data.train.y is not None and data.val.y is not None
    for label in range(10):
        held, kept = int((data.val.y == label).sum()), int((data.train.y == label).sum())
        assert abs(held - 0.2 * (held + kept)) <= 0.5


def test_the_seed_of_batches_does_not_change_the_validation_part():
    first, other, split = (build_data({**DIGITS, **keys}) for keys in ({"seed": 0}, {"seed": 7}, {"split_seed": 1}))
    assert first.val.x is not None and other.val.x is not None and split.val.x is not None
    assert torch.equal(first.val.x, other.val.x) and (first.seed, other.seed) == (0, 7)
    assert not torch.equal(first.val.x, split.val.x)


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_val_fraction_decides_the_size(fraction):
    held = len(build_data({**DIGITS, "val_fraction": fraction}).val)
    assert math.isclose(held, 1797 * fraction, abs_tol=5.1)  # at most half a sample a class
