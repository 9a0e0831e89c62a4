import pytest
import torch
from torch.utils.data import Dataset

from modelfactory.data import Split, make_batches
from modelfactory.data.batches import BatchPart, LoaderBatches, MemoryBatches

CPU = torch.device("cpu")


class Noisy(Dataset):
    """Sample i is (i, a random number)."""

    def __len__(self):
        return 11

    def __getitem__(self, index):
        return torch.tensor([float(index), torch.rand(()).item()]), index


class Takes(Noisy):
    """Gives many samples at once."""

    def take(self, indices):
        return indices.float()[:, None], indices


def memory(size=11):
    return Split(torch.arange(size).float()[:, None], torch.arange(size))


def order(batches, epoch):
    return [int(label) for _, y in batches.epoch(epoch) for label in y]


@pytest.mark.parametrize("split", [memory(), Split(dataset=Noisy())], ids=["memory", "disk"])
def test_an_epoch_is_every_sample_once_with_the_last_partial_batch(split):
    batches = make_batches(split, 4, CPU, seed=0)
    assert [len(y) for _, y in batches.epoch(1)] == [4, 4, 3] and len(batches) == 3
    assert sorted(order(batches, 1)) == list(range(11))
    assert all(int(x[0]) == int(y) for xs, ys in batches.epoch(1) for x, y in zip(xs, ys, strict=True))


@pytest.mark.parametrize("split", [memory(), Split(dataset=Noisy())], ids=["memory", "disk"])
def test_the_order_depends_on_seed_and_epoch_alone(split):
    torch.manual_seed(0)
    first = order(make_batches(split, 4, CPU, seed=3), 2)
    torch.manual_seed(1)
    batches = make_batches(split, 5, CPU, seed=3)
    order(batches, 1)
    assert order(batches, 2) == first
    assert order(batches, 3) != first and order(make_batches(split, 4, CPU, seed=4), 2) != first


@pytest.mark.parametrize("split", [memory(), Split(dataset=Noisy()), Split(dataset=Takes())], ids=["memory", "disk", "taken"])
@pytest.mark.parametrize("part", [BatchPart(), BatchPart(1, 4)], ids=["whole", "a part"])
def test_what_is_skipped_of_an_epoch_changes_nothing_of_the_rest(split, part):
    batches = make_batches(split, 4, CPU, seed=0, part=part)
    whole = list(batches.epoch(2))
    for skipped in range(len(batches)):
        rest = list(batches.epoch(2, skipped))
        assert [y.tolist() for _, y in rest] == [y.tolist() for _, y in whole[skipped:]]
        assert all(torch.equal(x, expected) for (x, _), (expected, _) in zip(rest, whole[skipped:], strict=True))


def test_memory_and_disk_have_the_same_order():
    assert order(make_batches(memory(), 4, CPU, seed=3), 2) == order(make_batches(Split(dataset=Noisy()), 4, CPU, seed=3), 2)


@pytest.mark.parametrize("split", [memory(), Split(dataset=Noisy())], ids=["memory", "disk"])
def test_without_a_seed_the_order_is_that_of_the_split(split):
    batches = make_batches(split, 4, CPU)
    assert order(batches, 1) == order(batches, 2) == list(range(11))


def test_chunks_give_the_batches_of_one_gather(monkeypatch):
    whole = order(make_batches(memory(), 4, CPU, seed=0), 1)
    monkeypatch.setattr("modelfactory.data.batches._GATHERED_BYTES", 20)
    batches = make_batches(memory(), 4, CPU, seed=0)
    assert isinstance(batches, MemoryBatches) and batches._chunk == 4
    assert order(batches, 1) == whole and [len(y) for _, y in batches.epoch(1)] == [4, 4, 3]


def test_there_are_no_more_workers_than_cores(monkeypatch):
    monkeypatch.setattr("modelfactory.data.batches.num_cores", lambda: 1)
    for asked, made in ((0, 0), (1, 1), (64, 1)):
        assert make_batches(Split(dataset=Noisy()), 4, CPU, num_workers=asked)._loader.num_workers == made


def test_augmentation_depends_on_seed_epoch_and_index_whatever_the_workers():
    def draws(workers, epochs):
        batches = make_batches(Split(dataset=Noisy()), 4, CPU, seed=0, num_workers=workers)
        assert isinstance(batches, LoaderBatches)
        return [torch.cat([x for x, _ in batches.epoch(epoch)]) for epoch in epochs]

    torch.manual_seed(0)
    alone, in_workers, resumed = draws(0, [1, 2]), draws(2, [1, 2]), draws(2, [2])
    assert torch.equal(alone[0], in_workers[0]) and torch.equal(alone[1], in_workers[1])
    assert torch.equal(alone[1], resumed[0])
    assert not torch.equal(alone[0].sort(0).values, alone[1].sort(0).values)


def test_loading_leaves_the_global_random_state():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    order(make_batches(Split(dataset=Noisy()), 4, CPU, seed=0), 1)
    order(make_batches(memory(), 4, CPU, seed=0), 1)
    assert torch.equal(torch.get_rng_state(), before)
