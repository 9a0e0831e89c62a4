"""Every YAML of conf/ is composed, built and run for one step; a file that is added is tested without being named here."""

from __future__ import annotations

import dataclasses
import inspect
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

import modelfactory as mf
import modelfactory.data
from modelfactory.data.spec import DataSpec
from modelfactory.model.backbone.spec import BackboneSpec
from modelfactory.training.scheduler import CommonSpec
from modelfactory.training.spec import TrainerSpec
from tests.data.test_vision import small as small
from tests.data.test_vision import write_cifar, write_idx, write_images

CONF = Path(__file__).resolve().parents[2] / "conf"


def names(group: str) -> list[str]:
    found = sorted(file.stem for file in (CONF / group).glob("*.yaml"))
    assert found, f"there is no config in {group}"
    return found


ONE_STEP = ("trainer.max_epochs=1", "trainer.max_steps=1", "trainer.limit_batches=1", "trainer.progress=none")
ON_THE_CPU = ("trainer.device=cpu", "trainer.precision=fp32")
SMALL = {  # models as small as they can be and still be what they are
    "deep_mlp": ("model.depth=2", "model.width=8"),
    "deep_cnn": ("model.depth=2", "model.width=8"),
    "deep_residual": ("model.depth=2", "model.width=8"),
    "vit": ("model.depth=1", "model.width=8", "model.heads=2"),
    "resnet": ("model.blocks=1", "model.width=4", "model.wide=8"),
    "gpt": ("data=bytes", "data.context=8", "model.depth=1", "model.width=8", "model.hidden=16", "model.heads=2"),
    "llama": ("data=bytes", "data.context=8", "model.depth=1", "model.width=8", "model.hidden=16", "model.heads=2", "model.kv_heads=1"),
}
TEXT = {"gpt", "llama"}
BRANCHED = {"deep_residual", "resnet", "vit"} | TEXT
FOR_MATRICES = {"sparse"}  # fills matrices alone
FOR_CONVOLUTIONS = {"dirac", "delta_orthogonal", "icnr"}
CONVOLUTIONAL = {"cnn", "deep_cnn", "resnet"}
NEEDS = {  # what a model must have for an initialisation of its structure; the others are refused, and told why
    **dict.fromkeys(("zero_residual", "fixup", "gpt2", "small_init", "llama", "nanochat"), (BRANCHED, "no residual branch is known")),
    **dict.fromkeys(("t_fixup", "deepnorm"), ({"vit"} | TEXT, "no attention is seen in the run of this model")),
    **dict.fromkeys(("lstm", "chrono"), ({"lstm"}, "{module: LSTM, LSTMCell, role: gate} picks no parameter")),
    "tied_embedding": ({"vit"} | TEXT, "{role: tied, embedding} picks no parameter"),
    "prior_bias": (set(names("model")) - TEXT, "needs 1 dimension"),
    "bilinear": (set(), "{module: ConvTranspose1d, ConvTranspose2d, ConvTranspose3d, role: weight} picks no parameter"),
}


SIZES = {"inception_v3": 75, "alexnet": 64, "vgg11": 32, "maxvit_t": 224} | {  # of the smallest images that the model takes
    name: 224 for name in ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")
}
# The smallest of each family; the others are planned, which constructs them and runs them on the meta device.
STEPPING = (
    "resnet18 squeezenet1_1 shufflenet_v2_x0_5 mnasnet0_5 mobilenet_v2 mobilenet_v3_small efficientnet_b0 regnet_x_400mf "
    "regnet_y_400mf googlenet inception_v3 densenet121 swin_t convnext_tiny alexnet"
).split()


def one_step(*overrides: str) -> None:
    result = mf.train(mf.compose(*ONE_STEP, *ON_THE_CPU, *overrides))
    assert result.status == "completed"
    assert math.isfinite(result.final["train_loss"]) and math.isfinite(result.final["val_loss"])


