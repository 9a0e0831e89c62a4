"""The grammar: what a config's layers become, and what is said of those that cannot be built."""

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.config.errors import ConfigError


def layer(name: str, **arguments) -> dict:
    return {"_target_": name if "." in name else f"torch.nn.{name}", **arguments}


def build(layers: dict, shape: list[int] | None, **groups) -> nn.Module:
    data = {} if shape is None else {"data": {"input_shape": shape}}
    return mf.build({"model": {"layers": layers}, **data, **groups})


INFERRED = [
    (layer("Linear", out_features=3), [7], nn.Linear(7, 3)),
    (layer("Linear", out_features=3), [5, 7], nn.Linear(7, 3)),
    (layer("Conv1d", out_channels=3, kernel_size=3), [4, 9], nn.Conv1d(4, 3, 3)),
    (layer("Conv2d", out_channels=3, kernel_size=[3, 1]), [4, 9, 9], nn.Conv2d(4, 3, (3, 1))),
    (layer("Conv3d", out_channels=3, kernel_size=3), [4, 5, 5, 5], nn.Conv3d(4, 3, 3)),
    (layer("ConvTranspose1d", out_channels=3, kernel_size=2), [4, 9], nn.ConvTranspose1d(4, 3, 2)),
    (layer("ConvTranspose2d", out_channels=3, kernel_size=2, stride=2), [4, 9, 9], nn.ConvTranspose2d(4, 3, 2, 2)),
    (layer("ConvTranspose3d", out_channels=3, kernel_size=2), [4, 3, 3, 3], nn.ConvTranspose3d(4, 3, 2)),
    (layer("BatchNorm1d"), [6], nn.BatchNorm1d(6)),
    (layer("BatchNorm2d"), [6, 4, 4], nn.BatchNorm2d(6)),
    (layer("BatchNorm3d"), [6, 2, 4, 4], nn.BatchNorm3d(6)),
    (layer("InstanceNorm2d", affine=True), [6, 4, 4], nn.InstanceNorm2d(6, affine=True)),
    (layer("LayerNorm"), [5, 6], nn.LayerNorm(6)),
    (layer("RMSNorm"), [5, 6], nn.RMSNorm(6)),
    (layer("GroupNorm", num_groups=2), [6, 4, 4], nn.GroupNorm(2, 6)),
    (layer("RNN", hidden_size=5, batch_first=True), [4, 3], nn.RNN(3, 5, batch_first=True)),
    (layer("LSTM", hidden_size=5, batch_first=True, num_layers=2), [4, 3], nn.LSTM(3, 5, 2, batch_first=True)),
    (layer("GRU", hidden_size=5, bidirectional=True), [4, 3], nn.GRU(3, 5, bidirectional=True)),
    (layer("MultiheadAttention", num_heads=2, batch_first=True), [4, 6], nn.MultiheadAttention(6, 2, batch_first=True)),
    (layer("TransformerEncoderLayer", nhead=2, dim_feedforward=9), [4, 6], nn.TransformerEncoderLayer(6, 2, 9)),
    (layer("PReLU"), [6, 4, 4], nn.PReLU(6)),
]


@pytest.mark.parametrize(
    ("config", "shape", "by_hand"), INFERRED, ids=lambda value: value["_target_"] if isinstance(value, dict) else ""
)
def test_sizes_that_the_input_tells_may_be_left_out(config, shape, by_hand):
    built = build({"it": config}, shape)[0]  # pyright: ignore[reportIndexIssue]
    shapes = {name: tensor.shape for name, tensor in built.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in by_hand.state_dict().items()}
    assert isinstance(built, type(by_hand))


def test_layers_build_the_sequential_that_a_person_would_have_written():
    layers = {"fc1": layer("Linear", out_features=8), "act": layer("ReLU"), "head": layer("Linear", out_features=2)}
    built = build(layers, [5])
    by_hand = nn.Sequential(OrderedDict(fc1=nn.Linear(5, 8), act=nn.ReLU(), head=nn.Linear(8, 2)))
    assert type(built) is nn.Sequential and repr(built) == repr(by_hand)
    by_hand.load_state_dict(built.state_dict())
    x = torch.randn(3, 5)
    assert torch.equal(built(x), by_hand(x))


def test_nested_layers_and_repeat_name_their_parts():
    block = {"repeat": 3, "layers": {"fc": layer("Linear", out_features=4), "act": layer("Tanh")}}
    built = build({"block": block, "head": layer("Linear", out_features=2)}, [4])
    assert [name for name in built.state_dict() if name.endswith("weight")] == [
        "block.0.fc.weight",
        "block.1.fc.weight",
        "block.2.fc.weight",
        "head.weight",
    ]
    weights = [built.get_parameter(f"block.{index}.fc.weight") for index in range(3)]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    assert len({weight.data_ptr() for weight in weights}) == 3


