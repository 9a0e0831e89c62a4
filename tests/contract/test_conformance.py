"""Every scheme against its formula, on every kind of layer it is for: by distribution, or exactly where it is exact.

The formulas, fans and gains here are written by hand, and share no code with the package. A scheme without a row fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn

import modelfactory as mf
from modelfactory.config.errors import ConfigError, SchemeError
from modelfactory.init.schemes.table import SCHEMES
from modelfactory.numerics import activation
from modelfactory.numerics.rng import generator
from tests.contract import checks
from tests.contract.checks import Case, normal, ours, truncated, uniform

LAYERS = {
    "square": Case(lambda: nn.Linear(128, 128), 128, 128),
    "wide": Case(lambda: nn.Linear(256, 64), 256, 64),
    "tall": Case(lambda: nn.Linear(64, 256), 64, 256),
    "conv": Case(lambda: nn.Conv2d(16, 48, 3), 16 * 9, 48 * 9),
    "conv1d": Case(lambda: nn.Conv1d(32, 48, 5), 32 * 5, 48 * 5),
    "conv3d": Case(lambda: nn.Conv3d(8, 24, 3), 8 * 27, 24 * 27),
    # along each axis of 8, six of eight windows have three taps on the image and two have two: 22/24 of them
    "padded": Case(lambda: nn.Conv2d(16, 48, 3, padding=1), 16 * 9 * (22 / 24) ** 2, 48 * 9 * (22 / 24) ** 2, shape=(16, 8, 8)),
    "strided": Case(lambda: nn.Conv2d(16, 48, 4, stride=2), 16 * 16, 48 * 16 / 4),
    "grouped": Case(lambda: nn.Conv2d(32, 64, 3, groups=4), 8 * 9, 16 * 9),
    "depthwise": Case(lambda: nn.Conv2d(256, 256, 3, groups=256), 9, 9),
    "transposed": Case(lambda: nn.ConvTranspose2d(24, 40, 4, stride=2), 24 * 16 / 4, 40 * 16),
    "in_proj": Case(lambda: nn.MultiheadAttention(64, 4), 64, 64, "in_proj_weight", 3),
    "out_proj": Case(lambda: nn.MultiheadAttention(64, 4), 64, 64, "out_proj.weight"),
    "k_proj": Case(lambda: nn.MultiheadAttention(64, 4, kdim=48, vdim=32), 48, 64, "k_proj_weight"),
    "v_proj": Case(lambda: nn.MultiheadAttention(64, 4, kdim=48, vdim=32), 32, 64, "v_proj_weight"),
    "lstm_ih": Case(lambda: nn.LSTM(40, 64), 40, 64, "weight_ih_l0", 4),
    "lstm_hh": Case(lambda: nn.LSTM(40, 64), 64, 64, "weight_hh_l0", 4),
    "lstm_hr": Case(lambda: nn.LSTM(40, 64, proj_size=48), 64, 48, "weight_hr_l0"),
    "gru_ih": Case(lambda: nn.GRU(40, 64), 40, 64, "weight_ih_l0", 3),
    "rnn_cell": Case(lambda: nn.RNNCell(40, 64), 40, 64, "weight_ih"),
    "embedding": Case(lambda: nn.Embedding(100, 64), 1, 64),
    # an input of the first kind reaches 16 weights of each output, one of the second kind 12; there are 12 and 16 of them
    "bilinear": Case(lambda: nn.Bilinear(12, 16, 48), 12 * 16, 48 * (12 * 16 + 16 * 12) / (12 + 16)),
}
SOME = ("wide", "grouped")  # for a scheme's further arguments
FANLESS = ("square", "depthwise", "in_proj", "embedding", "bias")

Law = Callable[[float, float], Any]


def tanh_at(q: float) -> float:
    """sigma_w^2 of tanh at the edge of chaos: 1/E (1 - tanh^2)^2 under N(0, q), by Gauss-Hermite quadrature."""
    nodes, weights = special.roots_hermitenorm(201)
    return math.sqrt(2 * math.pi) / float(weights @ (1 - np.tanh(math.sqrt(q) * nodes) ** 2) ** 2)


def gelu_gain() -> float:
    """1/sqrt(E f(z)^2) of f(z) = z Phi(z), by the same quadrature."""
    nodes, weights = special.roots_hermitenorm(201)
    return (math.sqrt(2 * math.pi) / float(weights @ (nodes * special.ndtr(nodes)) ** 2)) ** 0.5


GELU = gelu_gain()

# Of each scheme whose entries are independent: arguments, and the law of an entry by n_in and n_out.
LAWS: dict[str, list[tuple[dict[str, Any], Law]]] = {
    "xavier_normal": [
        ({}, lambda i, o: normal(2 / (i + o))),
        ({"gain": 1.7}, lambda i, o: normal(1.7**2 * 2 / (i + o))),
    ],
    "xavier_uniform": [
        ({}, lambda i, o: uniform(2 / (i + o))),
        ({"gain": 0.5}, lambda i, o: uniform(0.25 * 2 / (i + o))),
    ],
    "kaiming_normal": [
        ({"nonlinearity": "relu"}, lambda i, o: normal(2 / i)),
        ({}, lambda i, o: normal(2 / i)),
        ({"a": 0.5}, lambda i, o: normal(2 / (1 + 0.25) / i)),
        ({"mode": "fan_out", "nonlinearity": "tanh"}, lambda i, o: normal((5 / 3) ** 2 / o)),
        ({"nonlinearity": "gelu"}, lambda i, o: normal(GELU**2 / i)),
        ({"gain": 1.2}, lambda i, o: normal(1.44 / i)),
    ],
    "kaiming_uniform": [
        ({"mode": "fan_out", "nonlinearity": "relu"}, lambda i, o: uniform(2 / o)),
        ({"nonlinearity": "linear"}, lambda i, o: uniform(1 / i)),
        ({"a": math.sqrt(5)}, lambda i, o: uniform(1 / (3 * i))),
    ],
    "lecun_normal": [({}, lambda i, o: normal(1 / i)), ({"gain": 0.8}, lambda i, o: normal(0.64 / i))],
    "lecun_uniform": [({}, lambda i, o: uniform(1 / i)), ({"gain": 2}, lambda i, o: uniform(4 / i))],
    "variance_scaling": [
        ({"mode": "fan_avg"}, lambda i, o: truncated(2 / (i + o))),
        ({"scale": 2.0}, lambda i, o: truncated(2 / i)),
        ({"mode": "fan_geo_avg", "distribution": "uniform"}, lambda i, o: uniform(1 / math.sqrt(i * o))),
        ({"mode": "fan_out", "distribution": "normal", "gain": 3}, lambda i, o: normal(9 / o)),
    ],
    "rule_of_thumb": [({}, lambda i, o: stats.uniform(-1 / i, 2 / i))],
    "fan_in_uniform": [({}, lambda i, o: stats.uniform(-1 / math.sqrt(i), 2 / math.sqrt(i)))],
    "critical": [
        ({"activation": "tanh"}, lambda i, o: normal(tanh_at(1.0) / i)),
        ({"activation": "tanh", "q": 0.1}, lambda i, o: normal(tanh_at(0.1) / i)),
        ({"activation": "relu"}, lambda i, o: normal(2 / i)),
    ],
    "normal": [({"std": 0.3}, lambda i, o: normal(0.09)), ({"mean": -0.1, "std": 0.02}, lambda i, o: stats.norm(-0.1, 0.02))],
    "uniform": [({"a": -1.0, "b": 3.0}, lambda i, o: stats.uniform(-1, 4))],
    "trunc_normal": [
        ({"std": 0.02}, lambda i, o: normal(0.02**2)),  # the bounds are +-2, not +-2 std
        ({"std": 0.02, "a": -0.04, "b": 0.04}, lambda i, o: stats.truncnorm(-2, 2, 0, 0.02)),
        ({"mean": 0.1, "std": 0.5, "a": -0.7, "b": 1.0}, lambda i, o: stats.truncnorm(-1.6, 1.8, 0.1, 0.5)),
    ],
    "gpt2": [({"branches": 8}, lambda i, o: normal(0.02**2 / 8)), ({"branches": 3, "std": 0.1}, lambda i, o: normal(0.01 / 3))],
    "small_init": [({"width": 40}, lambda i, o: normal(2 / 200))],
    "depth_trunc_normal": [
        ({"layer": 0}, lambda i, o: stats.truncnorm(-3, 3, 0, 0.02 / math.sqrt(2))),
        ({"layer": 7, "std": 0.1, "cut": 1.5}, lambda i, o: stats.truncnorm(-1.5, 1.5, 0, 0.025)),
    ],
    "fan_in_trunc_normal": [
        ({}, lambda i, o: stats.truncnorm(-3, 3, 0, 1 / math.sqrt(i))),
        ({"gain": 2.0, "cut": 1.0}, lambda i, o: stats.truncnorm(-1, 1, 0, 2 / math.sqrt(i))),
    ],
    "spectral": [
        ({}, lambda i, o: normal(min(1, o / i) / i)),
        ({"gain": 1.5}, lambda i, o: normal(2.25 * min(1, o / i) / i)),
    ],
    "fixup": [
        ({"branches": 16, "branch_layers": 2}, lambda i, o: normal(2 / i / 16)),
        ({"branches": 16, "branch_layers": 3, "gain": 1.0}, lambda i, o: normal(1 / i / 4)),
    ],
    "t_fixup": [
        ({"depth": 6}, lambda i, o: uniform(0.67**2 / math.sqrt(6) * 2 / (i + o))),
        ({"depth": 4, "decoder": True}, lambda i, o: uniform(2 / (i + o) / 6)),
    ],
    "deepnorm": [
        ({"depth": 32}, lambda i, o: normal(2 / (i + o) / 16)),
        ({"depth": 6, "other_depth": 4}, lambda i, o: normal(2 / (i + o) * 0.87**2 * (6**4 * 4) ** (-1 / 8))),
        ({"depth": 3, "other_depth": 9, "decoder": True}, lambda i, o: normal(2 / (i + o) / 6)),
    ],
    "mup": [({"base_width": 32}, lambda i, o: normal(32 / i**2)), ({"base_width": 8, "gain": 2.0}, lambda i, o: normal(32 / i**2))],
    "completep": [
        ({"base_branches": 4, "undivided": 16}, lambda i, o: normal(1 / i / 16)),
        ({"base_branches": 6, "undivided": 3, "gain": 0.5}, lambda i, o: normal(1 / i)),
    ],
    "siren": [
        ({"first": False}, lambda i, o: stats.uniform(-math.sqrt(6 / i) / 30, math.sqrt(6 / i) / 15)),
        ({"first": True}, lambda i, o: stats.uniform(-1 / i, 2 / i)),
    ],
}
WITHOUT_FANS = {"normal", "uniform", "trunc_normal", "gpt2", "small_init", "depth_trunc_normal"}


def law_cases() -> list:
    found = []
    for scheme, variants in LAWS.items():
        for number, (args, law) in enumerate(variants):
            names = FANLESS if scheme in WITHOUT_FANS else SOME if number else tuple(LAYERS)
            names = tuple(name for name in names if name != "bias" or SCHEMES[scheme].min_dims <= 1)
            for name in names[: 1 if number and scheme in WITHOUT_FANS else None]:
                case = LAYERS.get(name, Case(lambda: nn.Linear(2, 5_000), 0, 0, "bias"))
                found.append(pytest.param(case, {"scheme": scheme, **args}, law(case.n_in, case.n_out), id=f"{scheme}-{number}-{name}"))
    return found


@pytest.mark.filterwarnings("ignore:.*rule_of_thumb has variance")  # as it should
@pytest.mark.parametrize(("case", "call", "law"), law_cases())
def test_every_number_of_a_layer_follows_the_formula_and_so_says_the_ledger(case, call, law):
    checks.check_layer(ours, case, call, law)
    row = ours(case.make(), case.attr, call, 0, case.shape)[case.attr]
    assert (row.expected_mean, row.expected_std) == pytest.approx((law.mean(), law.std()), rel=1e-6, abs=1e-12)
    if call["scheme"] not in WITHOUT_FANS:
        assert (row.fan_in, row.fan_out) == pytest.approx((case.n_in, case.n_out))


@pytest.mark.parametrize("scheme", list(LAWS))
def test_a_matrix_of_a_few_numbers_follows_the_formula(scheme):
    args, law = LAWS[scheme][0]
    law = law(5, 3)
    source, shape = torch.Generator().manual_seed(4), (3, 5)
    draws = [SCHEMES[scheme].fill(torch.empty(shape), **args, generator=source) for _ in range(math.ceil(checks.samples_needed(law) / 15))]
    checks.check_law(torch.stack(draws), law)


def test_the_level_of_the_tests_holds_for_all_of_them_together():
    # a check of a distribution is one KS test; the checks of rows that are exact have at most a dozen each
    assert len(law_cases()) + len(LAWS) + 12 * len(EXACT) + 100 < checks.MOST_TESTS


@pytest.mark.parametrize("law", [normal(1.0), uniform(1.0), truncated(1.0)], ids=["normal", "uniform", "truncated"])
def test_a_factor_of_5_percent_is_seen_and_the_right_law_is_not_refused(law):
    size, source = checks.samples_needed(law), np.random.default_rng(0)
    for _ in range(3):
        right = torch.from_numpy(law.rvs(size, random_state=source))
        checks.check_law(right, law)
        for factor in (checks.FACTOR, 1 / checks.FACTOR):
            with pytest.raises(AssertionError, match="KS distance"):
                checks.check_law(right * factor, law)


def fill(scheme: str, shape: tuple[int, ...], seed: int = 0, **args: Any) -> Tensor:
    row = SCHEMES[scheme]
    return row.fill(torch.empty(shape), **args, **({"generator": torch.Generator().manual_seed(seed)} if row.random else {}))


def check_constant(scheme: str, value: float, **args: Any) -> None:
    for shape in ((), (5,), (3, 4), (2, 3, 3, 3)):
        assert torch.equal(fill(scheme, shape, **args), torch.full(shape, value))


def check_orthogonal_shapes() -> None:
    for shape, gain in (((96, 96), 1.0), ((40, 100), 1.0), ((100, 40), 0.3), ((1, 1), 2.0), ((2, 3), 1.0), ((24, 8, 3, 3), 1.7)):
        checks.check_orthogonal(fill("orthogonal", shape, gain=gain).flatten(1), gain)
    checks.check_haar(lambda source: SCHEMES["orthogonal"].fill(torch.empty(4, 4), generator=source))
    packed = ("in_proj", "k_proj", "v_proj", "lstm_ih", "lstm_hh", "lstm_hr", "gru_ih", "rnn_cell")
    for name in packed:
        case = LAYERS[name]
        layer = case.make()
        ours(layer, case.attr, {"scheme": "orthogonal", "gain": 1.3}, 0)
        checks.check_blocks_orthogonal(layer.get_parameter(case.attr), case.parts, 1.3)


def check_delta_orthogonal_shapes() -> None:
    for shape, groups in (
        ((16, 16, 3, 3), 1),
        ((24, 8, 5), 1),
        ((16, 4, 3, 3), 4),
        ((9, 1, 3, 3), 9),
        ((6, 4, 3, 3, 3), 1),
        ((1, 1, 1), 1),
    ):
        checks.check_delta_orthogonal(fill("delta_orthogonal", shape, groups=groups), groups)
        checks.check_delta_orthogonal(fill("delta_orthogonal", shape, groups=groups, gain=0.7), groups, 0.7)
    checks.check_haar(lambda source: SCHEMES["delta_orthogonal"].fill(torch.empty(4, 4, 3), generator=source)[..., 1])


def check_eye_shapes() -> None:
    for shape in ((6, 6), (4, 9), (9, 4), (1, 1)):
        checks.check_identity(fill("eye", shape))


def check_dirac_shapes() -> None:
    for shape, groups in (((8, 8, 3, 3), 1), ((12, 4, 5), 1), ((4, 6, 3, 3), 1), ((8, 2, 3, 3), 4), ((9, 1, 3), 9), ((4, 4, 3, 3, 3), 2)):
        checks.check_dirac(fill("dirac", shape, groups=groups), groups)


def check_icnr_shapes() -> None:
    for factor, shape in ((2, (12, 5, 3, 3)), (3, (18, 4, 3, 3)), (4, (32, 1, 5, 5)), (1, (4, 4, 3, 3))):
        checks.check_icnr(fill("icnr", shape, upscale_factor=factor), factor)
    law = normal(2 / (32 * 9))
    sub = [fill("icnr", (256, 32, 3, 3), seed)[::4] for seed in range(math.ceil(checks.samples_needed(law) / (64 * 32 * 9)))]
    checks.check_law(torch.stack(sub), law)


def check_sparse_shapes() -> None:
    for shape, sparsity, std in (((40, 100), 0.33, 0.5), ((100, 40), 0.1, 0.01)):
        drawn = math.ceil(checks.samples_needed(normal(1.0)) / ((1 - sparsity) * 3_900)) + 1
        checks.check_sparse([fill("sparse", shape, seed, sparsity=sparsity, std=std) for seed in range(drawn)], sparsity, std)


def check_embeddings(scheme: str, variance: Callable[[int], float], **args: Any) -> None:
    """The variance of an embedding by its width, the last axis."""
    for width in (16, 64):
        law = normal(variance(width))
        checks.check_law(fill(scheme, (math.ceil(checks.samples_needed(law) / width), width), **args), law)


def check_bilinear_shapes() -> None:
    """Upsampling by f is interpolation: a ramp stays a ramp of slope 1/f, a constant stays (far from the borders)."""
    for factor, groups in ((2, 1), (3, 1), (4, 3)):
        size = 2 * factor - factor % 2
        layer = nn.ConvTranspose1d(3, 3, size, stride=factor, padding=(factor - factor % 2) // 2, groups=groups, bias=False)
        layer.weight.data = fill("bilinear", tuple(layer.weight.shape), groups=groups)
        ramp = torch.arange(12.0).expand(1, 3, 12)
        inner = layer(ramp)[..., 2 * factor : -2 * factor].detach()
        assert torch.allclose(inner.diff(), torch.full_like(inner.diff(), 1 / factor), atol=1e-5)
    flat = fill("bilinear", (2, 2, 4, 4))
    assert torch.equal(flat[0, 1], torch.zeros(4, 4)) and torch.allclose(flat[0, 0], flat[0, 0].T) and flat[0, 0].sum() == 4


def check_hadamard_shapes() -> None:
    for shape in ((4, 9), (6, 6)):
        checks.check_identity(fill("zero_hadamard", shape))
    for rows, columns in ((8, 8 - 1), (64, 16), (10, 3)):
        power = 2 ** math.ceil(math.log2(rows))
        w = fill("zero_hadamard", (rows, columns))
        assert torch.allclose(w.abs(), torch.full_like(w, math.sqrt(2 / power)))
        if rows == power:
            assert torch.allclose(w.T @ w, 2 * torch.eye(columns), atol=1e-5)
        assert len({tuple(row) for row in w.sign().tolist()}) == min(rows, 2 ** math.ceil(math.log2(columns)))
    conv = fill("zero_hadamard", (8, 4, 3, 3))
    assert torch.equal(conv[:, :, 1, 1], fill("zero_hadamard", (8, 4))) and int((conv != 0).sum()) == 32


def check_priors() -> None:
    shares = torch.tensor([0.5, 0.3, 0.2])
    assert torch.allclose(fill("prior_bias", (3,), priors=shares.tolist()).softmax(0), shares)
    checks.check_prior_bias(lambda bias, p: SCHEMES["prior_bias"].fill(bias, p=p))


def check_forget_gates() -> None:
    """With nothing known and inputs of 0, a cell keeps sigmoid(1) of what it holds."""
    rules = {"w": {"role": "weight", "scheme": "zeros"}, "f": {"role": "gate", "scheme": "forget_bias"}}
    checks.check_forget_bias(lambda module: mf.initialize(module, rules))
    cell = nn.LSTMCell(3, 5)
    mf.initialize(cell, rules)
    held = cell(torch.zeros(1, 3), (torch.zeros(1, 5), torch.ones(1, 5)))[1]
    assert torch.allclose(held, torch.tensor(1.0).sigmoid().expand(1, 5))


def check_chrono() -> None:
    checks.check_chrono(lambda seed, hidden: fill("chrono", (4 * hidden,), seed, max_steps=100))
    mean, std = SCHEMES["chrono"].moments((4,), None, max_steps=100)
    whole = torch.stack([fill("chrono", (20_000,), seed, max_steps=100) for seed in range(6)]).double()
    assert mean == 0 and float(whole.std()) == pytest.approx(std, rel=5 / math.sqrt(6 * 10_000))
    assert not fill("chrono", (20,), max_steps=100, second=True).any()


def check_critical_bias() -> None:
    nodes, weights = special.roots_hermitenorm(201)
    second = float(weights @ np.tanh(nodes) ** 2) / math.sqrt(2 * math.pi)
    law = normal(1 - tanh_at(1.0) * second)
    checks.check_law(fill("critical_bias", (checks.samples_needed(law),), activation="tanh"), law)
    assert not fill("critical_bias", (7,), activation="relu").any()


def check_centred() -> None:
    """Of rows that add up to 0 the entries are N(0, 1/n_in) each, and their squares that of n - 1 directions."""
    for columns, gain in (((8,), 1.0), ((3, 3, 3), 0.7), ((2,), 2.0)):
        shape = (checks.samples_needed(normal(gain**2 / math.prod(columns))), *columns)
        weight = fill("centred_normal", shape, gain=gain)
        assert weight.flatten(1).sum(1).abs().max() < 1e-4
        _, std = SCHEMES["centred_normal"].moments(shape, None, gain=gain)
        assert std == pytest.approx(gain / math.sqrt(math.prod(shape[1:])))
        checks.check_law(weight[:, 0].flatten(), normal(std**2))
    with pytest.raises(SchemeError, match="at least two weights"):
        fill("centred_normal", (5, 1))


# Of each scheme whose entries hang together, or that has no chance in it: what is exactly so.
EXACT: dict[str, Callable[[], None]] = {
    "constant": lambda: check_constant("constant", -0.25, val=-0.25),
    "ones": lambda: check_constant("ones", 1.0),
    "zeros": lambda: check_constant("zeros", 0.0),
    "eye": check_eye_shapes,
    "dirac": check_dirac_shapes,
    "orthogonal": check_orthogonal_shapes,
    "delta_orthogonal": check_delta_orthogonal_shapes,
    "sparse": check_sparse_shapes,
    "icnr": check_icnr_shapes,
    "tied_embedding": lambda: check_embeddings("tied_embedding", lambda width: 1 / width),
    "t_fixup_embedding": lambda: check_embeddings("t_fixup_embedding", lambda width: 1 / width / 6, depth=4),
    "bilinear": check_bilinear_shapes,
    "zero_hadamard": check_hadamard_shapes,
    "centred_normal": check_centred,
    "prior_bias": check_priors,
    "forget_bias": check_forget_gates,
    "chrono": check_chrono,
    "critical_bias": check_critical_bias,
}


@pytest.mark.parametrize("scheme", list(EXACT))
def test_what_is_exact_is_exactly_so(scheme):
    EXACT[scheme]()


def test_every_scheme_has_a_row():
    assert set(LAWS) | set(EXACT) == set(SCHEMES), "give the scheme a law, or a check of what is exact in it"


NEEDED = {"constant": {"val": 1.0}, "sparse": {"sparsity": 0.5}, "t_fixup_embedding": {"depth": 4}} | {
    name: LAWS[name][0][0]
    for name in ("gpt2", "fixup", "t_fixup", "deepnorm", "small_init", "completep", "depth_trunc_normal", "mup", "siren")
}  # arguments that a scheme cannot do without


@pytest.mark.parametrize("scheme", sorted(name for name, row in SCHEMES.items() if row.min_dims > 1))
def test_what_has_too_few_dimensions_is_refused_and_left_as_it_was(scheme):
    args, row = NEEDED.get(scheme, {}), SCHEMES[scheme]
    for shape in ((), (5,), (3, 4))[: row.min_dims]:
        tensor = torch.full(shape, 7.0)
        with pytest.raises(SchemeError, match="dimensions"):
            row.fill(tensor, **args)
        assert bool((tensor == 7).all())
    layer = nn.BatchNorm1d(5)
    with pytest.raises(ConfigError, match=f"{scheme} needs {row.min_dims} dimensions, and weight has shape"):
        mf.initialize(layer, {"match": "weight", "scheme": scheme, **args})
    assert bool((layer.weight == 1).all())


def erf_gelu(z: float) -> float:
    return z * special.ndtr(z)


# f, and where it is not smooth; written here, not taken from torch
ACTIVATIONS: dict[str, tuple[Callable[[float], float], tuple[float, ...]]] = {
    "identity": (lambda z: z, ()),
    "relu": (lambda z: max(z, 0.0), ()),
    "leaky_relu": (lambda z: z if z > 0 else 0.01 * z, ()),
    "relu6": (lambda z: min(max(z, 0.0), 6.0), (6.0,)),
    "tanh": (math.tanh, ()),
    "sigmoid": (lambda z: 1 / (1 + math.exp(-z)), ()),
    "gelu": (erf_gelu, ()),
    "silu": (lambda z: z / (1 + math.exp(-z)), ()),
    "mish": (lambda z: z * math.tanh(math.log1p(math.exp(z))), ()),
    "softplus": (lambda z: math.log1p(math.exp(z)), ()),
    "elu": (lambda z: z if z > 0 else math.expm1(z), ()),
    "celu": (lambda z: z if z > 0 else math.expm1(z), ()),
    "selu": (lambda z: 1.0507009873554805 * (z if z > 0 else 1.6732632423543772 * math.expm1(z)), ()),
    "hardtanh": (lambda z: min(max(z, -1.0), 1.0), (-1.0, 1.0)),
    "hardsigmoid": (lambda z: min(max(z / 6 + 0.5, 0.0), 1.0), (-3.0, 3.0)),
    "hardswish": (lambda z: z * min(max(z / 6 + 0.5, 0.0), 1.0), (-3.0, 3.0)),
    "softsign": (lambda z: z / (1 + abs(z)), ()),
    "logsigmoid": (lambda z: -math.log1p(math.exp(-z)), ()),
    "tanhshrink": (lambda z: z - math.tanh(z), ()),
    "softshrink": (lambda z: math.copysign(max(abs(z) - 0.5, 0.0), z), (-0.5, 0.5)),
    "hardshrink": (lambda z: z if abs(z) > 0.5 else 0.0, (-0.5, 0.5)),
    "prelu": (lambda z: z if z > 0 else 0.25 * z, ()),
    "rrelu": (lambda z: z if z > 0 else (1 / 8 + 1 / 3) / 2 * z, ()),
}


@pytest.mark.parametrize("name", sorted(set(activation.ACTIVATIONS) - {"threshold"}))  # which has no defaults
def test_gains_are_those_of_an_independent_quadrature(name):
    checks.check_gain(activation.gain, name, *ACTIVATIONS[name])


TORCHS: list[tuple[str, Mapping[str, Any]]] = [
    ("uniform", {"a": -1.0, "b": 2.0}),
    ("normal", {"mean": 0.5, "std": 0.2}),
    ("trunc_normal", {"std": 0.5, "a": -0.7, "b": 1.0}),
    ("trunc_normal", {"std": 0.02}),
    ("xavier_uniform", {"gain": 2.0}),
    ("xavier_normal", {}),
    ("kaiming_uniform", {"a": 0.2}),
    ("kaiming_uniform", {"mode": "fan_out", "nonlinearity": "tanh"}),
    ("kaiming_normal", {"nonlinearity": "relu"}),
    ("kaiming_normal", {"nonlinearity": "selu"}),
    ("orthogonal", {"gain": 0.5}),
]


@pytest.mark.parametrize(("name", "args"), TORCHS, ids=str)
def test_a_scheme_that_torch_has_draws_torchs_numbers(name, args):
    for shape in ((7, 12), (12, 7), (1, 1), (3, 2), (16, 3, 3, 3), (64, 1, 3, 3), (6, 5, 4)):
        checks.check_equals_torch(SCHEMES[name].fill, name, args, shape)


@pytest.mark.parametrize(("name", "args"), [row for row in TORCHS if row[0] != "orthogonal"], ids=str)
def test_by_torchs_fans_every_layer_gets_torchs_numbers(name, args):
    for case in LAYERS.values():
        module = case.make()
        mf.initialize(module, {"match": case.attr, "scheme": name, **args}, seed=5, fans="torch")
        drawn = module.get_parameter(case.attr)
        theirs = getattr(nn.init, f"{name}_")(torch.empty(drawn.shape), **args, generator=generator(5, case.attr))
        assert torch.equal(drawn, theirs)
