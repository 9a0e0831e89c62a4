"""What is filled: by which distribution, cast and moved how, and what is left alone."""

import math

import pytest
import torch
import torchvision
from scipy import stats
from torch import nn

import modelfactory as mf
from modelfactory.config.errors import ConfigError, Problems
from modelfactory.init.fill import fill, measure
from modelfactory.init.ledger import Ledger
from modelfactory.model.blueprint import assemble
from modelfactory.numerics.rng import generator
from modelfactory.planning.account import account
from modelfactory.planning.spec import read_spec


def layer(name: str, **arguments) -> dict:
    return {"_target_": name if "." in name else f"torch.nn.{name}", **arguments}


CONVOLUTIONS = {
    "model": {
        "layers": {
            "padded": layer("Conv2d", out_channels=32, kernel_size=3, padding=1),
            "act1": layer("ReLU"),
            "grouped": layer("Conv2d", out_channels=64, kernel_size=3, groups=4),
            "act2": layer("Tanh"),
            "up": layer("ConvTranspose2d", out_channels=24, kernel_size=4, stride=2),
            "flatten": layer("Flatten"),
            "act3": layer("LeakyReLU", negative_slope=0.2),
            "fc": layer("Linear", out_features=20),
        }
    },
    "data": {"input_shape": [8, 8, 8]},
    "seed": 11,
}
SEQUENCES = {
    "model": {
        "layers": {
            "lstm": layer("LSTM", hidden_size=48, batch_first=True, num_layers=2, output=0),
            "attention": layer("MultiheadAttention", num_heads=2, batch_first=True, output=0),
            "fc": layer("Linear", out_features=64),
        }
    },
    "data": {"input_shape": [6, 40]},
    "seed": 12,
}
SCHEMES = [
    "kaiming_normal",
    "kaiming_uniform",
    "xavier_normal",
    "xavier_uniform",
    "lecun_normal",
    "lecun_uniform",
    "variance_scaling",
]
ALPHA = 1e-4 / 90


def distribution(scheme: str, std: float):
    if "uniform" in scheme:
        return stats.uniform(-math.sqrt(3) * std, 2 * math.sqrt(3) * std)
    return stats.truncnorm(-2, 2, 0, std / 0.87962566103423978) if scheme == "variance_scaling" else stats.norm(0, std)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("config", [CONVOLUTIONS, SEQUENCES], ids=["convolutions", "sequences"])
def test_what_is_built_has_the_distribution_its_ledger_expects(config, scheme):
    plan = mf.plan({**config, "init": scheme})
    expected = {row.name: row.expected_std for row in plan.ledger}
    built = plan.materialize()
    model, weights = built.model, [row for row in built.ledger if row.scheme == scheme]
    assert len(weights) == (4 if config is CONVOLUTIONS else 7)
    for row in weights:
        assert row.expected_std == expected[row.name] and row.expected_mean == 0  # as planned, without a number drawn
        values = model.get_parameter(row.name).detach().flatten().double().numpy()
        promised = distribution(scheme, row.expected_std)
        assert promised.std() == pytest.approx(row.expected_std, rel=1e-6)
        assert stats.kstest(values, promised.cdf).pvalue > ALPHA, row
        assert not stats.kstest(values * 1.3, promised.cdf).pvalue > ALPHA or row.numel < 2000  # and the test can tell


def test_the_fans_are_the_operators():
    fans = {row.name: (row.fan_in, row.fan_out) for row in mf.plan({**CONVOLUTIONS, "init": "lecun_normal"}).ledger if row.fan_in}
    side = 22 / 24  # of the taps of a padded 3x3 kernel land on an input of 8
    assert fans["padded.weight"] == pytest.approx((8 * 9 * side**2, 32 * 9 * side**2))
    assert fans["grouped.weight"] == pytest.approx((8 * 9, 16 * 9 * (6 / 8) ** 2))
    assert fans["up.weight"] == pytest.approx((64 * 16 * (6 / 14) ** 2, 24 * 16))
    assert fans["fc.weight"] == (24 * 14 * 14, 20)
    packed = {row.name: (row.fan_in, row.fan_out) for row in mf.plan({**SEQUENCES, "init": "lecun_normal"}).ledger if row.fan_in}
    assert packed["lstm.weight_ih_l0"] == (40, 48) and packed["lstm.weight_hh_l1"] == (48, 48)
    assert packed["attention.in_proj_weight"] == (48, 48)


