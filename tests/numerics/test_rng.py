"""Generators by seed and name: no two names share a stream, and each is as random as torch's own."""

from __future__ import annotations

import math

import torch

from modelfactory.numerics.rng import generator


def test_names_and_seeds_that_share_a_32_bit_seed_have_streams_of_their_own():
    pairs = [(0, "layers.1004.weight"), (0, "layers.108853.weight"), (0, "m.16895.weight"), (0, "m.65347.weight")]
    pairs += [(5, "fc.weight"), (5 + 2**32, "fc.weight"), (5 + 2**33, "fc.weight")]
    draws = [torch.rand(8, generator=generator(*pair)) for pair in pairs]
    assert len({tuple(draw.tolist()) for draw in draws}) == len(pairs)


def test_the_parts_of_a_parameter_have_streams_of_their_own():
    first, second, again = (torch.randn(1000, generator=generator(1, "w", part)) for part in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 4 / math.sqrt(1000)


def test_first_draws_over_many_names_are_uniform_and_uncorrelated():
    """The first numbers of a Mersenne twister whose state is badly seeded are alike; KS and lag 1 at 4 standard errors."""
    count = 4000
    draws = torch.stack([torch.rand(2, generator=generator(0, f"layer.{index}")) for index in range(count)]).double()
    for column in draws.T:
        gap = (column.sort().values - (torch.arange(count).double() + 0.5) / count).abs().max()
        assert gap < 1.95 / math.sqrt(count)  # p < 1e-3
    assert abs(torch.corrcoef(draws.T)[0, 1]) < 4 / math.sqrt(count)
    first = draws[:, 0]
    assert abs(torch.corrcoef(torch.stack([first[1:], first[:-1]]))[0, 1]) < 4 / math.sqrt(count)


def test_every_word_of_the_state_comes_from_the_key():
    states = [generator(seed, "w").get_state()[24 : 24 + 8 * 624].view(624, 8)[:, :4] for seed in (0, 1)]
    same = (states[0] == states[1]).float().mean().item()
    assert abs(same - 1 / 256) < 4 * math.sqrt(1 / 256 / (4 * 624))