def put_files(name: str, root: Path) -> tuple[str, ...]:
    """Writes a small data set in the real format, where the config `name` needs one, and says where."""
    if name in ("mnist", "fashion_mnist"):
        write_idx(root / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name] / "raw", 20)
    elif name == "cifar10":
        batches = [f"data_batch_{index}.bin" for index in range(1, 6)]
        write_cifar(root / "cifar-10-batches-bin", [*batches, "test_batch.bin"], 1)
    elif name == "cifar100":
        write_cifar(root / "cifar-100-binary", ["train.bin", "test.bin"], 2)
    elif name == "image_folder":
        write_images(root)
        resize = "{_target_: torchvision.transforms.v2.Resize, size: [8, 8]}"
        small = ("data.input_shape=[3,8,8]", "data.num_classes=2", "data.num_workers=0")
        return (f"data.root={root}", *small, f"data.transforms.train.crop={resize}", f"data.transforms.val.resize={resize}")
    else:
        return ()
    return (f"data.root={root}",)


@pytest.mark.parametrize("name", names("data"))
def test_every_data_set_trains_a_step(name: str, tmp_path: Path, small):
    model = ("model=gpt", *SMALL["gpt"]) if name == "bytes" else ("model.width=8",)
    one_step(*model, f"data={name}", *put_files(name, tmp_path))


@pytest.mark.parametrize("name", names("activation"))
def test_every_activation_trains_a_step(name: str):
    one_step(f"activation={name}", "model.width=8", "init=xavier_normal")


@cache
def on_images() -> Any:
    return OmegaConf.to_container(mf.compose("data=fake", "model=linear_head", *ON_THE_CPU, "init=default"), resolve=False)


@pytest.mark.parametrize("name", names("backbone"))
def test_every_backbone_is_planned(name: str):
    size = SIZES.get(name, 32)
    keys, own = (yaml.safe_load((CONF / "backbone" / f"{file}.yaml").read_text()) for file in ("timm", name))
    group = {**keys, **own} if own.pop("defaults", None) else own
    plan = mf.plan({**on_images(), "backbone": group, "data": {**on_images()["data"], "input_shape": [3, size, size]}})
    assert plan.ledger["head.bias"].numel == 10
    assert (name != "none") == any(row.name.startswith("backbone.") for row in plan.ledger)


@pytest.mark.parametrize("name", STEPPING)
def test_the_smallest_backbone_of_each_family_trains_a_step(name: str):
    size = SIZES.get(name, 32)
    small = (f"data.input_shape=[3,{size},{size}]", "data.batch_size=4", "data.num_samples=4", "data.num_val_samples=4")
    one_step("data=fake", f"backbone={name}", "model=linear_head", "optimizer.lr=0.0001", "init=default", "trainer.signal=none", *small)


def test_every_classification_model_of_torchvision_has_a_config():
    from torchvision import models

    for name in models.list_models(module=models):
        assert yaml.safe_load((CONF / "backbone" / f"{name}.yaml").read_text())["name"] == name


MODELS = [name for name in names("model") if name != "own"]


@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_a_step(name: str):
    one_step(f"model={name}", *SMALL.get(name, ()))


def test_a_builder_named_on_the_command_line_trains_a_step():
    own = ("model=own", "model._target_=torchvision.models.shufflenet_v2_x0_5", "+model.num_classes=10")
    one_step("data=fake", "data.input_shape=[3,32,32]", "optimizer.lr=0.0001", *own)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("init", names("init"))
def test_every_init_fills_every_model_it_suits(init: str, model: str):
    """One step of the smallest, and every parameter of the others."""
    if init in FOR_CONVOLUTIONS and model not in CONVOLUTIONAL or init in FOR_MATRICES and model not in ("mlp", "deep_mlp"):
        with_what_it_does_not_suit = ("+init.rules.rest={match: '*', scheme: default}",)
    else:
        with_what_it_does_not_suit = ()
    overrides = (f"init={init}", f"model={model}", *SMALL.get(model, ()), *with_what_it_does_not_suit)
    suited, why = NEEDS.get(init, ({model}, ""))
    if model not in suited:
        with pytest.raises(mf.ConfigError) as caught:
            mf.plan(mf.compose(*overrides))
        assert why in str(caught.value)
        return
    if model == "mlp":
        one_step(*overrides, "model.width=8")
        return
    plan = mf.plan(mf.compose(*overrides))
    parameters = dict(plan.build().named_parameters())
    assert {row.name.partition(" = ")[0] for row in plan.ledger} == set(parameters)
    assert all(parameter.isfinite().all() for parameter in parameters.values())