def test_a_repeat_whose_first_part_changes_the_size_infers_each():
    block = {"repeat": 2, "layers": {"conv": layer("Conv2d", out_channels=6, kernel_size=3, padding=1)}}
    built = build({"block": block}, [1, 8, 8])
    assert built.get_parameter("block.0.conv.weight").shape[1] == 1
    assert built.get_parameter("block.1.conv.weight").shape[1] == 6


def test_what_stands_beside_a_repeat_is_of_each_part():
    config = {"repeat": 2, **layer("Linear", out_features=4), "init": {"weight": "eye"}, "freeze": True}
    built = build({"block": config, "head": layer("Linear", out_features=2)}, [4], init="kaiming_normal")
    for index in range(2):
        weight = built.get_parameter(f"block.{index}.weight")
        assert torch.equal(weight, torch.eye(4)) and not weight.requires_grad
    with pytest.raises(ConfigError, match="model.layers.it.output: cannot stand beside repeat"):
        build({"it": {"repeat": 2, **layer("LSTM", hidden_size=4, batch_first=True, output=0)}}, [3, 4])


def test_repeated_parts_are_separate_in_everything():
    block = {"repeat": 2, "layers": {"conv": layer("Conv2d", out_channels=4, kernel_size=1), "norm": layer("BatchNorm2d")}}
    built = build({"block": block}, [4, 8, 8])
    first, second = built[0][0], built[0][1]  # pyright: ignore[reportIndexIssue]
    first.norm.running_mean.fill_(5)
    first.register_forward_hook(lambda *_: None)
    first.norm.momentum = 0.5
    assert not second.norm.running_mean.any() and not second._forward_hooks and second.norm.momentum == 0.1


@pytest.mark.parametrize(
    ("scale", "names", "factor"),
    [
        (None, set(), 1.0),
        (0.5, set(), 0.5),
        ({"learn": 0.25}, {"body.scale"}, 0.25),
        ({"learn": 0.1, "per": "channel"}, {"body.scale"}, 0.1),
    ],
)
def test_residual_adds_its_scaled_branch(scale, names, factor):
    config = layer(
        "modelfactory.Residual", layers={"conv": layer("Conv2d", out_channels=3, kernel_size=3, padding=1)}, scale=scale
    )
    built = build({"body": config}, [3, 5, 5])
    x = torch.randn(2, 3, 5, 5)
    assert torch.allclose(built(x), x + factor * built.get_submodule("body.conv")(x), atol=1e-6)
    assert {name for name, _ in built.named_parameters() if name.endswith("scale")} == names
    if isinstance(scale, dict) and "per" in scale:
        assert built.get_parameter("body.scale").shape == (3, 1, 1)


@pytest.mark.parametrize(
    ("branch", "came_in", "scale"),
    [
        ({"conv": layer("Conv1d", out_channels=3, kernel_size=3, padding=1)}, [3, 7], (3, 1)),
        ({"inner": {"layers": {"norm": layer("BatchNorm1d")}}, "act": layer("ReLU")}, [3, 7], (3, 1)),
        ({"fc": layer("Linear", out_features=7)}, [3, 7], (7,)),
        ({"fc": layer("Linear", out_features=7)}, [7], (7,)),
    ],
)
def test_a_scale_per_channel_is_where_the_channels_are(branch, came_in, scale):
    config = layer("modelfactory.Residual", layers=branch, scale={"learn": 0.1, "per": "channel"})
    built = build({"body": config}, came_in)
    assert built.get_parameter("body.scale").shape == scale
    assert built(torch.randn(2, *came_in)).shape == (2, *came_in)


def test_a_shortcut_takes_the_place_of_the_identity():
    config = layer(
        "modelfactory.Residual",
        layers={"conv": layer("Conv2d", out_channels=6, kernel_size=3, stride=2, padding=1)},
        shortcut=layer("Conv2d", out_channels=6, kernel_size=1, stride=2),
    )
    built = build({"body": config}, [3, 8, 8])
    x = torch.randn(2, 3, 8, 8)
    parts = built.get_submodule("body")
    assert torch.equal(built(x), parts.shortcut(x) + parts.conv(x))  # pyright: ignore[reportCallIssue]


