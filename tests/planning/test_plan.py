"""Invariants of what is built: one origin a parameter, values keyed by seed and name alone, statistics that hold."""

import hashlib
import math
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
import yaml
from torch import nn

import modelfactory as mf
from modelfactory.config.errors import ConfigError, Problems
from modelfactory.config.search_path import config_folder
from modelfactory.init.fill import fill
from modelfactory.init.ledger import COLUMNS
from modelfactory.init.recipes import recipe, recipe_names
from modelfactory.init.rules import read_init
from modelfactory.model.blueprint import assemble
from modelfactory.numerics.rng import generator
from modelfactory.planning.account import account
from modelfactory.planning.spec import read_spec


def layer(name: str, **arguments) -> dict:
    return {"_target_": name if "." in name else f"torch.nn.{name}", **arguments}


def mlp(**more) -> dict:
    layers = {"fc1": layer("Linear", out_features=20), "act": layer("ReLU"), "fc2": layer("Linear", out_features=20), **more}
    return {"model": {"layers": {**layers, "head": layer("Linear", out_features=3)}}, "data": {"input_shape": [20]}, "seed": 5}


RULES = {
    "author": {"match": "*", "scheme": "default"},
    "biases": {"role": "bias", "scheme": "normal", "std": 0.1},
    "weights": {"role": "weight", "scheme": "xavier_normal", "gain": "auto"},
}


def state(config: dict) -> dict[str, torch.Tensor]:
    return mf.build(config).state_dict()


def same(one: dict, other: dict, *but: str) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.keys() & other.keys() if name not in but)


def test_a_value_depends_on_the_seed_and_its_name_alone():
    base = state({**mlp(), "init": {"rules": RULES}})
    assert same(base, state({**mlp(extra=layer("Linear", out_features=20)), "init": {"rules": RULES}}), "head.weight")
    moved = {
        "biases": RULES["biases"],
        "author": {**RULES["author"], "role": "norm", "optional": True},
        "weights": RULES["weights"],
    }
    assert same(base, state({**mlp(), "init": {"rules": moved}}))
    changed = {**RULES, "one": {"match": "fc2.weight", "scheme": "orthogonal"}}
    after = state({**mlp(), "init": {"rules": changed}})
    assert same(base, after, "fc2.weight") and not torch.equal(base["fc2.weight"], after["fc2.weight"])
    other = state({**mlp(), "init": {"rules": RULES}, "seed": 6})
    assert not any(torch.equal(base[name], other[name]) for name in base)


def test_threads_change_nothing():
    config = {"model": {"layers": {"wide": {"repeat": 4, **layer("Linear", out_features=300)}}}, "data": {"input_shape": [300]}}
    states = []
    for threads in (1, 2, 5):
        spec = read_spec({**config, "init": "kaiming_normal"}, Problems())
        assert spec is not None
        draft = assemble(spec.node, 0)
        fill(account(draft, spec, Problems()).assignments, 0, draft.recordings, fresh=True, threads=threads)
        states.append(draft.module.state_dict())
    assert same(states[0], states[1]) and same(states[0], states[2])


