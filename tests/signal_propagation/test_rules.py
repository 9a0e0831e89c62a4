"""Attention, masks, known matrices, gates, hand-written norms and activations, batch norms of small batches: predicted against measured."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import modelfactory as mf
from modelfactory.signal_propagation.masking import causal, shown
from modelfactory.signal_propagation.row import SignalRow

T, D, HEADS = 24, 64, 4


def scores_of(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])


def hidden(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).triu(1)


MASKS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "none": lambda q, k, v: scores_of(q, k).softmax(-1) @ v,
    "additive, -inf": lambda q, k, v: (scores_of(q, k) + torch.zeros(T, T).masked_fill(hidden(T), -math.inf)).softmax(-1) @ v,
    "additive, finfo.min": lambda q, k, v: (scores_of(q, k) + torch.full((T, T), torch.finfo(q.dtype).min).triu(1)).softmax(-1) @ v,
    "additive, like the scores": lambda q, k, v: (scores_of(q, k) + scores_of(q, k).new_full((T, T), -1e9).triu(1)).softmax(-1) @ v,
    "masked_fill": lambda q, k, v: scores_of(q, k).masked_fill(hidden(T), -math.inf).softmax(-1) @ v,
    "where": lambda q, k, v: torch.where(hidden(T), torch.tensor(-1e9), scores_of(q, k)).softmax(-1) @ v,
    "is_causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "attn_mask of booleans": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden(T)),
    "attn_mask of numbers": lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.zeros(T, T).masked_fill(hidden(T), -math.inf)
    ),
}


class Attention(nn.Module):
    def __init__(
        self, attend: Callable[[Tensor, Tensor, Tensor], Tensor], groups: int = 1, repeat: Callable[[Tensor], Tensor] | None = None
    ):
        super().__init__()
        self.attend, self.groups, self.repeat = attend, groups, repeat or (lambda x: x)
        self.q, self.o = nn.Linear(D, D), nn.Linear(D, D)
        self.k, self.v = nn.Linear(D, D // groups), nn.Linear(D, D // groups)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, D // HEADS)).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.o(self.attend(q, self.repeat(k), self.repeat(v)).transpose(1, 2).flatten(2))


def ratios(make: Callable[[], nn.Module], batch: Callable[[], Tensor], draws: int = 4) -> dict[tuple[str, str], tuple[float, float]]:
    """Predicted over measured scales, forward and of the gradient, by layer and call: geometric means over draws."""
    logs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed in range(draws):
        torch.manual_seed(seed)
        table = mf.signal(make(), batch(), seed=seed)
        assert table.failures == ()
        for row in table:
            logs.setdefault((row.layer, row.label), []).append((_log(row, "forward"), _log(row, "gradient")))
    return {key: (math.exp(sum(f for f, _ in found) / draws), math.exp(sum(g for _, g in found) / draws)) for key, found in logs.items()}


def _log(row: SignalRow, name: str) -> float:
    predicted, measured = getattr(row.predicted, name), getattr(row.measured, name)
    return math.log(predicted / measured) if predicted > 0 and measured > 0 else math.nan


def worst(found: dict[tuple[str, str], tuple[float, float]], side: int) -> float:
    values = [pair[side] for pair in found.values() if not math.isnan(pair[side])]
    return max(max(value, 1 / value) for value in values)


@pytest.mark.parametrize("name", MASKS)
def test_attention_behind_any_mask_is_predicted_forward_and_back(name: str):
    found = ratios(lambda: nn.Sequential(nn.Linear(D, D), Attention(MASKS[name])), lambda: torch.randn(16, T, D))
    assert worst(found, 0) < 1.1 and worst(found, 1) < 1.2, found
    torch.manual_seed(0)
    table = mf.signal(nn.Sequential(nn.Linear(D, D), Attention(MASKS[name])), torch.randn(16, T, D))
    assert table.warnings == () and all(row.verdict == "ok" for row in table)
    assert {"1.q", "1.k", "1.v"} <= {row.layer for row in table if row.predicted.gradient > 0}


@pytest.mark.parametrize(
    ("groups", "repeat", "attend"),
    [
        (2, lambda x: x.repeat_interleave(2, 1), F.scaled_dot_product_attention),
        (4, lambda x: x[:, :, None].expand(-1, -1, 4, -1, -1).flatten(1, 2), F.scaled_dot_product_attention),
        (2, None, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)),
    ],
)
def test_keys_and_values_that_several_queries_share_are_predicted(groups, repeat, attend):
    found = ratios(lambda: nn.Sequential(nn.Linear(D, D), Attention(attend, groups, repeat)), lambda: torch.randn(16, T, D))
    assert worst(found, 0) < 1.1 and worst(found, 1) < 1.2, found


def test_attention_of_torch_is_predicted_in_every_gradient():
    layer = lambda: nn.TransformerEncoderLayer(D, HEADS, 2 * D, dropout=0.0, batch_first=True)  # noqa: E731
    found = ratios(lambda: nn.Sequential(nn.Linear(D, D), layer(), layer()), lambda: torch.randn(16, T, D))
    assert worst(found, 0) < 1.15 and worst(found, 1) < 1.3, found


def test_what_a_causal_mask_leaves_is_counted_by_rows():
    """Row t shows t + 1 keys: the mean of 1/(t + 1), and of the squares of what keys gather."""
    found, inverse = causal(5, 5), [1 / (t + 1) for t in range(5)]
    assert found.inverse == pytest.approx(sum(inverse) / 5)
    assert found.gathered == pytest.approx(sum(sum(inverse[s:]) ** 2 for s in range(5)) / 5)
    assert shown(torch.ones(5, 5).bool()).overlap == pytest.approx(0.2)


class Mixing(nn.Module):
    """A matrix that is known, between two layers."""

    def __init__(self, matrix: Tensor, on_units: bool, relu: bool = True):
        super().__init__()
        self.register_buffer("matrix", matrix)
        self.first, self.second = nn.Linear(D, D), nn.Linear(matrix.shape[1] if on_units else D, 2 * D)
        self.on_units, self.relu = on_units, relu

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = h.relu() if self.relu else h
        return self.second(h @ self.matrix if self.on_units else self.matrix @ h)


def ring(nodes: int) -> Tensor:
    eye = torch.eye(nodes)
    return (eye + eye.roll(1, 0) + eye.roll(-1, 0)) / 3


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("matrix", "on_units"),
    [
        (ring(T), False),
        (torch.randn(2 * T, T, generator=torch.Generator().manual_seed(0)) / T**0.5, False),
        (torch.full((T, T), 1 / T), False),
        (torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None], False),
        (torch.randn(D, 48, generator=torch.Generator().manual_seed(0)) / D**0.5, True),
        (torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0)))[0], True),
    ],
    ids=["ring", "random on places", "mean", "running mean", "random on units", "orthogonal on units"],
)
def test_a_known_matrix_is_predicted_by_its_values(matrix: Tensor, on_units: bool, relu: bool):
    found = ratios(lambda: Mixing(matrix, on_units, relu), lambda: torch.randn(32, T, D))
    assert worst(found, 0) < 1.1 and worst(found, 1) < 1.12, found


def test_a_mean_of_three_neighbours_leaves_a_third_of_independent_nodes():
    torch.manual_seed(0)
    model = Mixing(ring(T), on_units=False, relu=False)
    nn.init.zeros_(model.first.bias)
    rows = {row.label: row for row in mf.signal(model, torch.randn(32, T, D))}
    share = rows["matmul"].predicted.forward / mf.signal(model, torch.randn(32, T, D))["first"].predicted.forward
    assert share == pytest.approx(3**-0.5, rel=0.02)


class Conv1D(nn.Module):
    """GPT-2's: a matrix [in, out], by addmm."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(width_in, width_out) / width_in**0.5), nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Gated(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int):
        super().__init__()
        self.conv, self.down, self.up = (
            nn.Conv2d(width, width, 3, padding=1),
            nn.Conv2d(width, width // 2, 1),
            nn.Conv2d(width // 2, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class HandNorm(nn.Module):
    def __init__(self, centred: bool):
        super().__init__()
        self.centred, self.fc = centred, nn.Linear(128, 128)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x).relu()
        if not self.centred:
            return h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (h - h.mean(-1, keepdim=True)) / torch.sqrt(h.var(-1, keepdim=True, unbiased=False) + 1e-6)


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], float, float]] = {
    "addmm": (lambda: nn.Sequential(nn.Linear(D, D), Conv1D(D, 96), nn.GELU(), Conv1D(96, 32)), lambda: torch.randn(16, T, D), 1.1, 1.1),
    "squeeze and excitation": (lambda: nn.Sequential(Gated(D), nn.ReLU(), Gated(D)), lambda: torch.randn(16, D, 8, 8), 1.2, 1.2),
    "RMSNorm by hand": (
        lambda: nn.Sequential(HandNorm(False), HandNorm(False), nn.Linear(128, 64)),
        lambda: torch.randn(32, 128),
        1.05,
        1.15,
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_nets_of_unusual_calls_are_predicted(name: str):
    make, batch, forward, backward = NETS[name]
    found = {key: pair for key, pair in ratios(make, batch).items() if key[0] and key[1] in ("Linear", "Conv1D", "Conv2d", "GELU", "ReLU")}
    assert worst(found, 0) < forward and worst(found, 1) < backward, found


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3)))),
    "squared relu": lambda x: torch.relu(x).pow(2),
    "snake": lambda x: x + torch.sin(x) ** 2,
    "square": lambda x: x * x,
    "x + relu": lambda x: x + torch.relu(x),
    "mish": lambda x: x * torch.tanh(F.softplus(x)),
    "softcap": lambda x: torch.tanh(x / 2) * 2,
    "(|x| - x)/2": lambda x: (x.abs() - x) / 2,
    "1 - x": lambda x: 1 - x,
    "x/(1 + |x|)": lambda x: x / (1 + x.abs()),
}