def test_parallel_concatenates_or_sums():
    branches = {"a": layer("Linear", out_features=4), "b": layer("Linear", out_features=4)}
    x = torch.randn(3, 5)
    for combine in ("cat", "sum"):
        built = build(
            {"both": layer("modelfactory.Parallel", layers=branches, combine=combine), "head": layer("Linear", out_features=1)},
            [5],
        )
        both = built.get_submodule("both")
        outputs = both.a(x), both.b(x)  # pyright: ignore[reportCallIssue]
        expected = torch.cat(outputs, 1) if combine == "cat" else outputs[0] + outputs[1]
        assert torch.equal(both(x), expected)
        assert built.get_parameter("head.weight").shape[1] == expected.shape[1]


def test_output_says_which_part_of_a_tuple_goes_on():
    layers = {
        "lstm": layer("LSTM", hidden_size=6, batch_first=True, output=0),
        "attention": layer("MultiheadAttention", num_heads=2, batch_first=True, output=0),
        "last": layer("modelfactory.Select", dim=1, index=-1),
        "head": layer("Linear", out_features=2),
    }
    built = build(layers, [4, 3])
    assert built(torch.randn(2, 4, 3)).shape == (2, 2)
    assert {name.split(".")[0] for name in built.state_dict()} == {"lstm", "attention", "head"}


def test_what_is_built_copies_pickles_and_exports():
    layers = {
        "conv": layer("Conv2d", out_channels=4, kernel_size=3, padding=1),
        "body": layer("modelfactory.Residual", layers={"norm": layer("BatchNorm2d"), "act": layer("ReLU")}, scale={"learn": 0.1}),
        "pool": layer("AdaptiveAvgPool2d", output_size=1),
        "flatten": layer("Flatten"),
    }
    built = build(layers, [1, 6, 6]).eval()
    x = torch.randn(2, 1, 6, 6)
    for other in (copy.deepcopy(built), pickle.loads(pickle.dumps(built)), torch.export.export(built, (x,)).module()):
        assert torch.allclose(other(x), built(x), atol=1e-6)


def test_a_model_of_ones_own_is_named_and_trusted(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self, width: int):\n        super().__init__()\n"
        "        self.fc = nn.Linear(3, width)\n    def forward(self, x):\n        return self.fc(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = {"model": {"_target_": "my_nets.Net", "width": 4}, "data": {"input_shape": [3]}, "init": "kaiming_normal"}
    with pytest.raises(ConfigError, match=r"model._target_: 'my_nets.Net' is refused.*modelfactory.trust\(\"my_nets\"\)"):
        mf.build(config)
    monkeypatch.setenv("MODELFACTORY_TRUST", "my_nets")
    assert mf.build(config).fc.weight.shape == (4, 3)  # pyright: ignore
    with pytest.raises(ConfigError, match="model.widht: not an argument of Net; did you mean 'width'"):
        mf.build({**config, "model": {"_target_": "my_nets.Net", "widht": 4}})


def test_every_problem_of_a_model_is_told_at_once():
    layers = {
        "a": layer("Linear", out_feature=3),
        "b": layer("Linaer", out_features=3),
        "c": layer("Linear", in_features=9, out_features=-1),
    }
    with pytest.raises(ConfigError) as caught:
        build(layers, [5])
    assert [problem.path for problem in caught.value.problems] == [
        "model.layers.a.out_feature",
        "model.layers.a.out_features",
        "model.layers.b._target_",
        "model.layers.c.out_features",
    ]


def test_torchvision_models_whose_constructors_compute_are_planned():
    plan = mf.plan(
        {
            "model": layer("torchvision.models.regnet_y_400mf", num_classes=7),
            "data": {"input_shape": [3, 64, 64]},
            "init": "default",
        }
    )
    assert plan.ledger["fc.weight"].shape == "7x440"


MORE_INFERRED = [
    (layer("BatchNorm1d"), [6, 4], nn.BatchNorm1d(6)),
    (layer("InstanceNorm1d", affine=True), [6, 4], nn.InstanceNorm1d(6, affine=True)),
    (layer("InstanceNorm3d", track_running_stats=True), [6, 2, 2, 2], nn.InstanceNorm3d(6, track_running_stats=True)),
    (layer("InstanceNorm2d"), [6, 4, 4], nn.InstanceNorm2d(6)),
    (layer("PReLU", num_parameters=1), [6, 4], nn.PReLU()),
    (layer("PReLU"), [6], nn.PReLU(6)),
    (layer("LSTM", hidden_size=5, proj_size=2, batch_first=True), [4, 3], nn.LSTM(3, 5, proj_size=2, batch_first=True)),
    (layer("Conv2d", out_channels=4, kernel_size=3, groups=2, bias=False), [6, 5, 5], nn.Conv2d(6, 4, 3, groups=2, bias=False)),
]


