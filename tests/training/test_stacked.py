"""Stacked models: the numbers of each do not depend on which others there are, and are its own to float32 accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from modelfactory.config.errors import ConfigError
from modelfactory.training.one_by_one import Stream
from modelfactory.training.stacked import Stacked

BATCHES, MOST = 4, 9


class Odd(nn.Module):
    """A layer of somebody's own: it looks at values, writes a buffer and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(20))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if float(x.detach().sum()) > 0:
            x = x + 0.1 * torch.randn(20)
        return x * self.weight


MIDDLES: dict[str, Callable[[], list[nn.Module]]] = {
    "layer_norm": lambda: [nn.LayerNorm(20), nn.GELU()],
    "rms_norm": lambda: [nn.RMSNorm(20), nn.Tanh(), nn.Linear(20, 20)],
    "batch_norm": lambda: [nn.BatchNorm1d(20), nn.ReLU()],
    "dropout": lambda: [nn.Dropout(0.3), nn.Linear(20, 20), nn.AlphaDropout(0.2)],
    "odd": lambda: [Odd(), nn.ReLU()],
}


def make(kind: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # the gradient of a bias before batch norm is nothing but rounding, which AdamW would make steps of
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 20, bias=kind != "batch_norm"), *MIDDLES[kind](), nn.Linear(20, 10))


def batches() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(MOST, BATCHES, 32, 1, 8, 8, generator=generator), torch.randint(0, 10, (MOST, BATCHES, 32), generator=generator)


def loss_of(seed: int) -> nn.Module:
    return nn.CrossEntropyLoss(label_smoothing=0.1 * (seed % 2))


def optimizer_of(model: nn.Module, seed: int) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01 * (1 + seed), fused=True)