class Written(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function, self.first, self.last = function, nn.Linear(256, 256), nn.Linear(256, 256)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_written_out_is_predicted_as_one(name: str):
    found = ratios(lambda: Written(ACTIVATIONS[name]), lambda: 3 * torch.randn(128, 256), draws=2)
    (last,) = (pair for (layer, _), pair in found.items() if layer == "last")
    (first,) = (pair for (layer, _), pair in found.items() if layer == "first")
    assert last[0] == pytest.approx(1, rel=0.05) and first[1] == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("batch", "tolerance"), [(8, 1.25), (32, 1.2), (128, 1.1)])
def test_the_gradient_through_batch_norms_of_a_small_batch(batch: int, tolerance: float):
    """Each of 8 layers adds to it: without the correction the first is predicted at half of what is measured with a batch of 8."""

    def make() -> nn.Module:
        layers = [part for k in range(8) for part in (nn.Linear(64 if k == 0 else 128, 128), nn.BatchNorm1d(128), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(128, 10)).train()

    found = ratios(make, lambda: torch.randn(batch, 64), draws=3)
    assert worst(found, 1) < tolerance, found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x0_5"])
def test_gradients_of_torchvisions_models_with_batch_norms(name: str):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    table = mf.signal(torchvision.models.get_model(name, weights=None).train(), torch.randn(8, 3, 64, 64))
    found = torch.tensor([_log(row, "gradient") for row in table if row.predicted.gradient > 0])
    assert abs(found.median().item()) < math.log(1.2)
    assert [row.verdict for row in table if row.verdict not in ("ok", "weak")] == [] and table.warnings == ()


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("scale", [1.0, 3.0, 9.0])
def test_attention_of_large_scores_is_predicted_forth_and_back(scale, is_causal):
    """From nearly even weights to nearly one token alone, at which the gradient of the queries is small, not 0."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), mf.Attention(64, 4, causal=is_causal))
    with torch.no_grad():
        model[1].query.weight.mul_(scale)
        model[1].key.weight.mul_(3)
    rows = {row.layer: row for row in mf.signal(model, torch.randn(48, 32, 64))}
    for name, tolerance in (("1.query", 0.25), ("1.key", 0.12), ("1.value", 0.06)):
        found = rows[name]
        assert found.predicted.gradient == pytest.approx(found.measured.gradient, rel=tolerance), name