@pytest.mark.parametrize(
    ("config", "shape", "by_hand"), MORE_INFERRED, ids=lambda value: value["_target_"] if isinstance(value, dict) else ""
)
def test_more_sizes_that_the_input_tells(config, shape, by_hand):
    built = build({"it": config}, shape)[0]  # pyright: ignore[reportIndexIssue]
    shapes = {name: tensor.shape for name, tensor in built.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in by_hand.state_dict().items()} and repr(built) == repr(by_hand)


def test_inference_is_that_of_the_layers_behind_each_other():
    layers = {
        "conv": layer("Conv2d", out_channels=6, kernel_size=3, stride=2),
        "norm": layer("GroupNorm", num_groups=3),
        "act": layer("PReLU"),
        "up": layer("ConvTranspose2d", out_channels=4, kernel_size=2, stride=2),
        "flat": layer("Flatten", start_dim=2),
        "turn": layer("modelfactory.Permute", dims=[0, 2, 1]),
        "encoder": layer("TransformerEncoderLayer", nhead=2, dim_feedforward=5, batch_first=True),
        "gru": layer("GRU", hidden_size=3, bidirectional=True, batch_first=True, output=0),
        "last": layer("modelfactory.Select"),
        "head": layer("Linear", out_features=2),
    }
    built = build(layers, [1, 9, 9])
    assert built.norm.num_channels == built.act.num_parameters == 6 and built.encoder.linear1.in_features == 4  # pyright: ignore
    assert built.gru.input_size == 4 and built.head.in_features == 6 and built(torch.zeros(3, 1, 9, 9)).shape == (3, 2)  # pyright: ignore


def test_a_size_that_contradicts_the_input_is_told():
    with pytest.raises(ConfigError, match=r"model.layers.fc.in_features: 9 does not fit what comes in, \[N, 5\]: leave it out, or give 5"):
        build({"fc": layer("Linear", in_features=9, out_features=2)}, [5])
    with pytest.raises(ConfigError, match="model.layers.fc.in_features: cannot be inferred: what comes in is not known"):
        build({"fc": layer("Linear", out_features=2)}, None)
    assert build({"fc": layer("Linear", in_features=9, out_features=2)}, None)[0].in_features == 9  # pyright: ignore


def test_a_tuple_without_output_and_an_output_without_tuple_are_told():
    lstm, linear = layer("LSTM", hidden_size=3, batch_first=True), layer("Linear", out_features=2)
    with pytest.raises(ConfigError, match="model.layers.fc.in_features: .*the layer before returns a tuple; .*output: 0"):
        build({"lstm": lstm, "fc": linear}, [4, 3])
    with pytest.raises(ConfigError, match="model.layers.fc.output: 0: .*|model.layers.fc.output: the layer returns one tensor"):
        build({"fc": {**linear, "output": 0}}, [3])
    with pytest.raises(ConfigError, match="model.layers.lstm.output: 5 is outside of the 2 parts"):
        build({"lstm": {**lstm, "output": 5}, "fc": linear}, [4, 3])


CONTAINERS_WRONG = [
    (layer("modelfactory.Residual", layers={"fc": layer("Linear", out_features=4)}), r"the branch gives \[N, 4\], what comes in \[N, 3\]"),
    (layer("modelfactory.Residual", layers={}), "layers: is empty"),
    (layer("modelfactory.Residual", layers={"shortcut": layer("Linear", out_features=3)}), "holds no layer"),
    (layer("modelfactory.Residual", layers={"scale": layer("Identity")}), "'scale' cannot name a module"),
    (layer("modelfactory.Residual", layers={"a": layer("Identity")}, scale={"learn": 0.0, "per": "row"}), "per: 'row' is not a choice"),
    (layer("modelfactory.Parallel", layers={"a": layer("Identity")}, combine="stack"), "combine: 'stack'"),
    (
        layer("modelfactory.Parallel", layers={"a": layer("Identity"), "b": layer("Linear", out_features=4)}, combine="sum"),
        r"cannot be combined by sum: a \[N, 3\], b \[N, 4\]",
    ),
    ({"repeat": 0, **layer("Identity")}, "repeat: 0 is too small"),
    ({"repeat": 2.5, **layer("Identity")}, "repeat: 2.5 is a number"),
    ({"layers": {"a.b": layer("Identity")}}, "'a.b' cannot name a module"),
    ({"layers": {"forward": layer("Identity")}}, "'forward' cannot name a module"),
]


