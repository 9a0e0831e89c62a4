"""Verdicts as a classifier: which nets are called unable to train, and which of them train; what is no fault of a net gets none."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import modelfactory as mf
from modelfactory.model.layers.containers import Residual
from modelfactory.numerics.activation import ACTIVATIONS
from modelfactory.signal_propagation.verdict import FATAL, is_fatal

WIDTH, STEPS = 48, 60
GUESS = math.log(10)
LEARNS, HARDLY = 0.7 * GUESS, 0.9 * GUESS  # after 60 steps: below the one a net has learned, above the other it has not


@dataclass(frozen=True)
class Cell:
    """A net of a kind and depth, the activation in it, and how its matrices are drawn."""

    kind: str
    depth: int
    act: str
    init: str

    def build(self, seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        model = KINDS[self.kind](self.depth, ACTIVATIONS[self.act])
        if self.init.startswith("std "):
            rules = {"w": {"role": "weight", "scheme": "normal", "std": float(self.init[4:])}}
        elif self.init == "xavier_normal":  # the paper's own, gain 1
            rules = {"w": {"role": "weight", "scheme": self.init}, "b": {"role": "bias", "scheme": "zeros"}}
        else:
            rules = self.init
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if rules != "default":
                mf.initialize(model, rules, seed=seed, example=torch.zeros(2, 64))
        return model


def plain(depth: int, act: type[nn.Module]) -> nn.Module:
    hidden = [part for _ in range(depth) for part in (nn.Linear(WIDTH, WIDTH), act())]
    return nn.Sequential(nn.Linear(64, WIDTH), act(), *hidden, nn.Linear(WIDTH, 10))


def normed(depth: int, act: type[nn.Module]) -> nn.Module:
    hidden = [part for _ in range(depth) for part in (nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), act())]
    return nn.Sequential(nn.Linear(64, WIDTH), act(), *hidden, nn.Linear(WIDTH, 10))


def residual(depth: int, act: type[nn.Module]) -> nn.Module:
    blocks = [Residual({"a": nn.Linear(WIDTH, WIDTH), "act": act(), "b": nn.Linear(WIDTH, WIDTH)}) for _ in range(depth)]
    return nn.Sequential(nn.Linear(64, WIDTH), *blocks, nn.Linear(WIDTH, 10))


def pre_norm(depth: int, act: type[nn.Module]) -> nn.Module:
    block = {"n": nn.LayerNorm(WIDTH), "a": nn.Linear(WIDTH, WIDTH), "act": act(), "b": nn.Linear(WIDTH, WIDTH)}
    blocks = [Residual({name: type_of(part) for name, part in block.items()}) for _ in range(depth)]
    return nn.Sequential(nn.Linear(64, WIDTH), *blocks, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10))


def type_of(part: nn.Module) -> nn.Module:
    """Another module of the same kind and sizes."""
    if isinstance(part, nn.Linear):
        return nn.Linear(part.in_features, part.out_features)
    return nn.LayerNorm(WIDTH) if isinstance(part, nn.LayerNorm) else type(part)()


KINDS: dict[str, Callable[[int, type[nn.Module]], nn.Module]] = {
    "plain": plain,
    "normed": normed,
    "residual": residual,
    "pre_norm": pre_norm,
}
CELLS = [
    Cell("plain", 3, "relu", "kaiming_normal"),
    Cell("plain", 12, "relu", "kaiming_normal"),
    Cell("plain", 30, "relu", "xavier_normal"),
    Cell("plain", 40, "relu", "default"),
    Cell("plain", 3, "relu", "default"),
    Cell("plain", 4, "tanh", "xavier_normal"),
    Cell("plain", 16, "tanh", "xavier_normal"),
    Cell("plain", 12, "tanh", "std 0.01"),
    Cell("plain", 8, "relu", "std 0.02"),
    Cell("plain", 14, "sigmoid", "xavier_normal"),
    Cell("plain", 16, "gelu", "auto"),
    Cell("plain", 20, "silu", "auto"),
    Cell("plain", 20, "silu", "default"),
    Cell("plain", 20, "relu", "std 1"),
    Cell("normed", 8, "relu", "std 1"),
    Cell("normed", 8, "tanh", "std 0.02"),
    Cell("residual", 4, "relu", "kaiming_normal"),
    Cell("residual", 20, "gelu", "auto"),
    Cell("residual", 40, "relu", "kaiming_normal"),
    Cell("residual", 20, "relu", "std 0.02"),
    Cell("pre_norm", 12, "gelu", "xavier_normal"),
    Cell("pre_norm", 20, "relu", "auto"),
]


def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    x = torch.tensor(found.data, dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(found.target)


def loss_reached(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The mean training loss of the last ten of 60 steps of Adam at 1e-3; infinite where it stops being a number."""
    optimizer, generator = torch.optim.Adam(model.parameters(), 1e-3), torch.Generator().manual_seed(0)
    losses = []
    for _ in range(STEPS):
        batch = torch.randint(0, len(x), (128,), generator=generator)
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    reached = sum(losses[-10:]) / 10
    return reached if math.isfinite(reached) else math.inf


def classify(cells: Iterable[Cell]) -> tuple[list[str], list[str], list[str]]:
    """Right alarms, false ones, and those that were missed."""
    x, y = digits()
    right, false, missed = [], [], []
    for cell in cells:
        model = cell.build()
        table = mf.signal(model, x[:128])
        alarm = is_fatal(table) or bool(table.remarks)
        loss = loss_reached(model, x, y)
        told = f"{cell}: {sorted({row.verdict for row in table})}, a loss of {loss:.2f}"
        if alarm and loss > HARDLY:
            right.append(told)
        if alarm and loss < LEARNS:
            false.append(told)
        if not alarm and loss > HARDLY:
            missed.append(told)
    return right, false, missed


def test_nets_that_are_called_unable_to_train_do_not_and_all_others_do():
    right, false, missed = classify(CELLS)
    assert false == [] and len(missed) <= 0.05 * len(CELLS), missed
    assert len(right) >= 5


def test_batch_norms_of_no_data_in_evaluation_mode_are_not_judged():
    """They pass the signal on as it is: that is not how the model trains."""
    model = nn.Sequential(*(part for _ in range(24) for part in (nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU())))
    for layer in model[::3]:
        nn.init.normal_(layer.weight, std=0.03)  # pyright: ignore[reportArgumentType]
    table = mf.signal(model.eval(), torch.randn(64, 64))
    assert table.warnings == () and not {row.verdict for row in table} & set(FATAL)
    assert any("model.train()" in row.note for row in table)
    assert {row.verdict for row in mf.signal(model.train(), torch.randn(64, 64))} == {"ok"}


def test_a_small_signal_that_a_norm_brings_back_has_not_vanished():
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    nn.init.normal_(model[0].weight, std=2e-5)  # pyright: ignore[reportArgumentType]
    nn.init.zeros_(model[0].bias)  # pyright: ignore[reportArgumentType]
    model[1].eps = 1e-12  # pyright: ignore[reportArgumentType, reportAttributeAccessIssue]
    assert mf.signal(model, torch.randn(64, 64))["0"].verdict == "ok"
    model[1] = nn.Identity()
    assert mf.signal(model, torch.randn(64, 64))["0"].verdict == "vanishing"
