"""The shares of a softmax against those that are drawn."""

import math

import pytest
import torch

from modelfactory.numerics.softmax_shares import softmax_shares


@pytest.mark.parametrize("count", [2, 8, 64, 512])
@pytest.mark.parametrize("variance", [0.01, 0.5, 2.0, 9.0, 40.0])
def test_they_are_those_of_drawn_scores(count, variance):
    draw = torch.Generator().manual_seed(count)
    shares = (torch.randn(200_000 // count, count, generator=draw, dtype=torch.float64) * math.sqrt(variance)).softmax(1)
    squared, cubed = (shares**2).sum(1), (shares**3).sum(1)
    jacobian = squared - 2 * cubed + squared**2
    found = softmax_shares(variance, [(count, 1.0)])
    for expected, drawn in ((found.squared, squared), (found.jacobian, jacobian)):
        assert expected == pytest.approx(drawn.mean().item(), abs=5 * drawn.std().item() / math.sqrt(len(drawn)) + 1e-6)


def test_they_go_from_equal_shares_to_one_that_has_all():
    assert softmax_shares(0.0, [(10, 1.0)]) == pytest.approx((0.1, 0.09))
    assert softmax_shares(1e-6, [(10, 1.0)]) == pytest.approx((0.1, 0.09), rel=1e-4)
    most = softmax_shares(1e4, [(10, 1.0)])
    assert most.squared > 0.97 and most.jacobian < 0.01
    assert softmax_shares(3.0, [(1, 1.0)]) == pytest.approx((1.0, 0.0), abs=1e-9)


def test_rows_of_several_lengths_are_averaged():
    each = [softmax_shares(1.0, [(count, 1.0)]) for count in (4, 16)]
    both = softmax_shares(1.0, [(4, 0.25), (16, 0.75)])
    assert both.squared == pytest.approx(0.25 * each[0].squared + 0.75 * each[1].squared)
