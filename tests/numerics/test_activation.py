import math
import subprocess
import sys

import pytest
import torch
from scipy import integrate, stats
from torch import nn

from modelfactory.config.errors import SchemeError
from modelfactory.numerics.activation import ACTIVATIONS, critical, gain, is_activation, is_elementwise, moments

REFERENCE = [  # the catalogue's table: forward and backward gains
    (nn.ReLU(), 1.4142, 1.4142),
    (nn.LeakyReLU(0.2), 1.3868, 1.3868),
    (nn.Tanh(), 1.5925, 1.4674),
    (nn.Sigmoid(), 1.8462, 4.7226),
    (nn.GELU(), 1.5335, 1.4811),
    (nn.SELU(), 1.0000, 0.9660),
]


@pytest.mark.parametrize(("activation", "forward", "backward"), REFERENCE, ids=lambda value: type(value).__name__)
def test_gains_are_those_of_the_catalogue(activation, forward, backward):
    assert gain(activation) == pytest.approx(forward, abs=6e-5)
    assert gain(activation, "backward") == pytest.approx(backward, abs=6e-5)


@pytest.mark.parametrize("name", sorted(set(ACTIVATIONS) - {"threshold"}))
def test_second_moments_agree_with_another_quadrature(name):
    module = nn.PReLU() if name == "prelu" else ACTIVATIONS[name]().eval()

    def integrand(z: float) -> float:
        with torch.no_grad():
            return float(module.double()(torch.tensor(z, dtype=torch.float64))) ** 2 * float(stats.norm.pdf(z))

    expected, _ = integrate.quad(integrand, -14, 14, points=[-6, -3, -1, -0.5, 0, 0.5, 1, 3, 6], limit=400, epsabs=1e-12)
    assert moments(module).second == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("function", [lambda x: (x > 0.3).to(x), lambda x: torch.where(x.abs() > 0.5, x, 0.0), torch.sign])
def test_jumps_are_found(function):
    grid = torch.linspace(-9, 9, 2_000_001, dtype=torch.float64)
    weights = torch.exp(-grid.square() / 2) / math.sqrt(2 * math.pi) * (grid[1] - grid[0])
    assert moments(function).second == pytest.approx(float((function(grid).square() * weights).sum()), rel=1e-5)


class Wave(nn.Module):
    def forward(self, x):
        return x + torch.sin(3 * x) / 3


def test_an_activation_never_seen_before_has_a_gain():
    z = torch.randn(4_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = Wave()(z).square().mean().rsqrt().item()
    assert gain(Wave()) == pytest.approx(expected, rel=2e-3)
    assert gain(Wave) == gain(Wave()) == pytest.approx(gain(lambda x: x + torch.sin(3 * x) / 3), rel=1e-12)


def test_in_place_activations_count_as_the_others():
    assert gain(nn.ReLU(inplace=True)) == gain(nn.ReLU())
    assert gain(nn.SiLU(inplace=True), "backward") == gain(nn.SiLU(), "backward")


@pytest.mark.parametrize("module", [nn.Softmax(dim=-1), nn.GLU(), nn.LayerNorm(4)])
def test_what_mixes_entries_has_no_gain(module):
    assert not is_elementwise(module) and not is_activation(module)
    with pytest.raises(SchemeError, match="not elementwise: give a gain"):
        gain(module)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(SchemeError, match="did you mean 'gelu'"):
        gain("gelu2")


@pytest.mark.parametrize("name", ["tanh", "relu", "erf"])
def test_the_critical_point_has_unit_slope_and_its_fixed_point(name):
    function = torch.erf if name == "erf" else name
    for q in (0.5, 1.0, 2.0):
        weight, bias = critical(function, q)
        found = moments(function, q)
        assert weight * found.derivative_second == pytest.approx(1, rel=1e-9)  # chi_1 = 1
        assert weight * found.second + bias == pytest.approx(q, rel=1e-9)


def test_gains_do_not_import_dynamo():
    code = (
        "import sys, modelfactory.numerics.activation as a; a.gain('gelu', 'backward'); a.critical('tanh', sigma_b=0.1);"
        "print([name for name in ('torch._dynamo',) if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_random_state_is_left_as_it_was():
    before = torch.get_rng_state()
    gain(nn.RReLU())
    is_elementwise(nn.Dropout())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["softshrink", "hardshrink", "relu6", "hardtanh", "hardswish", "tanhshrink"])
@pytest.mark.parametrize("q", [0.07, 0.7, 5.0])
def test_kinks_where_no_panel_ends(name, q):
    module, deviation = ACTIVATIONS[name]().double(), math.sqrt(q)
    kinks = [kink / deviation for kink in (-3, -1, -0.5, 0, 0.5, 1, 3, 6) if abs(kink) < 14 * deviation]
    found = integrate.quad(
        lambda z: module(torch.tensor(deviation * z, dtype=torch.float64)).item() ** 2 * stats.norm.pdf(z),
        -14,
        14,
        points=kinks,
        limit=400,
    )
    assert moments(module, q).second == pytest.approx(found[0], rel=1e-9, abs=1e-12)


def test_what_is_not_finite_is_said_to_be():
    with pytest.raises(SchemeError, match="not finite at"):
        gain(lambda x: x.log())
