"""Construction without initialising, and the author's own values keyed by name."""

import math
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
import torch
import torchvision
from scipy import stats
from torch import nn
from torch.nn.init import constant_, orthogonal_
from torch.utils._python_dispatch import TorchDispatchMode

import modelfactory as mf
from modelfactory.init import fill as apply
from modelfactory.model.deferred_construction import construction

DRAWS = ("normal_", "uniform_", "bernoulli_", "random_", "exponential_", "randn", "rand", "randperm", "randint")


class CountDraws(TorchDispatchMode):
    """Counts the numbers that are drawn on the CPU, in all and by the storage they are drawn into."""

    numbers = 0
    into: Counter[int] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in DRAWS and isinstance(out, torch.Tensor) and out.device.type == "cpu":
            CountDraws.numbers += out.numel()
            CountDraws.into[out.untyped_storage().data_ptr()] += out.numel()
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


@pytest.fixture
def one_thread(monkeypatch):
    """The mode sees this thread's draws, so all of them are made in it."""
    monkeypatch.setattr(apply, "_WORTH_A_THREAD", 1 << 60)


VIT = {"image_size": 32, "patch_size": 16, "num_layers": 2, "num_heads": 2, "hidden_dim": 64, "mlp_dim": 96}
SWIN = {"patch_size": [4, 4], "embed_dim": 24, "depths": [1, 2], "num_heads": [2, 4], "window_size": [4, 4]}
MODELS = [("resnet18", {}), ("VisionTransformer", VIT), ("SwinTransformer", SWIN), ("convnext_tiny", {})]