@pytest.mark.parametrize(("config", "message"), CONTAINERS_WRONG, ids=lambda value: str(value)[:50])
def test_what_is_wrong_with_a_container_is_told_with_its_path(config, message):
    with pytest.raises(ConfigError, match=rf"^model.layers.it.*{message}"):
        build({"it": config}, [3])


def test_a_layer_of_null_is_left_out():
    built = build({"a": layer("Linear", out_features=3), "gone": None, "b": layer("ReLU")}, [3])
    assert [name for name, _ in built.named_children()] == ["a", "b"]


def test_the_activation_is_a_module_of_its_own_at_each_place():
    config = {"model": {"layers": {"a": "${activation}", "b": "${activation}"}}, "activation": layer("PReLU"), "data": {"input_shape": [4]}}
    built = mf.build(config)
    assert built.a is not built.b and built.a.weight is not built.b.weight and built.a.weight.shape == (4,)  # pyright: ignore


def test_modules_as_arguments_are_built_too():
    encoder = layer(
        "TransformerEncoder", num_layers=2, encoder_layer=layer("TransformerEncoderLayer", d_model=4, nhead=2, batch_first=True)
    )
    built = build({"encoder": encoder}, [5, 4])
    first, second = (part.linear1.weight for part in built[0].layers)  # pyright: ignore
    assert built(torch.zeros(2, 5, 4)).shape == (2, 5, 4) and not torch.equal(first, second)


@pytest.mark.filterwarnings("ignore")  # of torch's own compiler
@pytest.mark.slow
def test_what_is_built_compiles():
    layers = {
        "body": layer("modelfactory.Residual", layers={"fc": layer("Linear", out_features=4), "act": layer("ReLU")}, scale={"learn": 0.5}),
        "both": layer("modelfactory.Parallel", layers={"a": layer("Linear", out_features=2), "b": layer("Identity")}),
        "norm": layer("BatchNorm1d", freeze=True),
    }
    built = build(layers, [4])
    x = torch.randn(8, 4)
    compiled = torch.compile(built, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), built(x), atol=1e-5)


TIED = {
    "tokens": {"_target_": "torch.nn.Embedding", "num_embeddings": 5, "embedding_dim": 4},
    "head": {"_target_": "torch.nn.Linear", "out_features": 5, "bias": False, "tie": {"weight": "tokens.weight"}},
}
IDS = {"input_shape": [3], "input_dtype": "int64"}


def test_a_tied_weight_is_one_parameter_from_the_plan_on():
    cfg = {"model": {"layers": TIED}, "data": IDS, "init": "auto"}
    plan = mf.plan(cfg)
    assert [row.name for row in plan.ledger] == ["tokens.weight = head.weight"] and plan.ledger[0].scheme == "tied_embedding"
    model = plan.build()
    assert model.head.weight is model.tokens.weight and len(list(model.parameters())) == 1


def test_blocks_may_be_tied_to_one_another():
    inner = {"_target_": "torch.nn.Linear", "out_features": 4}
    layers = {"first": inner, "second": {**inner, "tie": {"weight": "first.weight", "bias": "first.bias"}}}
    model = mf.build({"model": {"layers": layers}, "data": {"input_shape": [4]}, "init": "default"})
    assert model.second.weight is model.first.weight and model.second.bias is model.first.bias


@pytest.mark.parametrize(
    ("tie", "why"),
    [
        ("tokens.weight", "model.layers.head.tie: 'tokens.weight' is not a mapping of names"),
        ({"weight": "token.weight"}, "'token.weight' is no parameter of this model; did you mean 'tokens.weight'?"),
        ({"wieght": "tokens.weight"}, "the layer has no parameter 'wieght'"),
        ({"weight": "head.weight"}, "is this parameter itself"),
        ({"weight": "other.weight"}, "other.weight is [4, 4] and head.weight [5, 4]: only equal shapes can be one parameter"),
    ],
)
def test_a_tie_that_cannot_be_is_told_with_its_path(tie, why):
    other = {"_target_": "torch.nn.Linear", "out_features": 4}
    layers = {"tokens": TIED["tokens"], "other": other, "head": {**TIED["head"], "tie": tie}}
    with pytest.raises(mf.ConfigError) as caught:
        mf.plan({"model": {"layers": layers}, "data": IDS, "init": "default"}).ledger  # noqa: B018
    assert "model.layers.head.tie" in str(caught.value) and why in str(caught.value)