def test_another_process_gives_the_same_values():
    code = (
        "import hashlib, modelfactory as mf;"
        "state = mf.build(mf.compose('model=cnn', 'init=xavier_normal', 'seed=3')).state_dict();"
        "print(hashlib.sha256(b''.join(t.numpy().tobytes() for t in state.values())).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = mf.build(mf.compose("model=cnn", "init=xavier_normal", "seed=3")).state_dict()
    assert done.stdout.strip() == hashlib.sha256(b"".join(t.numpy().tobytes() for t in here.values())).hexdigest()


def test_schemes_share_their_draws_at_equal_seeds():
    he, glorot = (state({**mlp(), "init": name})["fc2.weight"] for name in ("kaiming_normal", "lecun_normal"))
    assert torch.allclose(he, glorot * math.sqrt(2), rtol=1e-5)


@pytest.mark.parametrize("name", recipe_names())
def test_a_name_in_a_plain_dict_means_what_the_config_of_that_name_says(name):
    config = yaml.safe_load((config_folder() / "init" / f"{name}.yaml").read_text())
    written, short = (read_init(value, "init", Problems()) for value in (config, name))
    assert written is not None and short is not None
    assert recipe(name) == config
    assert [(rule.name, rule.selector, rule.call) for rule in written.rules] == [
        (rule.name, rule.selector, rule.call) for rule in short.rules
    ]


def test_the_rule_of_thumb_warns():
    with pytest.warns(UserWarning, match="the usual rule is fan_in_uniform"):
        mf.initialize(nn.Linear(3, 3), {"match": "weight", "scheme": "rule_of_thumb"})
    assert "rule_of_thumb" in mf.plan(mf.compose("init=rule_of_thumb")).warnings[0]


def test_building_leaves_global_random_state_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    mf.build({"model": layer("torchvision.models.mobilenet_v3_small"), "data": {"input_shape": [3, 32, 32]}, "init": "default"})
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet", "vit", "lstm"])
@pytest.mark.parametrize("init", ["default", "kaiming_normal", "orthogonal"])
def test_every_parameter_has_one_row_and_one_origin(model, init):
    plan = mf.plan(mf.compose(f"model={model}", f"init={init}"))
    built = plan.materialize()
    assert [row.name for row in plan.ledger] == [row.name for row in built.ledger] == [name for name, _ in built.model.named_parameters()]
    assert {row.origin for row in built.ledger} <= {"rule", "default"}
    for row, parameter in zip(built.ledger, built.model.parameters(), strict=True):
        assert row.numel == parameter.numel() and bool(torch.isfinite(parameter).all())
        assert row.mean == pytest.approx(parameter.mean().item(), abs=1e-5)
        if parameter.numel() > 1000 and row.expected_std and not math.isnan(row.expected_std):
            assert row.std == pytest.approx(row.expected_std, rel=6 / math.sqrt(parameter.numel()) + 0.02)


def test_the_ledger_has_the_columns_of_the_contract(tmp_path):
    plan = mf.plan({**mlp(), "init": "kaiming_normal", "optimizer": {"groups": {"no_decay": {"role": "bias"}}}})
    ledger = plan.materialize().ledger
    text = ledger.to_csv(tmp_path / "ledger.csv")
    assert (tmp_path / "ledger.csv").read_text() == text
    head = "name,shape,numel,dtype,module,role,origin,rule,scheme,fan_in,fan_out,gain,expected_mean,expected_std,mean,std,trainable,group"
    assert text.splitlines()[0] == head == ",".join(COLUMNS)
    row = ledger["fc2.bias"]
    assert (row.role, row.origin, row.rule, row.scheme, row.trainable, row.group) == (
        "bias",
        "rule",
        "biases",
        "zeros",
        True,
        "no_decay",
    )


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.embed(x))


def test_tied_weights_count_once_and_have_both_names():
    model = Tied()
    ledger = mf.initialize(model, {"match": "head.weight", "scheme": "normal", "std": 0.5})
    assert [row.name for row in ledger] == ["embed.weight = head.weight"]
    assert ledger["head.weight"] is ledger["embed.weight"] and model.head.weight is model.embed.weight


def test_what_no_rule_picks_is_an_error():
    rules = {"weights": {"role": "weight", "scheme": "kaiming_normal"}}
    config = mlp(norm=layer("BatchNorm1d"))
    with pytest.raises(ConfigError) as caught:
        mf.build({**config, "init": {"rules": rules}})
    assert "no rule picks norm.weight (norm, of BatchNorm1d)" in str(caught.value)


def test_precedence_of_rules():
    head = layer("Linear", out_features=3, init={"weight": "zeros"})
    config = {"model": {"layers": {"fc": layer("Linear", out_features=4), "head": head}}, "data": {"input_shape": [5]}}
    rules = {**RULES, "weights": {"role": "weight", "scheme": "ones"}}
    assert not state({**config, "init": {"rules": rules}})["head.weight"].any()  # beside the layer wins over role
    named = {**rules, "mine": {"match": "head.*", "scheme": "constant", "val": 2.0}}
    assert bool((state({**config, "init": {"rules": named}})["head.weight"] == 2).all())  # and yields to a later match
    outer = {
        "model": {"layers": {"part": {"layers": config["model"]["layers"], "init": {"*.weight": "ones"}}}},
        "data": {"input_shape": [5]},
    }
    inner = state({**outer, "init": "kaiming_normal"})
    assert not inner["part.head.weight"].any() and bool((inner["part.fc.weight"] == 1).all())


