"""What the table shows where it is asked for: the spectrum of the Jacobian, tokens, ranks, attention, updates, draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import modelfactory as mf
from modelfactory.init import normal_, orthogonal_
from modelfactory.numerics.rng import generator
from modelfactory.signal_propagation.draws import redrawn

DEPTH, WIDTH = 6, 128
LAWS = {"gaussian": lambda w, g: normal_(w, 0, WIDTH**-0.5, generator=g), "orthogonal": lambda w, g: orthogonal_(w, generator=g)}


def plain(law: str, activation: type[nn.Module] | None, depth: int = DEPTH) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        layer = nn.Linear(WIDTH, WIDTH, bias=False)
        LAWS[law](layer.weight.detach(), generator(index, law))
        layers += [layer] if activation is None else [layer, activation()]
    return nn.Sequential(*layers)


def batch(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator(0, "x"))


@pytest.mark.parametrize(
    ("law", "activation", "variance"),
    [("gaussian", None, DEPTH), ("orthogonal", None, 0), ("gaussian", nn.ReLU, 2 * DEPTH), ("orthogonal", nn.ReLU, DEPTH)],
)
def test_the_variance_of_squared_singular_values_is_that_of_pennington(law: str, activation: type[nn.Module] | None, variance: float):
    row = mf.signal(plain(law, activation), batch(32, WIDTH), spectrum=True)[-1]
    assert row.predicted.jacobian_variance == pytest.approx(variance, rel=0.05, abs=0.01)
    assert row.measured.jacobian_variance == pytest.approx(variance, rel=0.25, abs=0.1)
    assert row.measured.jacobian_mean == pytest.approx(row.predicted.jacobian_mean, rel=0.25)


def test_a_small_input_is_measured_exactly():
    """Widths that differ: over the singular values that need not be 0, by the whole Jacobian."""
    model, x = nn.Sequential(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 5)), batch(1, 8)
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x)[0], x)[:, 0]
    squared = torch.linalg.svdvals(jacobian).square()
    row = mf.signal(model, x, spectrum=True)[-1].measured
    assert row.jacobian_mean == pytest.approx(squared.mean().item(), rel=1e-4)
    assert row.jacobian_variance == pytest.approx((squared.var(correction=0) / squared.mean() ** 2).item(), rel=1e-3)


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_whose_inputs_act_on_each_other_is_one(training: bool):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train(training)
    x = batch(6, 3)
    whole = torch.autograd.functional.jacobian(lambda x: model(x), x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    row = mf.signal(model, x, spectrum=True)[-1].measured
    squared = torch.linalg.svdvals(whole.reshape(24, 18)).square()
    assert row.jacobian_mean == pytest.approx(squared[:18].mean().item(), rel=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if "num_batches" not in name)


def test_tokens_that_are_alike_attend_alike_and_have_rank_one():
    block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    alike = batch(1, 1, 16).expand(8, 6, 16).contiguous()
    table = mf.signal(block, alike, spectrum=True)
    attention = next(row for row in table if row.label == "multi_head_attention_forward").measured
    assert attention.attention_entropy == pytest.approx(1.0, abs=1e-5)
    last = table[-1].measured
    assert last.token_cosine == pytest.approx(1.0, abs=1e-4) and last.effective_rank == pytest.approx(1.0, abs=1e-2)
    apart = mf.signal(block, batch(8, 6, 16), spectrum=True)[-1]
    assert apart.measured.effective_rank > 6 and apart.measured.token_cosine < 0.6


class Sharp(nn.Module):
    """Attention that sees itself alone, by a scale of the scores."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x, scale=50.0, is_causal=True)


def test_the_entropy_of_sharp_attention_is_0_behind_a_causal_mask():
    row = mf.signal(nn.Sequential(nn.Linear(32, 32), Sharp()), batch(4, 5, 32), spectrum=True)[-1]
    assert row.measured.attention_entropy == pytest.approx(0.0, abs=0.05)


def test_the_update_is_that_of_a_first_step_of_adam():
    model, x = nn.Linear(4, 1, bias=False), batch(32, 4)
    row = mf.signal(model, x, spectrum=True, seed=3)[-1]
    old = model(x)
    signs = torch.cartesian_prod(*[torch.tensor([-1e-3, 1e-3])] * 4)
    changes = [(x @ step).norm() / old.norm() for step in signs]
    assert min(abs(row.measured.update - change.item()) for change in changes) < 1e-5


def test_integers_have_no_jacobian_and_all_else_is_there():
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 8))
    row = mf.signal(model, torch.arange(12).reshape(2, 6) % 11, spectrum=True)[-1]
    assert math.isnan(row.measured.jacobian_mean) and row.measured.effective_rank > 1 and row.measured.update > 0


def test_columns_are_there_where_asked_for_and_the_model_is_left_alone():
    model, x = plain("gaussian", nn.ReLU, 2), batch(16, WIDTH)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    table = mf.signal(model, x, spectrum=True, draws=3)
    header = table.to_csv().splitlines()[0].split(",")
    assert header[-4:] == ["forward_low", "forward_high", "gradient_low", "gradient_high"] and "jacobian_variance_predicted" in header
    assert "token cosine" not in str(table), "a column without numbers is not shown"
    assert "jacobian" not in mf.signal(model, x).to_csv() and "jacobian mean" in str(table)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and all(parameter.grad is None for parameter in model.parameters())


def test_the_band_over_draws_is_as_wide_as_that_of_new_weights():
    """Shuffled inputs with other signs against weights drawn anew: the spread of the output's scale, over 12 of each."""
    model, x = plain("gaussian", nn.ReLU, 4), batch(16, WIDTH)
    shuffled = torch.tensor([redrawn(model, seed)(x).square().mean().log().item() for seed in range(12)])
    anew = []
    for seed in range(12):
        for index, layer in enumerate(model):
            if isinstance(layer, nn.Linear):
                LAWS["gaussian"](layer.weight.detach(), generator(seed, f"{index}"))
        anew.append(model(x).square().mean().log().item())
    assert 0.4 < shuffled.std().item() / torch.tensor(anew).std().item() < 2.5
    band = mf.signal(model, x, draws=5)[-1].band
    assert band is not None and band[0] < band[1]
    with pytest.raises(ValueError, match="draws: -1 is below 1"):
        mf.signal(model, x, draws=-1)
