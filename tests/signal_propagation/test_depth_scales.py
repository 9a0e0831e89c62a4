"""The constants of mean-field theory that the literature gives, reproduced."""

from __future__ import annotations

import math

import pytest

from modelfactory.config.errors import SchemeError
from modelfactory.numerics.activation import critical
from modelfactory.numerics.fixed_point import depth_scale, fixed_point
from modelfactory.numerics.gaussian_moments import respond


def test_tanh_is_critical_at_sigma_w_1_without_biases():
    """Schoenholz et al. 2017: the phase boundary starts at (sigma_w, sigma_b) = (1, 0)."""
    assert respond("tanh", 0.0, 1e-8).slope == pytest.approx(1.0, abs=1e-7)
    with pytest.raises(SchemeError, match="goes to 0"):
        fixed_point("tanh", 0.9)
    assert fixed_point("tanh", 1.1).chi_1 > 1


def test_tanh_at_the_bias_of_schoenholz_is_critical_at_sigma_w_squared_1_76():
    """Schoenholz et al. 2017, figure 5: sigma_b^2 = 0.05 is critical at sigma_w^2 of about 1.76."""
    weight, bias = critical("tanh", sigma_b=math.sqrt(0.05))
    assert weight == pytest.approx(1.76, abs=0.01) and bias == pytest.approx(0.05)
    found = fixed_point("tanh", math.sqrt(weight), math.sqrt(bias))
    assert found.chi_1 == pytest.approx(1.0, abs=1e-6) and found.xi_c > 1e3


@pytest.mark.parametrize("sigma_w", [1.0, 1.2, 1.5, 2.0, 3.0])
def test_order_and_chaos_of_tanh_lie_on_their_sides_of_chi_1(sigma_w):
    found = fixed_point("tanh", sigma_w, math.sqrt(0.05))
    ordered = sigma_w**2 < critical("tanh", sigma_b=math.sqrt(0.05))[0]
    assert (found.chi_1 < 1) == ordered == (found.c > 1 - 1e-6)


@pytest.mark.parametrize("sigma_w", [1.0, 1.8, 2.5])
@pytest.mark.parametrize("activation", ["tanh", "softsign", "sigmoid"])
def test_deviations_shrink_over_the_depth_scales(activation, sigma_w):
    """Both maps run step by step: a deviation from the fixed point shrinks by exp(-1/xi) a layer."""
    found = fixed_point(activation, sigma_w, 0.3)
    q = found.q * 1.0001
    after = sigma_w**2 * respond(activation, 0.0, q).second + 0.09
    assert math.log((after - found.q) / (q - found.q)) == pytest.approx(-1 / found.xi_q, rel=0.01, abs=2e-3)
    c = found.c - 1e-3
    moved = (sigma_w**2 * respond(activation, 0.0, found.q).together(c) + 0.09) / found.q
    assert math.log((moved - found.c) / (c - found.c)) == pytest.approx(-1 / found.xi_c, rel=0.02, abs=2e-3)


def test_the_rectifier_is_critical_at_2_and_its_variance_stays_where_it_starts():
    """He et al. 2015; Hayou et al. 2019: (sigma_w^2, sigma_b^2) = (2, 0), infinite depth scale of the variance."""
    response = respond("relu", 0.0, 3.0)
    assert 2 * response.second == pytest.approx(3.0, rel=1e-6) and 2 * response.slope == pytest.approx(1.0, rel=1e-6)
    assert depth_scale(2 * response.growth * response.second / 3.0) == math.inf


@pytest.mark.parametrize("r", [-0.9, -0.3, 0.0, 0.4, 0.8, 0.95, 0.999])
def test_the_correlation_map_of_the_rectifier_is_the_arc_cosine_kernel(r):
    """Cho & Saul 2009: E relu(x) relu(x') = (sin t + (pi - t) cos t)/(2 pi), E step step = (pi - t)/(2 pi), t = arccos r."""
    angle = math.acos(r)
    response = respond("relu")
    assert response.together(r) == pytest.approx((math.sin(angle) + (math.pi - angle) * r) / (2 * math.pi), abs=2e-5)
    assert response.slopes_together(r) == pytest.approx((math.pi - angle) / (2 * math.pi), abs=5e-3)


def test_cosines_under_perfect_he_are_those_known():
    """0.85, 0.944 and 0.97 at 10, 20 and 30 layers, from independent inputs."""
    r, seen = 0.0, {}
    response = respond("relu")
    for layer in range(1, 31):
        seen[layer] = r
        r = 2 * response.together(r)
    assert [round(seen[layer], 2) for layer in (10, 20, 30)] == pytest.approx([0.85, 0.944, 0.97], abs=0.012)