def test_orthogonal_gates_and_projections_are_orthogonal_each():
    plan = mf.plan(
        {
            **SEQUENCES,
            "init": {"rules": {"a": {"match": "*", "scheme": "zeros"}, "w": {"role": "weight", "scheme": "orthogonal"}}},
        }
    )
    built = plan.materialize()
    model = built.model
    for name, parts in (("lstm.weight_hh_l1", 4), ("lstm.weight_ih_l0", 4), ("attention.in_proj_weight", 3)):
        blocks = model.get_parameter(name).detach().chunk(parts)
        for block in blocks:
            small = block @ block.T if block.shape[0] <= block.shape[1] else block.T @ block
            assert torch.allclose(small, torch.eye(len(small)), atol=1e-5)
        assert not torch.equal(blocks[0], blocks[1])
        row = built.ledger[name]
        assert math.hypot(row.std, row.mean) == pytest.approx(row.expected_std, rel=1e-5)


@pytest.mark.parametrize("scheme", ["kaiming_normal", "kaiming_uniform", "xavier_normal", "xavier_uniform"])
def test_by_torchs_fans_a_weight_is_torchs_bit_for_bit(scheme):
    options = {"mode": "fan_out", "nonlinearity": "relu"} if scheme.startswith("kaiming") else {"gain": 1.7}
    rules = {"all": {"match": "*", "scheme": "zeros"}, "w": {"role": "weight", "scheme": scheme, **options}}
    for config in (CONVOLUTIONS, SEQUENCES):
        model = mf.build({**config, "init": {"rules": rules, "fans": "torch"}})
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                theirs = getattr(nn.init, f"{scheme}_")(torch.empty(parameter.shape), **options, generator=generator(config["seed"], name))
                assert torch.equal(parameter, theirs), name


def draft_of(config: dict, device: str = "cpu"):
    spec = read_spec(config, Problems())
    assert spec is not None
    with torch.device(device):
        draft = assemble(spec.node, spec.seed)
    return draft, spec


def filled(draft, spec, threads: int | None = None) -> dict[str, torch.Tensor]:
    problems = Problems()
    work = account(draft, spec, problems).assignments
    problems.raise_if_any()
    fill(work, spec.seed, draft.recordings, fresh=True, threads=threads)
    return draft.module.state_dict()


@pytest.mark.parametrize("init", ["default", "kaiming_normal", "orthogonal"])
def test_a_value_is_the_same_in_every_number_of_threads_and_type(init):
    wide = {
        "a": layer("Linear", out_features=300),
        "b": layer("Linear", out_features=200),
        "c": layer("Embedding", num_embeddings=40),
    }
    config = {"model": {"layers": {"a": wide["a"], "b": wide["b"]}}, "data": {"input_shape": [300]}, "init": init, "seed": 4}
    base = mf.build(config).state_dict()
    for threads in (1, 2, 7):
        state = filled(*draft_of(config), threads)
        assert all(torch.equal(state[name], base[name]) for name in base)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        draft, spec = draft_of(config)
        draft.module.to(dtype)
        state = filled(draft, spec)
        if init != "default":  # notes of a constructor belong to the tensors it made
            assert all(state[name].dtype is dtype and torch.equal(state[name], base[name].to(dtype)) for name in base)


def test_a_model_from_the_meta_device_gets_the_same_values():
    config = {**SEQUENCES, "init": "xavier_normal"}
    base = mf.build(config).state_dict()
    draft, spec = draft_of(config, "meta")
    assert {parameter.device.type for parameter in draft.module.parameters()} == {"meta"}
    model = draft.module.to_empty(device="cpu")
    mf.initialize(
        model,
        {"b": {"role": "bias", "scheme": "zeros"}, "w": {"role": "weight", "scheme": "xavier_normal", "gain": "auto"}},
        seed=12,
    )
    assert all(torch.equal(tensor, base[name]) for name, tensor in model.state_dict().items())


def test_transposed_memory_is_filled_like_any():
    plain, turned = nn.Linear(30, 20), nn.Linear(30, 20)
    turned.weight = nn.Parameter(torch.empty(30, 20).t())
    for model in (plain, turned):
        mf.initialize(model, {"match": "weight", "scheme": "kaiming_uniform"}, seed=3)
    assert not turned.weight.is_contiguous() and torch.equal(plain.weight, turned.weight)


def test_the_padding_row_of_an_embedding_is_zero_again():
    model = nn.Embedding(9, 5, padding_idx=2)
    mf.initialize(model, {"match": "weight", "scheme": "normal"})
    assert not model.weight[2].any() and bool(model.weight[3].all())
    mf.initialize(model, {"match": "weight", "scheme": "default"}, seed=1)
    assert not model.weight[2].any() and bool(model.weight[3].all())


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    with torch.random.fork_rng():
        return torchvision.models.resnet18(num_classes=5)