@pytest.mark.parametrize("init", ["default", "kaiming_normal"])
@pytest.mark.parametrize(("name", "arguments"), MODELS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_number_is_drawn_once_and_no_other_is(name, arguments, init, one_thread):
    model = {"_target_": f"torchvision.models.{name}", "num_classes": 3, **arguments}
    plan = mf.plan({"model": model, "data": {"input_shape": [3, 32, 32]}, "init": init})
    CountDraws.numbers, CountDraws.into = 0, Counter()
    with CountDraws():
        built = plan.build()
    random_numbers = 0
    for key, parameter in built.named_parameters():
        drawn = CountDraws.into[parameter.untyped_storage().data_ptr()]
        is_random = bool((parameter != parameter.flatten()[0]).any())
        assert drawn == (parameter.numel() if is_random else 0), key
        random_numbers += drawn
    assert CountDraws.numbers == random_numbers > 0


def made(module: type[nn.Module], seed: int = 0) -> nn.Module:
    with construction(seed, "") as recording:
        model = module()
        recording.settle(model, seed)
    for name, parameter in model.named_parameters():
        recording.replay(parameter, seed, name)
    return model


def test_functions_that_write_to_out_have_the_last_word():
    class Eyes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.gc = nn.Linear(4, 4), nn.Linear(30, 30)
            nn.init.eye_(self.fc.weight)
            with torch.no_grad():
                torch.mul(self.gc.weight, 0.5, out=self.gc.weight)

    CountDraws.numbers = 0
    with CountDraws():
        model = made(Eyes)
    assert torch.equal(model.fc.weight, torch.eye(4)) and CountDraws.numbers == 4 + 30 * 30 + 30
    assert 0.3 * 30**-0.5 < model.gc.weight.abs().max() <= 0.5 * 30**-0.5


@pytest.mark.parametrize(("rows", "columns"), [(4, 9), (9, 4), (5, 5)])
def test_orthogonal_imported_by_name(rows, columns):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(columns, rows)
            orthogonal_(self.fc.weight, 2.0)

    weight = made(Own).get_parameter("fc.weight")
    small = weight @ weight.T if rows <= columns else weight.T @ weight
    assert torch.allclose(small, 4 * torch.eye(min(rows, columns)), atol=1e-5)


def test_in_place_changes_of_form_happen_at_once():
    class Forms(nn.Module):
        def __init__(self):
            super().__init__()
            self.row = nn.Parameter(torch.randn(40).unsqueeze_(0))
            self.turned = nn.Parameter(torch.rand(40, 3).t_())
            self.grown = nn.Parameter(torch.empty(2).normal_().resize_(4).zero_())

    model = made(Forms)
    assert model.row.shape == (1, 40) and model.turned.shape == (3, 40) and model.grown.tolist() == [0, 0, 0, 0]
    assert model.row.std().item() == pytest.approx(1, abs=0.5) and 0 <= model.turned.min() < model.turned.max() <= 1


def test_tensors_that_no_module_knows_of_have_their_values():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.listed = [nn.Parameter(torch.randn(3000))]
            self.by_name = {"a": torch.rand(3000).requires_grad_()}
            self.part = torch.randn(6000)[::2]

    model = made(Hidden)
    for tensor, std in ((model.listed[0], 1.0), (model.by_name["a"], 12**-0.5), (model.part, 1.0)):
        assert tensor.std().item() == pytest.approx(std, rel=0.1)


def test_draws_of_other_types():
    class Types(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("bits", torch.empty(4000, dtype=torch.bool).bernoulli_(0.25))
            self.register_buffer("large", torch.empty(4000, dtype=torch.int64).random_(2**40))
            self.wave = nn.Parameter(torch.randn(4000, dtype=torch.complex64))
            self.brief = nn.Parameter(torch.randn(4000, dtype=torch.bfloat16))

    model = made(Types)
    assert model.bits.float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert model.large.double().mean().item() == pytest.approx(2**39, rel=0.05) and int(model.large.max()) > 2**39
    assert model.wave.real.std().item() == pytest.approx(0.5**0.5, rel=0.06) == model.wave.imag.std().item()
    assert model.brief.float().std().item() == pytest.approx(1, rel=0.06)


def test_a_draw_that_is_assigned_or_copied_goes_along():
    class Moves(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.gc = nn.Linear(50, 50), nn.Linear(50, 50)
            self.fc.weight.data = torch.randn(50, 50)
            self.gc.weight.data.copy_(torch.full((50, 50), 3.0))
            self.gc.bias.data.normal_(1.0, 0.1)
            self.both = nn.Parameter(torch.cat([torch.zeros(1, 50), torch.randn(1, 50)]))

    model = made(Moves)
    assert model.fc.weight.std().item() == pytest.approx(1, rel=0.1) and bool((model.gc.weight == 3).all())
    assert model.gc.bias.mean().item() == pytest.approx(1, abs=0.1) and model.gc.bias.std() < 0.2
    assert not model.both[0].any() and bool(model.both[1].all())


def test_a_constructor_with_values_draws_for_itself_alone():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            first = torch.randn(100)
            self.kept = nn.Parameter(first / first.norm())
            self.copy = first.clone()
            self.first = first

    model = made(Reads)
    assert model.kept.norm().item() == pytest.approx(1, rel=1e-5)
    assert torch.equal(model.copy, model.first) and torch.allclose(model.get_parameter("kept") * model.first.norm(), model.first)


class DrawsByHand(nn.Module):
    """No parameter, no buffer, and chance all the same."""

    def __init__(self):
        super().__init__()
        self.noise = torch.randn(3) + float(random.random()) + float(numpy.random.rand())

    def forward(self, x):
        return x + self.noise


def test_a_module_without_parameters_may_draw(monkeypatch):
    monkeypatch.setenv("MODELFACTORY_TRUST", __name__)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[DrawsByHand.__module__])
    layers = {"noise": {"_target_": f"{__name__}.DrawsByHand"}, "fc": {"_target_": "torch.nn.Linear", "out_features": 2}}
    config = {"model": {"layers": layers}, "data": {"input_shape": [3]}, "init": "kaiming_normal"}
    torch.manual_seed(3), random.seed(3), numpy.random.seed(3)
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    one, two, other = mf.build(config), mf.build(config), mf.build({**config, "seed": 1})
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate() and before[2] == numpy.random.get_state()[1].tolist()
    assert torch.equal(one.noise.noise, two.noise.noise) and not torch.equal(one.noise.noise, other.noise.noise)


def test_threads_that_construct_at_once_leave_global_state_and_each_other_alone():
    alone = {seed: built_traps(seed).state_dict() for seed in range(4)}
    torch.manual_seed(3), random.seed(3)
    before = torch.get_rng_state(), random.getstate()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: built_traps(seed).state_dict(), range(4)))
    for seed, state in enumerate(together):
        assert all(torch.equal(state[name], alone[seed][name]) for name in state)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()


