"""A look at the signal never fails: calls of any kind cost at most their row, and a gradient behind them is absent or right."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import modelfactory as mf
from modelfactory.signal_propagation.predict import predict
from modelfactory.signal_propagation.verdict import FATAL

T, D = 12, 32


class Call(nn.Module):
    """A layer, a call of some kind, a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int = D, out: int | None = None):
        super().__init__()
        self.function, self.first, self.last = function, nn.Linear(width, width), nn.Linear(out or width, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


class RmsNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class ReshapedIds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(40, 16), nn.Linear(16, 40)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids.view(-1, ids.shape[-1])))


class Branching(nn.Module):
    """Which layer comes next depends on the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x) if x.sum() > 0 else self.a(x)


@dataclasses.dataclass
class Answer:
    logits: Tensor
    hidden: list[Tensor]
    name: str = "answer"


class Structured(nn.Module):
    def __init__(self, make: Callable[[Tensor, Tensor], Any]):
        super().__init__()
        self.make, self.body, self.head = make, nn.Linear(D, D), nn.Linear(D, 8)

    def forward(self, x: Tensor) -> Any:
        hidden = self.body(x)
        return self.make(self.head(hidden.relu()), hidden)


class Unpacking(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.last = inner, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        found = self.inner(x)
        return self.last(found["logits"] if isinstance(found, dict) else found.logits)


def scattered(x: Tensor) -> Tensor:
    out = torch.zeros_like(x)
    out[:, ::2] = x[:, 1::2]
    return out


def added_by_index(x: Tensor) -> Tensor:
    return torch.zeros(x.shape[0], 4, D).index_add_(1, torch.arange(T) % 4, x)


def routed(x: Tensor) -> Tensor:
    """The two largest of the units, and the rest of them by a softmax."""
    values, places = x.topk(2, dim=-1)
    return x.scatter_add(-1, places, values.softmax(-1))


CALLS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    name: (lambda function=function: Call(function), lambda: torch.randn(16, T, D))
    for name, function in {
        "fft": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1), n=T, dim=1),
        "complex": lambda x: torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * (1 + 1j)).flatten(-2),
        "complex abs": lambda x: (x * 1j).abs(),
        "einsum": lambda x: torch.einsum("ntd,nsd,nse->nte", x, x, x) / T,
        "index_add": added_by_index,
        "setitem": scattered,
        "topk and scatter": routed,
        "stack": lambda x: torch.stack([x, x.relu(), -x], 1).sum(1),
        "stack and mean": lambda x: torch.stack([x, x.roll(1, 1)], -1).mean(-1),
        "roll": lambda x: x.roll(3, dims=1),
        "repeat_interleave": lambda x: x.repeat_interleave(3, 1),
        "expand": lambda x: x[:, None].expand(-1, 2, -1, -1).flatten(1, 2),
        "cumsum": lambda x: x.cumsum(1) / T**0.5,
        "sort": lambda x: x.sort(-1).values,
        "gather": lambda x: x.gather(1, torch.randint(0, T, (16, T, D))),
        "unfold": lambda x: x.unfold(1, 3, 1).mean(-1),
        "norm": lambda x: x / x.norm(dim=-1, keepdim=True),
        "normalize": lambda x: F.normalize(x, dim=-1),
        "logsumexp": lambda x: x - x.logsumexp(-1, keepdim=True),
        "log of a square": lambda x: (x * x + 0.1).log(),
        "division by a signal": lambda x: x / (x.abs() + 0.5),
        "maximum": lambda x: torch.maximum(x, x.flip(1)),
        "where": lambda x: torch.where(x > 0, x, 0.1 * x.flip(1)),
        "lerp": lambda x: torch.lerp(x, x.flip(1), 0.3),
        "addcmul": lambda x: torch.addcmul(x, x, x),
        "no gradient": lambda x: x + x.detach().cumsum(1),
        "T and mT": lambda x: (x.mT @ x).mT / T**0.5 if x.ndim > 2 else x,
        "outer product": lambda x: (x.unsqueeze(-1) * x.unsqueeze(-2)).mean(-1),
        "cdist": lambda x: x + torch.cdist(x, x).mean(-1, keepdim=True),
        "vmap": lambda x: torch.vmap(lambda row: row * row.sigmoid())(x),
        "numpy": lambda x: x + torch.from_numpy(x.detach().numpy() * 0.1),
        "in-place": lambda x: x.clone().mul_(2.0).clamp_(-1, 1),
        "in-place on a view": lambda x: x.clone().narrow(1, 0, 4).relu_(),
        "bilinear": lambda x: F.bilinear(x, x, torch.randn(D, D, D) / D),
        "scatter_reduce": lambda x: x.scatter_reduce(1, torch.arange(T).flip(0)[None, :, None].expand(16, T, D), x, "mean"),
    }.items()
}
OTHERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "hand-written RMSNorm": (
        lambda: nn.Sequential(nn.Linear(48, 48), RmsNorm(48), nn.SiLU(), nn.Linear(48, 4)),
        lambda: torch.randn(16, 48),
    ),
    "narrow RMSNorm": (lambda: nn.Sequential(nn.Linear(6, 6), RmsNorm(6), nn.Linear(6, 4)), lambda: torch.randn(16, 6)),
    "reshaped ids": (ReshapedIds, lambda: torch.randint(0, 40, (4, 12))),
    "control flow": (Branching, lambda: torch.randn(16, D)),
    "LSTM": (lambda: nn.LSTM(D, D, batch_first=True), lambda: torch.randn(16, T, D)),
    "GRU": (lambda: nn.GRU(D, D, num_layers=2, batch_first=True, bidirectional=True), lambda: torch.randn(16, T, D)),
    "a dict": (lambda: Structured(lambda logits, hidden: {"logits": logits, "hidden": [hidden]}), lambda: torch.randn(16, D)),
    "a dataclass": (lambda: Structured(lambda logits, hidden: Answer(logits, [hidden])), lambda: torch.randn(16, D)),
    "a tuple": (lambda: Structured(lambda logits, hidden: (logits, None, (hidden, 3))), lambda: torch.randn(16, D)),
    "a dict inside": (lambda: Unpacking(Structured(lambda logits, _: {"logits": logits})), lambda: torch.randn(16, D)),
    "a dataclass inside": (lambda: Unpacking(Structured(lambda logits, _: Answer(logits, []))), lambda: torch.randn(16, D)),
    "an in-place first call": (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(D, 4)), lambda: torch.randn(16, D)),
    "nothing": (nn.Identity, lambda: torch.randn(16, D)),
    "one sample": (lambda: nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, 4)), lambda: torch.randn(1, D)),
    "a batch of zeros": (lambda: nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, 4)), lambda: torch.zeros(16, D)),
    "a batch with NaN": (lambda: nn.Sequential(nn.Linear(D, D), nn.ReLU()), lambda: torch.full((16, D), math.nan)),
    "bytes": (lambda: Call(lambda x: x, 64), lambda: torch.randn(16, 64).bfloat16().float()),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, batch = (CALLS | OTHERS)[name]
    return make(), batch()


@pytest.mark.parametrize("name", [*CALLS, *OTHERS])
def test_a_look_gives_a_table_whatever_is_called(name: str):
    model, batch = build(name)
    table = mf.signal(model, batch)
    assert table.failures == ()
    assert len(table) > 0 or name == "nothing"
    assert isinstance(str(table), str) and table.to_csv().startswith("layer,")
    if name != "a batch with NaN":
        assert [(row.label, row.verdict) for row in table if row.verdict in FATAL and row.verdict != "dead"] == []


@pytest.mark.parametrize("name", CALLS)
def test_behind_a_call_of_any_kind_a_gradient_is_absent_or_right(name: str):
    """The mean over three draws, as what finite widths leave of chance is no fault of the prediction."""
    logs = []
    for seed in range(3):
        model, batch = build(name)
        torch.manual_seed(seed)
        for layer in (model.first, model.last):
            layer.reset_parameters()
        row = mf.signal(model, batch, seed=seed)["first"]
        if row.predicted.gradient > 0:
            logs.append(math.log(row.predicted.gradient / row.measured.gradient))
    assert not logs or abs(sum(logs) / len(logs)) < math.log(1.25), f"predicted over measured {math.exp(sum(logs) / len(logs)):.2f}"


@pytest.mark.parametrize("name", ["fft", "cumsum", "topk and scatter", "einsum"])
def test_what_is_not_predicted_says_so_with_the_operators_name(name: str):
    model, batch = build(name)
    notes = [row.note for row in mf.signal(model, batch)]
    operator = {"fft": "fft", "topk and scatter": "topk"}.get(name, name)
    assert any(note.startswith("not predicted") and operator in note for note in notes) or any(operator in note for note in notes), notes


def test_without_a_measurement_a_gradient_behind_an_unknown_call_is_absent():
    model, batch = build("cumsum")
    moments = {name: (0.0, 0.1) for name, _ in model.named_parameters()}
    first, unknown, _, last = predict(model.to("meta"), batch, moments)
    assert math.isnan(first.predicted.gradient) and "cumsum" in first.note
    assert math.isnan(unknown.predicted.forward) and "not predicted" in unknown.note
    assert last.predicted.gradient == 1.0


def test_a_model_takes_named_and_several_inputs():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(D, D), nn.Linear(D, D)

        def forward(self, x: Tensor, context: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
            return {"logits": self.a(x) + scale * self.b(context)}

    model = Two()
    x, context = torch.randn(16, D), 3 * torch.randn(16, D)
    for example in ((x, context), {"x": x, "context": context, "scale": 1.0}):
        table = mf.signal(model, example)
        for row in table:
            assert row.measured.forward == pytest.approx(row.predicted.forward, rel=0.15), row.layer


def test_a_batch_is_left_as_it_is_by_a_model_that_overwrites_it():
    x = torch.randn(16, D)
    kept = x.clone()
    mf.signal(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(D, 4)), x)
    assert torch.equal(x, kept)


def test_a_buffer_that_a_forward_replaces_is_put_back():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))
            self.fc = nn.Linear(D, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.count = self.count + 1
            return self.fc(x)

    model = Counting()
    buffer = model.count
    mf.signal(model, torch.randn(16, D))
    assert model.count is buffer and model.count.item() == 0


def test_a_rule_that_raises_costs_its_row_and_is_one_warning(monkeypatch: pytest.MonkeyPatch):
    from modelfactory.signal_propagation.rules import base
    from modelfactory.signal_propagation.rules import table as rules

    def broken(*_: Any) -> Any:
        raise IndexError("no such place")

    monkeypatch.setitem(rules.RULES, "layer_norm", base.PropagationRule(broken, broken))
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 8))
    table = mf.signal(model, torch.randn(64, 64))
    (warning,) = table.warnings
    assert warning.startswith("a look at the signal failed at 1 (layer_norm): IndexError: no such place (and at ")
    assert "not predicted" in table["1"].note and math.isnan(table["1"].predicted.forward)
    for name in ("2", "4"):
        assert table[name].predicted.forward == pytest.approx(table[name].measured.forward, rel=0.2)
    assert math.isfinite(table["1"].measured.forward)
