"""The residual structure of torch.nn's, torchvision's and timm's models: what the modules tell is what a run does."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import modelfactory as mf
from modelfactory.config.target import trust
from modelfactory.model.clone import shadow_of
from modelfactory.model.deferred_construction import construction
from modelfactory.model.layers.containers import Residual
from modelfactory.parameters.roles import describe

ADDS = (torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__add__, torch.Tensor.__radd__, torch.Tensor.__iadd__)
PRODUCTS = (torch.mul, torch.Tensor.mul, torch.Tensor.mul_, torch.Tensor.__mul__, torch.Tensor.__rmul__, torch.Tensor.__imul__)
LAYERS = (F.linear, torch.conv1d, torch.conv2d, torch.conv3d)


class SeeingSums(TorchFunctionMode):
    """Runs a model on the meta device; at each sum of two signals, notes which layer last wrote to the one that passed more.

    A tensor carries how many layers it passed since the input, and the one that last wrote to it. What is multiplied by a gate
    stays what it is.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.ends: set[str] = set()
        self.owners = {id(parameter): name.rpartition(".")[0] for name, parameter in model.named_parameters()}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        passed = [tensor._passed for tensor in tensors((args, kwargs)) if hasattr(tensor, "_passed")]
        if func in ADDS and len(args) == 2 and len(passed) == 2 and passed[0][1] != passed[1][1] and args[0].ndim > 2:
            self.ends.add(max(passed)[1])
        if passed and not getattr(func, "__name__", "").startswith(("__get__", "__set__", "new_")):
            depth, last = min(passed) if func in PRODUCTS else max(passed)
            weight = kwargs.get("weight", args[1] if len(args) > 1 else None) if func in LAYERS else None
            if func is F.multi_head_attention_forward:
                weight = args[11]
            if weight is not None:
                depth, last = depth + 1, self.owners.get(id(weight), last)
            for tensor in tensors(out):
                tensor._passed = (depth, last)
        return out


def tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in tensors(item)] if isinstance(value, (tuple, list)) else []


def ends_by_running(model: nn.Module, *shape: int) -> set[str]:
    with torch.no_grad(), torch.device("meta"), SeeingSums(model) as seeing:
        x = torch.empty(2, *shape)
        x._passed = (0, "input")
        model.train()(x)
    return seeing.ends


def ends_by_modules(model: nn.Module) -> set[str]:
    return {info.module_name for info in describe(model) if "residual_out" in info.roles}


def some_slow(often: str, seldom: str) -> list:
    return [*often.split(), *(pytest.param(name, marks=pytest.mark.slow) for name in seldom.split())]


TORCHVISION = some_slow(
    "resnet18 vit_b_32 swin_t swin_v2_t convnext_tiny mobilenet_v2 mobilenet_v3_small mnasnet0_5 shufflenet_v2_x0_5",
    "regnet_y_400mf regnet_x_400mf efficientnet_b0 efficientnet_v2_s resnext50_32x4d maxvit_t densenet121 vgg11 squeezenet1_0",
)
TIMM = some_slow(
    "seresnet50 resnetv2_50 vit_tiny_patch16_224 convnext_atto swinv2_tiny_window8_256 mobilenetv3_small_050 mixer_s32_224 pvt_v2_b0",
    "resnet18 resnet26d resnest14d deit3_small_patch16_224 convnextv2_atto swin_tiny_patch4_window7_224 efficientnet_b0 densenet121 "
    "regnety_002 poolformer_s12 beit_base_patch16_224 caformer_s18 resmlp_12_224 gmlp_ti16_224 eva02_tiny_patch14_224",
)


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_branches_of_torchvisions_models_are_those_that_a_run_adds_up(name: str):
    with construction(0, ""), torch.device("cpu" if "regnet" in name else "meta"):  # RegNet computes with tensors
        model = torchvision.models.get_model_builder(name)()
    model, _ = shadow_of(model)
    assert ends_by_modules(model) == ends_by_running(model, 3, 224, 224)


@pytest.mark.parametrize("name", TIMM)
def test_the_branches_of_timms_models_are_those_that_a_run_adds_up(name: str):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name)
    assert ends_by_modules(model) == ends_by_running(model, *model.default_cfg["input_size"])


def roles(model: nn.Module, role: str) -> list[str]:
    return [info.name for info in describe(model) if role in info.roles]


