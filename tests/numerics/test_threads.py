"""Factorised values are the same however many threads there are, inside the process or at work on them."""

import threading

import pytest
import torch
from torch import nn

from modelfactory.init.schemes.table import SCHEMES
from modelfactory.numerics import threads
from modelfactory.numerics.rng import generator

CASES = [
    ("orthogonal", (96, 64)),
    ("orthogonal", (40, 30, 3)),
    ("delta_orthogonal", (64, 48, 3)),
]  # up to 32 columns it never shows


@pytest.fixture
def set_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return SCHEMES[name].fill(torch.empty(shape), generator=generator(0, "w"))


@pytest.mark.parametrize("setter", [threads._mkl_setter(), None], ids=["library", "torch"])
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_the_number_of_threads_changes_no_bit(name, shape, setter, set_threads, monkeypatch):
    monkeypatch.setattr(threads, "_mkl_setter", lambda: setter)
    found = []
    for number in (1, 2, 3):
        set_threads(number)
        found.append(draw(name, shape))
        assert torch.get_num_threads() == number
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_threads_that_draw_at_once_draw_the_same():
    expected, found = draw("orthogonal", (96, 64)), []
    workers = [threading.Thread(target=lambda: found.append(draw("orthogonal", (96, 64)))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4 and all(torch.equal(values, expected) for values in found)


def test_torchs_own_values_are_those_of_one_thread(set_threads):
    ours = draw("orthogonal", (96, 64))
    set_threads(1)
    assert torch.equal(ours, nn.init.orthogonal_(torch.empty(96, 64), generator=generator(0, "w")))
