"""Fewer classes, and few samples of each."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import TensorDataset

from modelfactory.config.errors import ConfigError, Problems
from modelfactory.data import Split, build_data
from modelfactory.data.subset import Narrowed, narrow

DIGITS = {"_target_": "modelfactory.data.digits"}


def test_classes_are_counted_anew_and_nothing_else_changes():
    whole = build_data(DIGITS)
    some = build_data({**DIGITS, "classes": [7, 5], "num_classes": 2})
    for part in ("train", "val"):
        x, y = (getattr(getattr(whole, part), name) for name in "xy")
        kept = (y == 7) | (y == 5)
        assert torch.equal(getattr(some, part).x, x[kept]) and torch.equal(getattr(some, part).y, (y[kept] == 5).long())
    assert some.num_classes == 2


def test_few_samples_depend_on_the_seed_and_the_class_alone():
    def few(per_class, seed=0, classes=range(10)):
        return build_data({**DIGITS, "per_class": per_class, "seed": seed, "classes": list(classes)})

    def samples(data, label):
        return {tuple(x.flatten().tolist()) for x in data.train.x[data.train.y == label]}

    ten, twenty, other, fewer = few(10), few(20), few(10, seed=1), few(10, classes=[3, 4])
    assert torch.equal(ten.train.y.bincount(), torch.full((10,), 10)) and len(ten.val) == 359
    assert samples(ten, 3) < samples(twenty, 3) and samples(ten, 3) != samples(other, 3)
    assert samples(fewer, 0) == samples(ten, 3)


def test_a_dataset_on_disk_is_narrowed_alike():
    whole = build_data(DIGITS)
    on_disk = Split(dataset=TensorDataset(whole.train.x, whole.train.y))
    problems = Problems()
    some = narrow(replace(whole, train=on_disk), [1, 0], 5, 0, "data", problems)
    same = narrow(whole, [1, 0], 5, 0, "data", problems)
    assert isinstance(some.train.dataset, Narrowed) and not problems
    x, y = some.train.sample(10)
    assert torch.equal(x, same.train.x) and torch.equal(y, same.train.y)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classes": [10]}, "data.classes: 10 is no class; give some of 0 to 9"),
        ({"classes": [1, 1]}, r"data.classes: \[1, 1\] names a class twice"),
        ({"classes": []}, "data.classes: is empty"),
        ({"classes": 5}, "data.classes: 5 is a whole number; give a list of whole numbers, or null"),
        ({"per_class": 0}, "data.per_class: 0 is too small"),
        ({"per_class": 1000}, "data.per_class: 1000 is more than the 142 training samples that there are of class 0"),
        ({"classes": [1, 2], "num_classes": 10}, "data.num_classes: 10 is not what was loaded; give 2"),
        ({"_target_": "modelfactory.data.diabetes", "per_class": 3}, "data.per_class: 3 is of classes, and the data has values"),
    ],
)
def test_what_cannot_be_is_told(keys, message):
    with pytest.raises(ConfigError, match=message):
        build_data({**DIGITS, **keys})


V2 = "torchvision.transforms.v2."
LARGER = [{"_target_": V2 + "Resize", "size": [16, 16]}, {"_target_": V2 + "RGB"}]


def test_digits_pass_declared_transforms_once():
    data = build_data({**DIGITS, "transforms": {"train": LARGER, "val": LARGER}, "input_shape": [3, 16, 16]})
    assert data.train.x is not None and data.train.x.shape == (1438, 3, 16, 16) and data.val.x.shape == (359, 3, 16, 16)
    assert torch.equal(data.train.x[:, 0], data.train.x[:, 2]) and 0 <= data.train.x.min() < data.train.x.max() <= 1


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([{"_target_": V2 + "RandomHorizontalFlip"}], "data.transforms.train: draws at random"),
        ([LARGER[1], {"_target_": V2 + "Normalize", "mean": [0.5, 0.5], "std": [1.0, 1.0]}], "train: the digits, .* are refused"),
        ([{"_target_": V2 + "Resiz"}], "data.transforms.train.0._target_: .*did you mean"),
    ],
)
def test_a_transform_that_does_not_do_is_told(transforms, message):
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match=message):
        build_data({**DIGITS, "transforms": {"train": transforms}})
    assert torch.equal(before, torch.get_rng_state())
