"""Construction without initialising, and the author's own values keyed by name."""

import random
import threading

import numpy
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.init import constant_, orthogonal_
from torch.utils._python_dispatch import TorchDispatchMode

import modelfactory as mf
from modelfactory.init.construction import construction

DRAWS = ("normal_", "uniform_", "bernoulli_", "random_", "exponential_", "randn", "rand", "randperm", "randint")


class CountDraws(TorchDispatchMode):
    """Counts the numbers that are drawn on the CPU."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in DRAWS and isinstance(out, torch.Tensor) and out.device.type == "cpu":
            CountDraws.numbers += out.numel()
        return out


@pytest.mark.parametrize("name", ["resnet18", "vit_b_32", "swin_t", "convnext_tiny", "mobilenet_v3_small"])
def test_construction_draws_nothing(name):
    CountDraws.numbers = 0
    with CountDraws(), construction(0, "") as recording:
        model = torchvision.models.get_model_builder(name)(num_classes=3)
    assert CountDraws.numbers == 0
    with CountDraws():
        for key, parameter in model.named_parameters():
            recording.replay(parameter, 0, key)
    with torch.random.fork_rng():
        by_hand = torchvision.models.get_model_builder(name)(num_classes=3)
    for (key, parameter), other in zip(model.named_parameters(), by_hand.parameters(), strict=True):
        if parameter.numel() > 2000:
            assert parameter.std().item() == pytest.approx(other.std().item(), rel=0.1, abs=1e-6), key
    for (key, buffer), other in zip(model.named_buffers(), by_hand.buffers(), strict=True):
        assert torch.equal(buffer, other), key


class Traps(nn.Module):
    """What constructors in the wild do."""

    def __init__(self):
        super().__init__()
        self.scaled = nn.Parameter(torch.randn(300, 40) * 0.02)
        self.filled = nn.Parameter(torch.empty(5, 100, 20).normal_(std=0.03))
        self.register_buffer("line", torch.linspace(0, 1, 10))
        self.register_buffer("noise", torch.randn(2000))
        self.free = torch.rand(3000)
        self.embedding = nn.Embedding(50, 30, padding_idx=2)
        self.square = nn.Linear(30, 30)
        orthogonal_(self.square.weight)
        constant_(self.square.bias, 0.5)
        self.cut = nn.Linear(100, 100)
        nn.init.trunc_normal_(self.cut.weight, std=0.02)
        self.cut.weight.data.mul_(3)
        self.rows = nn.Parameter(torch.zeros(3, 50))
        with torch.no_grad():
            self.rows[1] = torch.rand(50)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(20, 30))
        self.chosen = nn.Parameter(torch.ones(4) if bool(torch.rand(1) < 2) else torch.zeros(4))


def built_traps(seed: int = 0) -> Traps:
    with construction(seed, "") as recording:
        model = Traps()
        recording.settle(model, seed)
    for name, parameter in model.named_parameters():
        recording.replay(parameter, seed, name)
    return model


def test_what_a_constructor_means_comes_out():
    model = built_traps()
    assert model.scaled.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.filled.std().item() == pytest.approx(0.03, rel=0.03)
    assert torch.equal(model.line, torch.linspace(0, 1, 10))  # pyright: ignore[reportArgumentType]
    assert model.noise.std().item() == pytest.approx(1, abs=0.06)  # pyright: ignore
    assert model.free.mean().item() == pytest.approx(0.5, abs=0.03)
    assert not model.embedding.weight[2].any() and model.embedding.weight[3].any()
    assert torch.allclose(model.square.weight @ model.square.weight.T, torch.eye(30), atol=1e-5)
    assert bool((model.square.bias == 0.5).all())
    assert model.cut.weight.std().item() == pytest.approx(0.06, rel=0.03)
    assert not model.rows[0].any() and bool((model.rows[1] > 0).any()) and bool((model.rows <= 1).all())
    assert bool(torch.isfinite(model.normed(torch.ones(2, 20))).all()) and model.normed.weight.std() > 0.05
    assert bool((model.chosen == 1).all())


def test_clones_of_a_layer_are_drawn_each():
    model = built_traps()
    first, second = (layer.linear1.weight for layer in model.encoder.layers)  # pyright: ignore
    assert not torch.equal(first, second)


def test_the_same_seed_gives_the_same_values_and_another_others():
    one, same, other = (built_traps(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["scaled"], other["scaled"]) and not torch.equal(one["noise"], other["noise"])


def test_no_global_random_state_changes():
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.tensor([random.random(), float(numpy.random.rand())]) + torch.rand(2).sum().item())

    torch.manual_seed(3), random.seed(3), numpy.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()  # pyright: ignore
    with construction(0, ""):
        Draws(), Traps()
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate() and before[2] == numpy.random.get_state()[1].tolist()  # pyright: ignore


def test_other_threads_initialise_as_ever():
    started, go = threading.Event(), threading.Event()
    made = []

    def other() -> None:
        started.wait(5)
        layer = nn.Linear(50, 50)
        nn.init.trunc_normal_(layer.weight, std=0.5)
        nn.init.orthogonal_(layer.weight[:10])
        made.append(layer.weight.std().item())
        go.set()

    thread = threading.Thread(target=other)
    thread.start()
    with construction(0, "") as recording:
        noted = nn.Linear(50, 50)
        started.set()
        assert go.wait(5)
    thread.join()
    assert made[0] > 0.3
    assert recording.replay(noted.weight, 0, "weight")
    assert nn.init.trunc_normal_.__module__ == "torch.nn.init" and nn.init.orthogonal_(torch.empty(2, 2)).any()


def test_a_rule_is_the_only_draw_of_a_build():
    config = {"model": {"_target_": "torchvision.models.resnet18", "num_classes": 3}, "data": {"input_shape": [3, 32, 32]}}
    plan = mf.plan({**config, "init": "kaiming_normal"})
    CountDraws.numbers = 0
    with CountDraws():  # the mode sees this thread's draws, so all of them are made in it
        import modelfactory.init.apply as apply

        whole, apply._WORTH_A_THREAD = apply._WORTH_A_THREAD, 1 << 60
        try:
            plan.build()
        finally:
            apply._WORTH_A_THREAD = whole
    assert CountDraws.numbers == sum(row.numel for row in plan.ledger if row.scheme == "kaiming_normal")
