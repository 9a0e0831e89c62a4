"""Samples on disk: drawn by (seed, epoch, index) alone, whichever generator and however many workers draw them."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from modelfactory.config.errors import ConfigError, Problem
from modelfactory.data import Split, make_batches
from modelfactory.data.determinism import is_repeatable
from modelfactory.data.samples import collate

CPU = torch.device("cpu")


class Transform:
    """Keeps a generator of its own, as many transforms do."""

    def __init__(self, generator):
        self.generator = generator

    def __call__(self):
        draw = self.generator
        if isinstance(draw, torch.Generator):
            return torch.rand((), generator=draw).item()
        return draw.random() if hasattr(draw, "random") else draw.rand()


class Draws(Dataset):
    """Sample i is (i, a number drawn in one of the ways that data sets draw)."""

    def __init__(self, how):
        self.how = how
        own = {"numpy generator": np.random.default_rng(), "RandomState": np.random.RandomState(), "Random": random.Random()}
        own["torch generator"] = torch.Generator()
        own["a transform's"] = np.random.default_rng()
        self.transforms = [Transform(own[how])] if how in own else []

    def __len__(self):
        return 11

    def __getitem__(self, index):
        ways = {"numpy": np.random.rand, "torch": lambda: torch.rand(()).item(), "random": random.random}
        ways["unseeded"] = lambda: np.random.default_rng().random()
        draw = self.transforms[0] if self.transforms else ways[self.how]
        return torch.tensor([float(index), draw()]), index


KEYED = ["numpy", "torch", "random", "numpy generator", "RandomState", "Random", "torch generator", "a transform's"]


def drawn(how, workers=0, epochs=(1, 2)):
    batches = make_batches(Split(dataset=Draws(how)), 4, CPU, seed=5, num_workers=workers)
    return [torch.cat([x for x, _ in batches.epoch(epoch)]) for epoch in epochs]


@pytest.mark.parametrize("how", KEYED)
def test_a_sample_depends_on_seed_epoch_and_index_alone(how):
    first, second = drawn(how)
    assert torch.equal(first, drawn(how)[0]) and torch.equal(second, drawn(how, epochs=(2,))[0])
    by_index = [part[part[:, 0].argsort()][:, 1] for part in (first, second)]
    assert len(set(by_index[0].tolist())) == 11 and not (by_index[0] == by_index[1]).any()


@pytest.mark.parametrize("how", ["numpy", "numpy generator"])
def test_workers_neither_repeat_each_other_nor_change_the_numbers(how):
    alone, two = drawn(how), drawn(how, workers=2)
    assert all(torch.equal(one, other) for one, other in zip(alone, two, strict=True))


def test_reading_leaves_every_generator_as_it_was():
    dataset = Draws("numpy generator")
    own = dataset.transforms[0].generator
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), own.bit_generator.state
    batches = make_batches(Split(dataset=dataset), 4, CPU, seed=0)
    list(batches.epoch(1))
    Split(dataset=dataset).sample(3)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), own.bit_generator.state
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


@pytest.mark.parametrize("how", KEYED)
def test_the_first_samples_are_the_same_each_time(how):
    split = Split(dataset=Draws(how))
    assert torch.equal(split.sample(3)[0], split.sample(3)[0])


@pytest.mark.parametrize("how", [*KEYED, "unseeded"])
def test_what_cannot_be_seeded_is_told(how):
    assert is_repeatable(Draws(how)) == (how != "unseeded")


def test_nan_is_the_same_as_nan():
    assert is_repeatable([(torch.tensor([float("nan"), 1.0]), 1)])


class Uneven(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 4:
            raise ConfigError([Problem("data.root", "file 4 is broken")])
        return torch.zeros(3 if index == 2 else 2), 0


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("indices", "message"),
    [([0, 1, 4], "data.root: file 4 is broken"), ([0, 1, 2], r"the input of sample 0 is \[2\], that of sample 2 is \[3\]; all of a batch")],
)
def test_what_cannot_be_read_is_the_same_error_from_any_worker(workers, indices, message):
    dataset = torch.utils.data.Subset(Uneven(), indices)
    with pytest.raises(ConfigError, match=message):
        list(make_batches(Split(dataset=dataset), 3, CPU, num_workers=workers).epoch(1))


def test_targets_of_unequal_shape_are_named():
    error = collate([(0, (torch.zeros(2), torch.zeros(1))), (9, (torch.zeros(2), torch.zeros(2)))], name="image {}".format)
    assert "the target of image 0 is [1], that of image 9 is [2]" in str(error)