def train(kind: str, seeds: Sequence[int]) -> list[tuple[list[float], dict[str, Tensor]]]:
    """Losses and state of each model, stacked with the others; each with its own optimizer, loss, data and draws."""
    models = [make(kind, seed) for seed in seeds]
    streams = [Stream(torch.Generator().manual_seed(seed).get_state()) for seed in seeds]
    stacked = Stacked(models, [loss_of(seed) for seed in seeds], streams)
    optimizers = [optimizer_of(model, seed) for model, seed in zip(models, seeds, strict=True)]
    x, y = (part[list(seeds)] for part in batches())
    losses = []
    with torch.random.fork_rng(devices=[]):
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for x, y in zip(*(part[seed] for part in batches()), strict=True):
            optimizer.zero_grad()
            loss = loss_of(seed)(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            losses.append(loss.item())
    return losses, model.state_dict()


@pytest.mark.parametrize("kind", MIDDLES)
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


def test_wide_layers_give_the_same_bits_for_any_number_of_models_and_threads():
    def numbers_of(count: int, threads: int) -> Tensor:
        """Loss and gradients of the first of some models."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            x = torch.randn(64, 64)
            models = [nn.Sequential(nn.Linear(64, 130), nn.ReLU(), nn.Linear(130, 10)) for _ in range(count)]
        kept = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            losses = Stacked(models, nn.MSELoss()).backward(x.expand(count, 64, 64), torch.zeros(count, 64, 10))
        finally:
            torch.set_num_threads(kept)
        gradients = [parameter.grad for parameter in models[0].parameters()]
        return torch.cat([losses[:1], *(gradient.flatten() for gradient in gradients if gradient is not None)])

    one = numbers_of(1, 1)
    assert len(one) == 1 + sum(p.numel() for p in nn.Sequential(nn.Linear(64, 130), nn.Linear(130, 10)).parameters())
    assert all(torch.equal(numbers_of(count, threads), one) for count in (2, 7, 64) for threads in (1, 2))


def test_a_model_that_leaves_keeps_its_tensors_and_harms_no_other():
    models = [make("batch_norm", seed) for seed in range(3)]
    x, y = (part[:3, 0] for part in batches())
    stacked = Stacked(models, nn.CrossEntropyLoss())
    for model in models:
        model.eval()
    before = {name: tensor.clone() for name, tensor in models[1].state_dict().items()}
    outputs, losses = stacked.evaluate(x, y)
    left = stacked.without([1])
    after = left.evaluate(x[[0, 2]], y[[0, 2]])
    assert torch.equal(after[0], outputs[[0, 2]]) and torch.equal(after[1], losses[[0, 2]])
    left.backward(x[[0, 2]], y[[0, 2]])
    with torch.no_grad():
        for parameter in models[0].parameters():
            parameter.add_(1)
    assert models[1].get_parameter("1.weight").grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in models[1].state_dict().items())


def test_some_of_the_models_are_computed_to_the_same_bits_as_all():
    models = [make("layer_norm", seed) for seed in range(4)]
    x, y = (part[:4, 0] for part in batches())
    stacked = Stacked(models, nn.CrossEntropyLoss())
    outputs, losses = stacked.evaluate(x, y)
    some = stacked.evaluate(x[[3, 1]], y[[3, 1]], [3, 1])
    assert torch.equal(some[0], outputs[[3, 1]]) and torch.equal(some[1], losses[[3, 1]])
    stacked.backward(x, y)
    whole = [parameter.grad for parameter in models[3].parameters()]
    for model in models:
        model.zero_grad()
    stacked.backward(x[[3, 1]], y[[3, 1]], rows=[3, 1])
    assert all(parameter.grad is None for parameter in models[0].parameters())
    for before, parameter in zip(whole, models[3].parameters(), strict=True):
        assert before is not None and parameter.grad is not None and torch.equal(before, parameter.grad)


def test_gradients_add_up_as_in_torch():
    models = [make("layer_norm", seed) for seed in range(2)]
    x, y = (part[:2] for part in batches())
    stacked = Stacked(models, nn.CrossEntropyLoss())
    stacked.backward(x[:, 0], y[:, 0], torch.tensor([0.5, 0.25]))
    stacked.backward(x[:, 1], y[:, 1], torch.tensor([0.5, 0.75]))
    own = make("layer_norm", 1)
    (0.25 * nn.functional.cross_entropy(own(x[1, 0]), y[1, 0]) + 0.75 * nn.functional.cross_entropy(own(x[1, 1]), y[1, 1])).backward()
    for ours, alone in zip(models[1].parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, alone.grad, rtol=1e-4, atol=1e-6)


def test_each_model_trains_the_parameters_that_it_has_not_frozen():
    models = [make("layer_norm", seed) for seed in range(2)]
    models[0].get_submodule("1").requires_grad_(False)
    x, y = (part[:2, 0] for part in batches())
    Stacked(models, nn.CrossEntropyLoss()).backward(x, y)
    assert [model.get_parameter("1.weight").grad is None for model in models] == [True, False]


def test_a_parameter_that_the_output_does_not_depend_on_has_no_gradient():
    models = [nn.Sequential(nn.Linear(4, 4)) for _ in range(2)]
    for model in models:
        model[0].register_parameter("unused", nn.Parameter(torch.ones(3)))
    Stacked(models, nn.MSELoss()).backward(torch.ones(2, 3, 4), torch.zeros(2, 3, 4))
    assert [parameter.grad is None for parameter in models[1].parameters()] == [False, False, True]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 3))], "different architectures"),
        ([nn.Sequential(nn.Conv1d(2, 2, 1))] * 2, r"no layer with parameters is one that stacks: 0 \(Conv1d\)"),
        ([Odd()] * 2, "the model is a Odd, whose own forward pass may do anything"),
    ],
    ids=["shapes", "no layer", "a model of one's own"],
)
def test_what_cannot_be_stacked_is_refused_with_its_reason(models: list[nn.Module], message: str):
    with pytest.raises(ConfigError, match=message):
        Stacked(models, nn.CrossEntropyLoss())
