"""Large orthogonal matrices: orthogonal, torch's up to rounding, and the same bits on any number of threads."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from modelfactory.init import orthogonal_
from modelfactory.numerics import qr as factorise
from modelfactory.numerics.rng import generator
from modelfactory.numerics.threads import num_cores, one_core, spare_cores

SHAPES = [(600, 600), (1100, 520), (520, 1100), (512, 64, 3, 3)]


def draw(shape: tuple[int, ...]) -> torch.Tensor:
    return orthogonal_(torch.empty(shape), 1.5, generator=generator(0, "w"))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_orthogonal_and_torchs_up_to_rounding(shape):
    w = draw(shape).flatten(1)
    small = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    assert torch.allclose(small, 1.5**2 * torch.eye(len(small)), atol=2e-5)
    torchs = torch.nn.init.orthogonal_(torch.empty(shape), 1.5, generator=generator(0, "w"))
    assert torch.allclose(w, torchs.flatten(1), atol=1e-3)


def test_helpers_change_no_bit(monkeypatch):
    found = []
    for helpers in (0, 1, 3):

        @contextmanager
        def spare(count=helpers):
            yield count

        monkeypatch.setattr(factorise, "spare_cores", spare)
        found.append(draw((1100, 1100)))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        found.append(draw((1100, 1100)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_column_that_is_already_reflected_is_kept():
    """LAPACK gives a reflection along 0 for it: the last column of a square matrix, and any multiple of the identity."""
    assert torch.equal(factorise.orthonormal(2 * torch.eye(300)), torch.eye(300))


def test_cores_are_counted_once():
    with one_core(), spare_cores() as first:
        assert first <= num_cores() - 1
        with spare_cores() as second:
            assert first + second <= num_cores() - 1
    with spare_cores() as all_free:
        assert all_free == num_cores() - 1
