"""Stacked models: the numbers of each do not depend on which others there are, and are its own to float32 accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from modelfactory.config.errors import ConfigError
from modelfactory.training.stacked import Stacked

BATCHES, MOST = 4, 9


def make(kind: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first: list[nn.Module] = {
            "mlp": [nn.Flatten(), nn.Linear(64, 20), nn.LayerNorm(20), nn.GELU()],
            "rms_norm": [nn.Flatten(), nn.Linear(64, 20, bias=False), nn.RMSNorm(20), nn.Tanh(), nn.Linear(20, 20)],
        }[kind]
        return nn.Sequential(*first, nn.Linear(20, 10))


def batches() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(MOST, BATCHES, 32, 1, 8, 8, generator=generator), torch.randint(0, 10, (MOST, BATCHES, 32), generator=generator)


def optimizer_of(model: nn.Module, seed: int) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01 * (1 + seed), fused=True)


def train(kind: str, seeds: Sequence[int]) -> list[tuple[list[float], dict[str, Tensor]]]:
    """Losses and state of each model, stacked with the others; each with its own optimizer and its own data."""
    models = [make(kind, seed) for seed in seeds]
    stacked = Stacked(models, nn.CrossEntropyLoss())
    optimizers = [optimizer_of(model, seed) for model, seed in zip(models, seeds, strict=True)]
    x, y = (part[list(seeds)] for part in batches())
    losses = []
    for step in range(BATCHES):
        losses.append(stacked.backward(x[:, step], y[:, step]))
        for model, optimizer in zip(models, optimizers, strict=True):
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
    return [(torch.stack(losses)[:, place].tolist(), model.state_dict()) for place, model in enumerate(models)]


def alone(kind: str, seed: int) -> tuple[list[float], dict[str, Tensor]]:
    model, losses = make(kind, seed), []
    optimizer = optimizer_of(model, seed)
    for x, y in zip(*(part[seed] for part in batches()), strict=True):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


@pytest.mark.parametrize("kind", ["mlp", "rms_norm"])
def test_a_models_numbers_do_not_depend_on_what_it_is_stacked_with_and_are_its_own(kind: str):
    every = train(kind, range(MOST))
    for seeds in ([3], [3, 0], [8, 3, 1], list(range(MOST))[::-1]):
        for seed, (losses, state) in zip(seeds, train(kind, seeds), strict=True):
            assert losses == every[seed][0]
            assert all(torch.equal(tensor, every[seed][1][name]) for name, tensor in state.items())
    for seed in range(MOST):
        losses, state = alone(kind, seed)
        assert every[seed][0] == pytest.approx(losses, rel=1e-5)
        for name, tensor in state.items():
            torch.testing.assert_close(every[seed][1][name], tensor, rtol=1e-3, atol=1e-5)


def test_a_model_that_leaves_keeps_its_tensors_and_harms_no_other():
    models = [make("mlp", seed) for seed in range(3)]
    x, y = (part[:3, 0] for part in batches())
    stacked = Stacked(models, nn.CrossEntropyLoss())
    before = {name: tensor.clone() for name, tensor in models[1].state_dict().items()}
    outputs = stacked.outputs(x)
    left = stacked.without([1])
    assert torch.equal(left.outputs(x[[0, 2]]), outputs[[0, 2]])
    left.backward(x[[0, 2]], y[[0, 2]])
    with torch.no_grad():
        for parameter in models[0].parameters():
            parameter.add_(1)
    assert models[1].get_parameter("1.weight").grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in models[1].state_dict().items())


def test_gradients_add_up_as_in_torch():
    models = [make("mlp", seed) for seed in range(2)]
    x, y = (part[:2] for part in batches())
    stacked = Stacked(models, nn.CrossEntropyLoss())
    stacked.backward(x[:, 0], y[:, 0], torch.tensor([0.5, 0.25]))
    stacked.backward(x[:, 1], y[:, 1], torch.tensor([0.5, 0.75]))
    own = make("mlp", 1)
    (0.25 * nn.functional.cross_entropy(own(x[1, 0]), y[1, 0]) + 0.75 * nn.functional.cross_entropy(own(x[1, 1]), y[1, 1])).backward()
    for ours, alone in zip(models[1].parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, alone.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([nn.Linear(2, 2), nn.Linear(2, 3)], "different architectures"),
        ([nn.Sequential(nn.Linear(2, 2), nn.Dropout())] * 2, r"layer '1' \(Dropout\) draws"),
        ([nn.Sequential(nn.BatchNorm1d(2))] * 2, r"layer '0' \(BatchNorm1d\) keeps statistics"),
        ([nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False)], "freeze different parameters"),
    ],
    ids=["shapes", "dropout", "statistics", "frozen"],
)
def test_what_cannot_be_stacked_is_refused_with_its_reason(models: list[nn.Module], message: str):
    with pytest.raises(ConfigError, match=message):
        Stacked(models, nn.CrossEntropyLoss())
