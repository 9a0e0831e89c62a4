"""The quadrature against integrals that are known, and against jumps placed where sums alone would not see them."""

import math

import pytest
import torch

from modelfactory.config.errors import SchemeError
from modelfactory.numerics.quadrature import integrate


def above(threshold: float) -> float:
    """P(z > threshold), z ~ N(0, 1)."""
    return math.erfc(threshold / math.sqrt(2)) / 2


def test_powers_have_their_known_moments():
    means, seconds = integrate(lambda z: torch.stack([z, z**2, z**3]))
    assert means == pytest.approx([0, 1, 0], abs=1e-13)
    assert seconds == pytest.approx([1, 3, 15], rel=1e-13)


# just beside the middle or an end of a panel of any depth, beside a node, and nowhere special
@pytest.mark.parametrize("place", [0.5, 0.5005, 0.50001, 0.25013, 1e-5, -1e-9, 1 - 1e-7, 1 / 3, math.pi / 4, 2.00265])
def test_a_jump_is_found_wherever_it_is(place):
    (mean,), (second,) = integrate(lambda z: (z > place).double()[None])
    assert mean == pytest.approx(above(place), abs=1e-13) and second == pytest.approx(above(place), abs=1e-13)


@pytest.mark.parametrize("place", [0.0, 0.5003, 1 / 3, -1.7])
def test_a_kink_costs_no_accuracy(place):
    (mean,), _ = integrate(lambda z: (z - place).clamp(min=0)[None])
    density = math.exp(-place * place / 2) / math.sqrt(2 * math.pi)
    assert mean == pytest.approx(density - place * above(place), abs=1e-13)


def test_what_is_too_rough_is_refused():
    with pytest.raises(SchemeError, match="too rough"):
        integrate(lambda z: torch.sin(z * 1e7)[None])


def test_the_number_of_threads_changes_no_bit():
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(integrate(lambda z: torch.stack([z.relu(), z * (z > 0.3)])))
        assert found[0] == found[1]
    finally:
        torch.set_num_threads(before)
