"""What an author set by hand: what a broad rule would lose, and not what is ordinary for its kind."""

import math

import pytest
import torch
from torch import nn

from modelfactory.parameters.written import Written, is_authored

CASES = [
    ("a zero bias", "bias", 1, Written("value", 0.0), False),
    ("a prior bias", "bias", 1, Written("value", -4.6), True),
    ("time steps", "bias", 1, Written("draw"), True),
    ("a bias drawn around 0", "bias", 1, Written("draw", mean=0.0, std=0.1), False),
    ("a bias with an open gate", "bias", 1, Written("draw", mean=0.0, part=1.0), True),
    ("a bias with some zeros", "bias", 1, Written("draw", mean=0.0, part=0.0), False),
    ("a norm's scale", "norm", 1, Written("value", 1.0), False),
    ("a norm's scale at 0", "norm", 1, Written("value", 0.0), True),
    ("a norm's scale drawn around 1", "norm", 1, Written("draw", mean=1.0, std=0.02), False),
    ("drawn weights", "weight", 2, Written("draw", mean=0.0, std=0.02), False),
    ("weights drawn elsewhere", "weight", 2, Written("draw", mean=0.5), False),
    ("zero weights", "weight", 2, Written("value", 0.0), True),
    ("weights that are copied in", "weight", 2, Written("value"), True),
    ("the copy of another", "weight", 2, Written("value", 0.0, copy_of="student.weight"), False),
    ("what a layer of torch writes", "weight", 2, Written("value", 0.25, by_layer=True), False),
    ("a table with a padding row", "embedding", 2, Written("draw", mean=0.0, part=0.0), False),
    ("raw memory", "weight", 2, Written("nothing"), False),
    ("not watched", "bias", 1, None, False),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_authored_is_what_a_broad_rule_would_lose(case):
    _, role, ndim, written, authored = case
    assert is_authored(nn.Parameter(torch.ones([2] * ndim)), [role], written) is authored


def test_what_says_no_reinit_is_authored_whatever_was_seen():
    parameter = nn.Parameter(torch.ones(2))
    parameter._no_reinit = True
    assert is_authored(parameter, ["bias"], None) and is_authored(parameter, ["bias"], Written("value", 0.0, by_layer=True))


def test_moments_are_those_of_what_was_written():
    assert Written("value", 2.0).moments == (2.0, 0.0)
    assert Written("draw", mean=0.0, std=0.1).moments == (0.0, 0.1)
    assert all(math.isnan(number) for number in Written("draw", mean=0.0, std=0.1, part=1.0).moments)