def test_a_rule_for_matrices_may_pick_a_layer_whole():
    model = nn.Sequential(OrderedDict(fc1=nn.Linear(4, 5), fc2=nn.Linear(5, 3)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ledger = mf.initialize(model, {"match": "fc2.*", "scheme": "xavier_normal"}, seed=0)
    assert [(row.name, row.scheme) for row in ledger] == [("fc2.weight", "xavier_normal"), ("fc2.bias", "zeros")]
    assert same(before, model.state_dict(), "fc2.weight", "fc2.bias")
    with pytest.raises(ConfigError, match=r"xavier_normal needs 2 dimensions, and fc1.bias has shape \(5,\)"):
        mf.initialize(model, {"match": "*.bias", "scheme": "xavier_normal"})


def test_an_error_of_initialize_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ConfigError, match="picks no parameter"):
        mf.initialize(model, {"a": {"match": "0.weight", "scheme": "ones"}, "b": {"match": "2.*", "scheme": "ones"}})
    assert same(before, model.state_dict())


def test_default_again_on_a_part_of_a_trained_model_keeps_its_statistics():
    model = nn.Sequential(nn.Linear(40, 50), nn.BatchNorm1d(50))
    model(torch.randn(8, 40) + 3)
    kept = model[1].running_mean.clone()
    model[1].weight.data.fill_(7), model[1].bias.data.fill_(7)
    mf.initialize(model, {"match": "1.weight", "scheme": "default"})
    assert bool((model[1].weight == 1).all()) and bool((model[1].bias == 7).all()) and torch.equal(model[1].running_mean, kept)


def test_fans_of_torch_give_torchs_values_bit_for_bit():
    layers = {"conv": layer("Conv2d", out_channels=8, kernel_size=3, padding=1, groups=2), "flatten": layer("Flatten")}
    config = {"model": {"layers": layers}, "data": {"input_shape": [4, 8, 8]}, "seed": 9}
    rules = {
        "all": {"match": "*", "scheme": "default"},
        "w": {"role": "weight", "scheme": "kaiming_normal", "nonlinearity": "relu"},
    }
    ours = state({**config, "init": {"rules": rules, "fans": "torch"}})["conv.weight"]
    theirs = nn.init.kaiming_normal_(torch.empty(8, 2, 3, 3), nonlinearity="relu", generator=generator(9, "conv.weight"))
    assert torch.equal(ours, theirs)
    effective = state({**config, "init": {"rules": rules}})["conv.weight"]
    assert torch.allclose(effective * 22 / 24, theirs, rtol=1e-5)  # 22 of 24 taps land along each side


def test_packed_projections_and_gates_are_drawn_block_by_block():
    layers = {"attention": layer("MultiheadAttention", num_heads=2, batch_first=True, output=0)}
    rules = {"all": {"match": "*", "scheme": "default"}, "w": {"role": "weight", "scheme": "xavier_uniform"}}
    packed = state({"model": {"layers": layers}, "data": {"input_shape": [5, 64]}, "init": {"rules": rules}})[
        "attention.in_proj_weight"
    ]
    bound = math.sqrt(6 / 128)
    assert 0.98 * bound < packed.abs().max() <= bound  # as one block of 192 rows it would be sqrt(6 / 256)
    lstm = {"lstm": layer("LSTM", hidden_size=6, batch_first=True)}
    rules["w"]["scheme"] = "orthogonal"
    weight = state({"model": {"layers": lstm}, "data": {"input_shape": [5, 8]}, "init": {"rules": rules}})["lstm.weight_hh_l0"]
    for block in weight.chunk(4):
        assert torch.allclose(block @ block.T, torch.eye(6), atol=1e-5)


class Own(nn.Module):
    """Functional activations in a forward of one's own."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)

    def forward(self, x):
        x = nn.functional.leaky_relu(self.a(x), 0.2)
        x = torch.tanh(self.b(x)).view(-1, 6)
        x = self.norm(nn.functional.gelu(self.c(x)))
        return self.d(x)


def test_gain_auto_is_of_the_activation_that_acts():
    model = Own()
    rule = {"match": "*.weight", "module": "Linear", "scheme": "xavier_normal", "gain": "auto"}
    ledger = mf.initialize(model, rule, example=torch.zeros(2, 6))
    assert [round(row.gain or 0, 3) for row in ledger] == [1.0, 1.387, 1.593, 1.0]
    assert [row.gain for row in mf.initialize(model, rule)] == [row.gain for row in ledger]  # an input that fits is found


def test_gain_auto_goes_through_what_only_moves_numbers_and_is_reset_by_a_norm():
    layers = {
        "conv": layer("Conv2d", out_channels=4, kernel_size=3),
        "act": layer("GELU"),
        "drop": layer("Dropout"),
        "pool": layer("AvgPool2d", kernel_size=2),
        "flatten": layer("Flatten"),
        "fc": layer("Linear", out_features=8),
        "relu": layer("ReLU"),
        "norm": layer("BatchNorm1d"),
        "body": layer("modelfactory.Residual", layers={"fc": layer("Linear", out_features=8), "act": layer("Tanh")}),
        "head": layer("Linear", out_features=2),
    }
    init = {"rules": {"biases": {"role": "bias", "scheme": "zeros"}, "norms": {"role": "norm", "scheme": "default"}}}
    init["rules"]["weights"] = {"role": "weight", "scheme": "xavier_normal", "gain": "auto"}
    plan = mf.plan({"model": {"layers": layers}, "data": {"input_shape": [1, 8, 8]}, "init": init})
    gains = {row.name: round(row.gain, 3) for row in plan.ledger if row.gain}
    assert gains == {"conv.weight": 1.0, "fc.weight": 1.534, "body.fc.weight": 1.0, "head.weight": 1.0}


def test_a_scheme_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_schemes.py").write_text(
        "def stripes_(tensor, width: int, generator=None):\n    tensor.zero_()\n    tensor[::width] = 1\n    return tensor\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MODELFACTORY_TRUST", "my_schemes")
    config = {**mlp(), "init": {"rules": {**RULES, "mine": {"match": "fc1.weight", "scheme": "my_schemes.stripes_", "width": 4}}}}
    assert state(config)["fc1.weight"].sum() == 5 * 20
    config["init"]["rules"]["mine"]["widht"] = 4
    with pytest.raises(ConfigError, match="init.rules.mine.widht: not an argument of stripes_; did you mean 'width'"):
        mf.build(config)


def test_zeros_are_called_symmetric_and_a_zero_head_is_not():
    said = mf.plan(mf.compose("init=zeros")).materialize().warnings
    assert any("the 512 units of fc1 are symmetric: all of its weights are 0" in warning for warning in said)
    head = mf.plan(mf.compose("+init.rules.head={match: head.weight, scheme: zeros}"))
    assert head.materialize().warnings == ()


def test_adding_and_taking_out_layers_moves_no_other_value():
    config = {**mlp(), "init": "default"}
    base = state(config)
    assert same(base, state({**mlp(a=layer("BatchNorm1d"), b=layer("Linear", out_features=20)), "init": "default"}), "head.weight")
    renamed = {**mlp(), "init": "default"}
    layers = renamed["model"]["layers"]
    renamed["model"] = {"layers": {("first" if name == "fc1" else name): value for name, value in layers.items()}}
    other = state(renamed)
    assert same(base, other) and not torch.equal(base["fc1.weight"], other["first.weight"])


def test_a_name_and_not_a_place_decides():
    one = {"a": layer("Linear", out_features=6), "b": layer("Linear", out_features=6)}
    two = {"b": one["b"], "a": one["a"]}
    first, second = (state({"model": {"layers": layers}, "data": {"input_shape": [6]}, "init": "kaiming_normal"}) for layers in (one, two))
    assert same(first, second) and not torch.equal(first["a.weight"], first["b.weight"])


def test_a_build_on_the_meta_device_and_then_again_for_real():
    plan = mf.plan({**mlp(), "init": {"rules": RULES}})
    with torch.device("meta"):
        assert {parameter.device.type for parameter in plan.build().parameters()} == {"meta"}
    assert plan.build("meta").fc1.weight.is_meta and same(plan.build().state_dict(), state({**mlp(), "init": {"rules": RULES}}))


def test_two_builds_of_one_plan_share_nothing_but_their_values():
    plan = mf.plan({**mlp(), "init": "kaiming_normal"})
    one, two = plan.build(), plan.build()
    assert same(one.state_dict(), two.state_dict())
    with torch.no_grad():
        one.fc1.weight.fill_(0)
    assert two.fc1.weight.any() and plan.build().fc1.weight.any()


def test_builds_of_several_threads_are_those_of_one():
    from concurrent.futures import ThreadPoolExecutor

    config = {"model": layer("torchvision.models.mobilenet_v3_small", num_classes=3), "init": "default"}
    alone = state(config)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    with ThreadPoolExecutor(3) as pool:
        states = list(pool.map(state, [config] * 3))
    assert all(same(alone, other) for other in states) and torch.equal(before, torch.get_rng_state())


def test_a_frozen_parameter_has_no_group_and_the_last_group_wins():
    groups = {"all": {"match": "*"}, "slow": {"match": "fc1.*", "lr_scale": 0.1}}
    config = {**mlp(), "init": "kaiming_normal", "optimizer": {"groups": groups}, "freeze": {"rules": {"h": {"match": "head.*"}}}}
    rows = {row.name: (row.group, row.trainable) for row in mf.plan(config).ledger}
    assert rows["fc1.weight"] == ("slow", True) and rows["fc2.weight"] == ("all", True) and rows["head.bias"] == ("", False)


def test_every_problem_of_every_group_is_told_at_once():
    config = {**mlp(bad=layer("Linaer")), "init": {"rules": {"a": {"role": "x", "scheme": "zeros"}}}, "seed": -1, "modle": {}}
    with pytest.raises(ConfigError) as caught:
        mf.plan({**config, "freeze": {"rules": {"f": {"mtch": "*"}}}})
    paths = {problem.path for problem in caught.value.problems}
    assert {"seed", "model.layers.bad._target_", "init.rules.a.role", "freeze.rules.f.mtch"} <= paths


def test_collection_is_on_again_after_a_build_also_after_a_failed_one():
    import gc

    assert gc.isenabled()
    mf.build({**mlp(), "init": "default"})
    with pytest.raises(ConfigError, match="no rule picks"):
        mf.build({**mlp(), "init": {"rules": {"a": {"role": "weight", "scheme": "zeros"}}}})
    assert gc.isenabled()


def test_a_model_is_built_in_the_default_dtype():
    layers = {
        "lstm": layer("LSTM", hidden_size=4, batch_first=True, output=0),
        "head": layer("Linear", out_features=3),
    }
    config = {"model": {"layers": layers}, "data": {"input_shape": [5, 3]}, "init": "kaiming_normal"}
    single = mf.build(config)
    torch.set_default_dtype(torch.float64)
    try:
        double = mf.build(config)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, parameter in double.named_parameters():
        assert parameter.dtype == torch.float64
        assert torch.equal(parameter.float(), single.get_parameter(name))


@pytest.mark.parametrize(
    ("freeze", "warned"),
    [
        ({"match": "fc1.*"}, True),
        ({"match": "fc1.*", "until": {"epoch": 2}}, False),
        ({"match": "*.bias"}, False),
    ],
)
def test_weights_frozen_at_what_was_drawn_are_told(freeze, warned):
    plan = mf.plan({**mlp(), "init": "kaiming_normal", "freeze": {"rules": {"body": freeze}}})
    assert any("fc1.weight is frozen at values that nothing ever trained" in warning for warning in plan.warnings) == warned
    built = plan.materialize()
    assert any("fc1.weight is frozen at values that nothing ever trained" in warning for warning in built.warnings) == warned