@pytest.mark.parametrize("name", names("freeze"))
def test_every_freeze_trains_a_step(name: str):
    behind = () if name == "none" else ("backbone=cnn", "backbone.allow_random=true", "model=mlp_head")
    one_step(f"freeze={name}", *behind, "model.width=8")


@pytest.mark.parametrize("name", names("optimizer"))
def test_every_optimizer_trains_a_step(name: str):
    one_step(f"optimizer={name}", "model.width=8")


@pytest.mark.parametrize("name", names("scheduler"))
def test_every_scheduler_trains_a_step_with_and_without_a_warm_up(name: str):
    one_step(f"scheduler={name}", "model.width=8")
    warm = ("scheduler.warmup_epochs=1", "trainer.max_epochs=2", "trainer.max_steps=null")
    one_step(f"scheduler={name}", "model.width=8", *warm)


@pytest.mark.parametrize("name", names("trainer"))
def test_every_trainer_trains_a_step(name: str):
    one_step(f"trainer={name}", "model.width=8")


@pytest.mark.parametrize("name", names("experiment"))
def test_every_experiment_trains_a_step(name: str, tmp_path: Path):
    overrides = {
        "pretrain_digits": lambda: (),
        "transfer_digits": lambda: (
            f"experiment.arms.frozen.weights.folder={tmp_path}",
            "experiment.arms.frozen.weights.train=['experiment=pretrain_digits','trainer=debug','scheduler.warmup_epochs=0']",
        ),
        "transfer_resnet18": lambda: (f"backbone.weights={put_weights(tmp_path)}", "data.val_fraction=0.05", "data.per_class=2"),
    }.get(name, lambda: ("model.width=8",))
    one_step(f"experiment={name}", "scheduler.warmup_epochs=0", *overrides())


def put_weights(folder: Path) -> Path:
    """A file of a whole ResNet-18 as torch writes it."""
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


def test_no_config_is_left_out():
    tested = {"data", "activation", "backbone", "model", "init", "freeze", "optimizer", "scheduler", "trainer", "experiment", "hydra"}
    assert {folder.name for folder in CONF.iterdir() if folder.is_dir() and not folder.name.startswith("_")} == tested
    assert [file.name for file in CONF.glob("*.yaml")] == ["config.yaml"]


SPECS = {"data": DataSpec, "trainer": TrainerSpec, "scheduler": CommonSpec, "backbone": BackboneSpec}
NOT_THEIRS = {  # keys that mean nothing to them
    **dict.fromkeys(("bytes", "diabetes", "linear_map"), {"classes", "per_class"}),
    "none": {field.name for field in dataclasses.fields(BackboneSpec)},
    "cnn": {"output", "in_channels", "stem", "arguments"},
}


@pytest.mark.parametrize("group", SPECS)
def test_every_key_of_a_group_can_be_overridden_as_it_is(group: str):
    missing = {}
    for name in ("none", "cnn", "timm", "resnet18") if group == "backbone" else names(group):  # the others have the keys of timm
        node = mf.compose(f"{group}={name}")[group]
        wanted = {field.name for field in dataclasses.fields(SPECS[group])}
        if group == "data":
            wanted |= set(inspect.signature(getattr(modelfactory.data, node["_target_"].rpartition(".")[2])).parameters)
        if left_out := wanted - set(node) - NOT_THEIRS.get(name, set()):
            missing[name] = left_out
    assert not missing


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.amsgrad=true"], "optimizer.amsgrad: there is no such key in the config; [+]optimizer.amsgrad=... adds it"),
        (["scheduler=onecycle", "scheduler.three_phase=true"], "[+]scheduler.three_phase=... adds it"),
        (["activation.inplace=true"], "[+]activation.inplace=... adds it"),
        (["data._target_=modelfactory.data.fake", "data.noise=2"], "[+]data.noise=... adds it"),
        (["optimizer.params=3"], "optimizer.params: there is no such key; choose one of _target_, lr"),
        (["backbone.stem=sum"], "backbone.stem: .* without a backbone; choose one, such as backbone=resnet18"),
    ],
)
def test_an_argument_that_a_config_leaves_out_is_told_with_the_word_that_adds_it(words: list[str], message: str):
    with pytest.raises(mf.ConfigError, match=message):
        mf.compose(*words)
