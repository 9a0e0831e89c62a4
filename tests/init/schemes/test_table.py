"""The table of schemes: torch's numbers bit for bit, moments, shapes and arguments that are refused. Values: test_conformance."""

import math

import pytest
import torch
from torch import nn

from modelfactory.config.errors import Problems, SchemeError
from modelfactory.init.schemes.table import SCHEMES, check_scheme_arguments
from modelfactory.numerics.rng import generator

TORCH = [
    ("uniform", {"a": -1.0, "b": 2.0}),
    ("normal", {"mean": 0.5, "std": 0.2}),
    ("trunc_normal", {"std": 0.5, "a": -0.7, "b": 1.0}),
    ("constant", {"val": 0.3}),
    ("ones", {}),
    ("zeros", {}),
    ("eye", {}),
    ("xavier_uniform", {"gain": 2.0}),
    ("xavier_normal", {}),
    ("kaiming_uniform", {"a": 0.2}),
    ("kaiming_uniform", {"mode": "fan_out", "nonlinearity": "tanh"}),
    ("kaiming_normal", {"nonlinearity": "relu"}),
    ("orthogonal", {"gain": 0.5}),
]


@pytest.mark.parametrize(("name", "args"), TORCH, ids=lambda value: str(value))
@pytest.mark.parametrize("shape", [(7, 12), (12, 7)])
def test_torchs_schemes_equal_torch_bit_for_bit(name, args, shape):
    ours, theirs = torch.empty(shape), torch.empty(shape)
    draws = SCHEMES[name].random
    SCHEMES[name].fill(ours, **args, **({"generator": generator(0, "w")} if draws else {}))
    getattr(nn.init, f"{name}_")(theirs, **args, **({"generator": generator(0, "w")} if draws else {}))
    assert torch.equal(ours, theirs)


def test_dirac_and_sparse_are_torchs():
    for groups in (1, 2):
        ours, theirs = torch.empty(8, 3, 3, 3), torch.empty(8, 3, 3, 3)
        assert torch.equal(SCHEMES["dirac"].fill(ours, groups=groups), nn.init.dirac_(theirs, groups))
    filled = SCHEMES["sparse"].fill(torch.empty(40, 30), sparsity=0.33, std=0.5, generator=generator(0, "w"))
    assert bool(((filled == 0).sum(0) == math.ceil(0.33 * 40)).all())


FORMULAS = [  # (name, arguments, variance times the fan in the formula's denominator), at n_in = 64, n_out = 48
    ("lecun_normal", {}, 1 / 64),
    ("xavier_normal", {}, 2 / (64 + 48)),
    ("kaiming_normal", {"nonlinearity": "relu"}, 2 / 64),
    ("fan_in_uniform", {}, 1 / (3 * 64)),
    ("rule_of_thumb", {}, 1 / (3 * 64**2)),
    ("variance_scaling", {"scale": 3.0, "mode": "fan_geo_avg"}, 3 / math.sqrt(64 * 48)),
    ("orthogonal", {}, 1 / 64),
]


@pytest.mark.parametrize(("name", "args", "variance"), FORMULAS, ids=lambda value: str(value))
def test_moments_are_the_catalogues_formulas(name, args, variance):
    assert SCHEMES[name].moments((48, 64), None, **args) == pytest.approx((0.0, math.sqrt(variance)))


def test_torchs_truncation_bounds_are_absolute():
    assert SCHEMES["trunc_normal"].moments((3, 3), None, std=0.02)[1] == pytest.approx(0.02)
    values = SCHEMES["trunc_normal"].fill(torch.empty(50_000), std=1.0, a=-2.0, b=2.0, generator=generator(0, "w"))
    assert values.std().item() == pytest.approx(0.8796, rel=0.02) and values.abs().max() <= 2


REFUSED = [
    ("xavier_normal", (3,)),
    ("orthogonal", (3,)),
    ("eye", (3, 3, 3)),
    ("dirac", (3, 3)),
    ("sparse", (3, 3, 3)),
    ("delta_orthogonal", (3, 5, 3, 3)),
    ("icnr", (6, 3, 3, 3)),
]


@pytest.mark.parametrize(("name", "shape"), REFUSED, ids=str)
def test_shapes_that_do_not_fit_are_refused_before_anything_is_drawn(name, shape):
    args = {"sparsity": 0.5} if name == "sparse" else {}
    with pytest.raises(SchemeError):
        SCHEMES[name].moments(shape, None, **args)
    tensor = torch.full(shape, 7.0)
    with pytest.raises(SchemeError):
        SCHEMES[name].fill(tensor, **args)
    assert bool((tensor == 7).all())


@pytest.mark.parametrize("name", sorted(SCHEMES))
def test_every_scheme_says_what_it_is(name):
    scheme = SCHEMES[name]
    assert scheme.summary and scheme.formula and scheme.source and scheme.when


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("normal", {"stdd": 1.0}, "init.r.stdd: not an argument of normal; did you mean 'std'?"),
        ("normal", {"std": -1.0}, "init.r.std: -1.0 is too small; give a number >= 0"),
        ("constant", {}, "init.r.val: missing; constant needs it"),
        ("kaiming_normal", {"mode": "fan"}, "init.r.mode: 'fan' is a text; give one of fan_in, fan_out"),
    ],
)
def test_wrong_arguments_are_told(name, args, message):
    problems = Problems()
    assert not check_scheme_arguments(name, args, "init.r", problems)
    assert str(next(iter(problems))).startswith(message)


def test_every_scheme_is_a_function_that_can_be_imported():
    import modelfactory.init as public

    for name, scheme in SCHEMES.items():
        assert getattr(public, f"{name}_") is scheme.fill and f"{name}_" in public.__all__