def test_what_silences_a_branch_is_the_norm_that_ends_it_or_its_last_layer():
    with torch.device("meta"):
        resnet, vit = torchvision.models.resnet50(), torchvision.models.vit_b_32()
    blocks = [f"layer{stage}.{block}" for stage, depth in ((1, 3), (2, 4), (3, 6), (4, 3)) for block in range(depth)]
    assert roles(resnet, "residual_end") == [f"{block}.bn3.weight" for block in blocks]
    assert roles(vit, "residual_norm") == []
    layers = [f"encoder.layers.encoder_layer_{index}" for index in range(12)]
    assert roles(vit, "residual_end") == [f"{at}.{end}.weight" for at in layers for end in ("self_attention.out_proj", "mlp.3")]


def test_torchs_transformer_has_two_branches_an_encoder_layer_and_three_a_decoder_layer():
    with torch.device("meta"):
        model = nn.Transformer(16, 2, num_encoder_layers=3, num_decoder_layers=2, dim_feedforward=32, batch_first=True)
    branches = describe(model)[0].model.branches
    assert len(branches) == 3 * 2 + 2 * 3
    assert {(branch.in_decoder, branch.depth, branch.other_depth) for branch in branches} == {(False, 3, 2), (True, 2, 3)}


def test_packed_queries_keys_and_values_are_known_by_name_and_width():
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        infos = {info.name: info for info in describe(timm.create_model("vit_tiny_patch16_224"))}
    assert infos["blocks.0.attn.qkv.weight"].packed == ("query", "key", "value")
    assert infos["blocks.0.attn.qkv.bias"].packed == ("query", "key", "value")
    assert infos["blocks.0.mlp.fc1.weight"].packed == ()


class Own(nn.Module):
    """Residual in a way of its own, which only a declaration can tell."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.steps = nn.ModuleList(nn.ModuleDict({"a": nn.Linear(4, 8), "b": nn.Linear(8, 4)}) for _ in range(3))
        self.out = nn.Linear(4, 2)
        self.extra = nn.Linear(4, 4)

    def forward(self, x):
        x = self.first(x)
        for step in self.steps:
            x = x + step["b"](torch.relu(step["a"](x)))
        return self.out(x)


def test_a_class_declares_what_its_parts_are_there_for():
    class Declared(Own):
        modelfactory_roles = {"residual": "steps.*", "head": "out"}

    model = Declared()
    assert roles(model, "residual_out") == [f"steps.{index}.b.{attr}" for index in range(3) for attr in ("weight", "bias")]
    assert roles(model, "residual_end") == [f"steps.{index}.b.weight" for index in range(3)]
    assert roles(model, "head") == ["out.weight", "out.bias"]
    assert len(describe(model)[0].model.branches) == 3


def test_a_config_declares_roles_beside_a_layer():
    trust("tests.parameters.test_residual")
    own = {"_target_": "tests.parameters.test_residual.Own", "roles": {"residual": "steps.*", "head": ["out.*"]}}
    plan = mf.plan({"model": own, "init": "gpt2"})
    assert plan.ledger["steps.1.b.weight"].expected_std == pytest.approx(0.02 / 3**0.5)
    assert plan.ledger["out.weight"].role.split() == ["weight", "head"]
    assert "residual_out" in plan.ledger["steps.1.b.bias"].role and "steps.2.b.weight" in plan.build().state_dict()


def test_a_declared_role_must_be_of_something():
    trust("tests.parameters.test_residual")
    with pytest.raises(mf.ConfigError) as caught:
        mf.plan({"model": {"_target_": "tests.parameters.test_residual.Own", "roles": {"head": "outt.*", "residual": "step.*"}}})
    assert "model.roles.head: 'outt.*' is not a parameter of this layer" in str(caught.value)
    assert "model.roles.residual: 'step.*' is not a module inside of this one" in str(caught.value)
    with pytest.raises(mf.ConfigError) as caught:
        mf.plan({"model": {"_target_": "tests.parameters.test_residual.Own", "roles": {"haed": "out.*", "head": 3}}})
    assert "model.roles.haed: not a role; did you mean 'head'?" in str(caught.value)
    assert "model.roles.head: 3 is not a glob" in str(caught.value)


def test_a_residual_container_is_a_branch_without_its_shortcut():
    model = Residual({"a": nn.Linear(4, 4), "norm": nn.LayerNorm(4), "shortcut": nn.Linear(4, 4)})
    assert roles(model, "residual_end") == ["norm.weight"] and roles(model, "residual") == ["a.weight"]


def test_the_spans_of_layers_are_those_of_their_parameters():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), nn.Linear(3, 1))
    infos = describe(model)
    spans = infos[0].outline.spans
    for layer, module in model.named_modules():
        begin, end = spans[layer]
        assert [info.parameter for info in infos[begin:end]] == list(module.parameters())