def test_constructions_of_two_threads_do_not_interleave():
    inside, seen = threading.Event(), []

    class Waits(nn.Module):
        def __init__(self):
            super().__init__()
            seen.append(random.random())
            inside.set()
            time.sleep(0.05)
            seen.append(random.random())

    class Comes(nn.Module):
        def __init__(self):
            super().__init__()
            seen.append(None)

    def second() -> None:
        inside.wait(5)
        made(Comes)

    thread = threading.Thread(target=second)
    thread.start()
    made(Waits)
    thread.join()
    assert seen[2] is None and seen[:2] == [seen[0], seen[1]] and None not in seen[:2]


def test_outside_of_a_construction_torch_is_as_ever():
    with construction(0, ""):
        nn.Linear(3, 3)
    torch.manual_seed(0)
    one = nn.init.trunc_normal_(nn.Linear(20, 20).weight, std=0.1)
    torch.manual_seed(0)
    two = nn.init.trunc_normal_(nn.Linear(20, 20).weight, std=0.1)
    assert torch.equal(one, two) and one.std() > 0.05
    for name in ("_no_grad_trunc_normal_", "orthogonal_", "sparse_"):
        assert not hasattr(getattr(nn.init, name), "__wrapped__")


def test_an_error_in_a_constructor_leaves_everything_as_it_was():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
            raise ValueError("no")

    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="no"):
        made(Fails)
    assert torch.equal(before, torch.get_rng_state()) and not hasattr(nn.init.orthogonal_, "__wrapped__")
    assert nn.Linear(30, 30).weight.std() > 0.05


def test_the_authors_distribution_is_kept():
    """torchvision's ResNet: kaiming_normal_ by fan_out; ConvNeXt: trunc_normal_ at 0.02."""
    resnet = mf.build({"model": {"_target_": "torchvision.models.resnet18"}, "init": "default"})
    conv = resnet.layer1[0].conv1.weight
    assert stats.kstest(conv.detach().flatten().numpy(), stats.norm(0, math.sqrt(2 / (64 * 9))).cdf).pvalue > 1e-6
    assert bool((resnet.bn1.weight == 1).all()) and not resnet.bn1.bias.any()
    convnext = mf.build({"model": {"_target_": "torchvision.models.convnext_tiny"}, "init": "default"})
    head = convnext.classifier[2].weight
    assert stats.kstest(head.detach().flatten()[:20000].numpy(), stats.norm(0, 0.02).cdf).pvalue > 1e-6
    assert bool((convnext.features[1][0].layer_scale == 1e-6).all())


def test_double_precision_has_the_draws_of_single():
    own = {"_target_": "torch.nn.TransformerEncoderLayer", "nhead": 2, "dim_feedforward": 30, "batch_first": True}
    layers = {"fc": {"_target_": "torch.nn.Linear", "out_features": 40}, "own": own}
    config = {"model": {"layers": layers}, "data": {"input_shape": [5, 20]}}
    for init in ("default", "kaiming_normal", "trunc_normal"):
        single = mf.build({**config, "init": init}).state_dict()
        torch.set_default_dtype(torch.float64)
        try:
            double = mf.build({**config, "init": init}).state_dict()
        finally:
            torch.set_default_dtype(torch.float32)
        for name in single:
            assert double[name].dtype is torch.float64 and torch.equal(single[name], double[name].float()), (init, name)


def test_scaled_and_copied_draws_are_noted_and_not_done():
    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.scaled = nn.Parameter(torch.randn(30, 40) * 0.02 + 1.0)
            self.twice = nn.Parameter(self.scaled.detach().clone())
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)

    CountDraws.numbers = 0
    with CountDraws(), construction(0, "") as recording:
        model = Scales()
        recording.settle(model, 0)
    assert CountDraws.numbers == 0
    with CountDraws():
        for name, parameter in model.named_parameters():
            recording.replay(parameter, 0, name)
    constant = sum(parameter.numel() for parameter in model.parameters() if parameter.unique().numel() == 1)
    assert CountDraws.numbers == sum(map(torch.numel, model.parameters())) - constant
    assert model.scaled.mean().item() == pytest.approx(1, abs=0.01) and model.scaled.std() < 0.03
