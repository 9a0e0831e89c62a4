"""Every scheme against its formula: bit for bit against torch, by KS test where a distribution is promised, exactly where it is exact."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from modelfactory.errors import Problems, SchemeError
from modelfactory.init.fans import Fans, operator_fans
from modelfactory.init.rng import generator
from modelfactory.init.schemes import SCHEMES, check_scheme_arguments

SIGNIFICANCE = 1e-4 / 60  # of one test: about 1e-4 for all KS tests of this file together

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


def entries(name: str, shape: tuple[int, ...], args: dict, fans: Fans | None, scale: float = 1.0) -> torch.Tensor:
    scheme, pooled = SCHEMES[name], []
    while sum(values.numel() for values in pooled) < 60_000:
        extra = {"fans": fans} if scheme.uses_fans else {}
        tensor = scheme.fill(torch.empty(shape), **args, **extra, generator=generator(len(pooled), name))
        pooled.append(tensor.flatten() * scale)
    return torch.cat(pooled).double()


def distribution(name: str, args: dict, std: float):
    if name == "trunc_normal":
        mean, sigma = args.get("mean", 0.0), args["std"]
        return stats.truncnorm((args["a"] - mean) / sigma, (args["b"] - mean) / sigma, mean, sigma)
    if name == "variance_scaling" and args.get("distribution", "truncated_normal") == "truncated_normal":
        return stats.truncnorm(-2, 2, 0, std / 0.87962566103423978)
    if "uniform" in name or name == "rule_of_thumb" or args.get("distribution") == "uniform":
        return stats.uniform(-math.sqrt(3) * std, 2 * math.sqrt(3) * std)
    return stats.norm(0, std)


CASES = [
    ("normal", {"std": 0.3}),
    ("trunc_normal", {"std": 0.5, "a": -0.7, "b": 1.0}),
    ("xavier_uniform", {}),
    ("xavier_normal", {"gain": 1.5}),
    ("kaiming_uniform", {"nonlinearity": "relu"}),
    ("kaiming_normal", {"a": 0.3}),
    ("kaiming_normal", {"nonlinearity": "gelu"}),
    ("lecun_normal", {}),
    ("lecun_uniform", {}),
    ("variance_scaling", {"scale": 2.0, "mode": "fan_avg"}),
    ("variance_scaling", {"mode": "fan_geo_avg", "distribution": "uniform"}),
    ("variance_scaling", {"mode": "fan_out", "distribution": "normal"}),
    ("rule_of_thumb", {}),
    ("fan_in_uniform", {}),
    ("critical", {"activation": "tanh"}),
]
LAYERS = [
    nn.Linear(64, 48),
    nn.Conv2d(16, 24, 3, groups=4),
    nn.ConvTranspose2d(12, 20, 4, stride=2),
]


@pytest.mark.parametrize(("name", "args"), CASES, ids=lambda value: str(value))
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_entries_have_the_promised_distribution(name, args, layer):
    fans = operator_fans(layer, "weight")[0].fans
    shape = tuple(layer.weight.shape)
    mean, std = SCHEMES[name].moments(shape, fans, **args)
    values = entries(name, shape, args, fans)
    expected = distribution(name, args, std)
    assert expected.mean() == pytest.approx(mean, abs=1e-9) and expected.std() == pytest.approx(std, rel=1e-6)
    assert stats.kstest(values.numpy(), expected.cdf).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("name", ["xavier_normal", "kaiming_uniform", "lecun_normal"])
def test_a_factor_of_5_percent_is_caught(name):
    shape = (48, 64)
    std = SCHEMES[name].moments(shape, None)[1]
    wrong = entries(name, shape, {}, None, scale=1.05)
    assert stats.kstest(wrong.numpy(), distribution(name, {}, std).cdf).pvalue < SIGNIFICANCE


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


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 2, 3)])
def test_orthogonal_is_orthogonal(shape):
    matrix = SCHEMES["orthogonal"].fill(torch.empty(shape), generator=generator(0, "w")).flatten(1)
    small = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    assert torch.allclose(small, torch.eye(len(small)), atol=1e-5)


def test_orthogonal_is_haar():
    # a trace of a 4 x 4 Haar matrix has mean 0 and variance 1; without the sign correction of QR the mean is far below 0
    traces = [
        torch.trace(SCHEMES["orthogonal"].fill(torch.empty(4, 4), generator=generator(seed, "w"))).item() for seed in range(500)
    ]
    assert abs(sum(traces) / 500) < 4 / math.sqrt(500)


def test_delta_orthogonal_keeps_the_norm_of_a_constant_image():
    kernel = SCHEMES["delta_orthogonal"].fill(torch.empty(8, 5, 3, 3), generator=generator(0, "w"))
    outside = kernel.clone()
    outside[:, :, 1, 1] = 0
    assert not outside.any()
    x = torch.randn(1, 5, 6, 6)
    assert nn.functional.conv2d(x, kernel, padding=1).norm().item() == pytest.approx(x.norm().item(), rel=1e-5)


def test_icnr_starts_as_nearest_neighbour_upsampling():
    kernel = SCHEMES["icnr"].fill(torch.empty(12, 4, 3, 3), upscale_factor=2, generator=generator(0, "w"))
    up = nn.functional.pixel_shuffle(nn.functional.conv2d(torch.randn(1, 4, 8, 8), kernel, padding=1), 2)
    blocks = up.unfold(2, 2, 2).unfold(3, 2, 2)
    assert torch.equal(blocks, blocks[..., :1, :1].expand_as(blocks)) and up.std() > 0


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