def test_part_of_an_existing_model(resnet):
    before = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    torch.manual_seed(9)
    state = torch.get_rng_state()
    ledger = mf.initialize(resnet, {"match": "fc.*", "scheme": "xavier_normal"}, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    after = resnet.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {"fc.weight", "fc.bias"}
    assert isinstance(ledger, Ledger) and [(row.name, row.scheme, row.trainable) for row in ledger] == [
        ("fc.weight", "xavier_normal", True),
        ("fc.bias", "zeros", True),
    ]
    row = ledger["fc.weight"]
    assert row.expected_std == pytest.approx(math.sqrt(2 / (512 + 5))) and row.std == pytest.approx(
        after["fc.weight"].std(correction=0).item()
    )


def test_default_on_a_layer_of_an_existing_model(resnet):
    before = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    mf.initialize(resnet, {"match": "layer1.0.conv1.weight", "scheme": "default"}, seed=5)
    after = resnet.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {"layer1.0.conv1.weight"}
    assert after["layer1.0.conv1.weight"].abs().max() <= 1 / math.sqrt(64 * 9)  # the layer's author is torch, not torchvision
    bare = nn.Module()
    bare.scale = nn.Parameter(torch.ones(3))
    with pytest.raises(ConfigError, match="rules.rule: default: Module, which owns scale, has no reset_parameters; give a scheme"):
        mf.initialize(bare, {"match": "scale", "scheme": "default"})


WRONG = [
    ({"match": "fc.wieght", "scheme": "ones"}, "did you mean 'fc.weight'"),
    ({"match": "fc.bias", "scheme": "orthogonal"}, "orthogonal needs 2 dimensions, and fc.bias has shape"),
    ({"match": "fc.weight", "scheme": "eyes"}, "'eyes' is not a scheme; did you mean 'eye'"),
    ({"match": "conv1.weight", "scheme": "eye"}, "conv1.weight of shape"),
    (
        {"a": {"match": "fc.weight", "scheme": "ones"}, "b": {"match": "fc.weight", "scheme": "normal", "std": -1}},
        "rules.b.std: -1",
    ),
    ("kaiming", "'kaiming' is not a scheme"),
]


@pytest.mark.parametrize(("rules", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_an_error_leaves_the_model_as_it_was(resnet, rules, message):
    before = {name: tensor.clone() for name, tensor in resnet.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        mf.initialize(resnet, rules)
    assert all(torch.equal(before[name], tensor) for name, tensor in resnet.state_dict().items())


def test_only_what_is_asked_for_changes_when_one_rule_does():
    config = {**CONVOLUTIONS, "seed": 3}
    rules = {"all": {"match": "*", "scheme": "default"}, "w": {"role": "weight", "scheme": "kaiming_normal"}}
    base = mf.build({**config, "init": {"rules": rules}}).state_dict()
    for name in ("padded.weight", "up.bias", "fc.weight"):
        one = {**rules, "one": {"match": name, "scheme": "uniform"}}
        state = mf.build({**config, "init": {"rules": one}}).state_dict()
        assert {key for key in base if not torch.equal(base[key], state[key])} == {name}


def test_measuring_is_exact_also_far_from_zero():
    values = torch.full((1000,), 1000.0) + torch.linspace(-0.01, 0.01, 1000)
    mean, std = measure(values)
    assert mean == pytest.approx(1000) and std == pytest.approx(values.double().std(correction=0).item(), rel=1e-6)
    assert all(map(math.isnan, measure(torch.empty(3, device="meta")))) and all(map(math.isnan, measure(torch.empty(0))))


def test_large_tensors_are_drawn_in_pieces_of_rows_from_streams_of_their_own():
    """Pieces must differ, and hold the statistics of the whole: the mean and the variance of each within 5 standard errors."""
    model = nn.Linear(1500, 2000, bias=False)
    mf.initialize(model, {"match": "weight", "scheme": "normal", "std": 1.0}, seed=3)
    rows = 2**20 // 1500
    pieces = model.weight.detach().split(rows)
    assert len(pieces) == 3 and torch.equal(pieces[0], torch.empty_like(pieces[0]).normal_(generator=generator(3, "weight")))
    assert torch.equal(pieces[2], torch.empty_like(pieces[2]).normal_(generator=generator(3, "weight", 2)))
    for piece in pieces:
        assert abs(piece.mean()) < 5 / piece.numel() ** 0.5 and abs(piece.var() - 1) < 5 * (2 / piece.numel()) ** 0.5
    correlation = torch.corrcoef(torch.stack([pieces[0].flatten(), pieces[1].flatten()]))[0, 1]
    assert abs(correlation) < 5 / pieces[0].numel() ** 0.5
