"""Configs and functions of this package in the project of somebody else: groups under packages, targets of Hydra, parts of a config."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import modelfactory as mf
from modelfactory.config.hydra_patches import OF_1_4, VERSION_BASE

CONF = Path(__file__).resolve().parents[2] / "conf"
GROUPS = ("data", "activation", "backbone", "model", "init", "freeze", "optimizer", "scheduler", "trainer", "experiment")
# those that refer to others: what refers to nothing says the same anywhere
FILES = [
    f"{group}/{file.stem}"
    for group in GROUPS
    for file in sorted((CONF / group).glob("*.yaml"))
    if re.search(r"\$\{|override ", file.read_text())
]
ALLOWED: dict[str, Any] = {"_execution_whitelist_": ["modelfactory.*", "torch.*"]} if OF_1_4 else {}
FC = {"_target_": "torch.nn.Linear", "out_features": 3}
SMALL = {"model": {"layers": {"fc": FC, "act": {"_target_": "torch.nn.ReLU"}}}, "data": {"input_shape": [4]}, "seed": 5}


@pytest.fixture
def composed(tmp_path: Path) -> Callable[..., DictConfig]:
    """Compose a config of a project that asks for our groups and has keys of its own."""

    def compose_words(*words: str, defaults: Sequence[str] = (), keys: str = "") -> DictConfig:
        listed = "".join(f"  - {entry}\n" for entry in ("_self_", *defaults))
        text = f"defaults:\n{listed}lr: 0.1\ncallbacks: {{stop: {{patience: '???'}}}}\n{keys}\nhydra: {{searchpath: [pkg://modelfactory.conf]}}\n"
        (tmp_path / "theirs.yaml").write_text(text)
        with initialize_config_dir(str(tmp_path), **VERSION_BASE):
            return compose("theirs", overrides=list(words))

    return compose_words


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("file", FILES)
def test_every_config_says_the_same_under_a_package(composed: Callable[..., DictConfig], file: str):
    """By OmegaConf alone, which is what `instantiate` and `--resolve` go by."""
    group, _, name = file.partition("/")
    chosen = {"data": "digits", "activation": "relu", "backbone": "none", "model": "mlp", "init": "auto", "freeze": "none"}
    chosen |= {"optimizer": "adamw", "scheduler": "constant", "trainer": "default"} | ({group: name} if group != "experiment" else {})
    words = ["model._target_=torch.nn.Identity"] if file == "model/own" else []
    moved = [f"/{key}@a.net.{key}: {option}" for key, option in chosen.items()]
    at_net = composed(
        *(f"a.net.{word}" for word in words),
        *([f"+experiment@a.net={name}"] if group == "experiment" else []),
        defaults=moved,
        keys="a: {net: {seed: 3}}",
    )
    at_root = mf.compose(f"{group}={name}", "seed=3", *words)
    for key in (*chosen, *(["experiment"] if group == "experiment" else [])):
        there, here = at_net.a.net.get(key), at_root.get(key)
        there, here = (OmegaConf.to_container(it, resolve=True) if OmegaConf.is_config(it) else it for it in (there, here))
        assert there == here, key


@pytest.mark.parametrize("part", [lambda cfg: mf.build(cfg, at="net"), lambda cfg: mf.build(cfg.net)], ids=["at", "part"])
def test_a_model_under_a_package_is_the_model_at_the_root(composed: Callable[..., DictConfig], part: Callable[[Any], torch.nn.Module]):
    root = ["data: digits", "activation: relu"]
    cfg = composed(defaults=["/model@net: resnet", "/init@net.init: kaiming_normal", *root], keys="seed: 3")
    assert same(part(cfg), mf.build("model=resnet", "init=kaiming_normal", "seed=3"))


def test_two_models_of_one_config_share_what_is_above_them(composed: Callable[..., DictConfig]):
    moved = ["/model@student.model: mlp", "/model@teacher: cnn", "/init@teacher.init: orthogonal", "/activation@teacher.activation: gelu"]
    cfg = composed(defaults=[*moved, "data: digits", "activation: tanh", "init: xavier_normal"], keys="seed: 7")
    student, teacher = mf.plan(cfg, at="student"), mf.plan(cfg, at="teacher")
    assert (student.ledger["fc1.weight"].scheme, teacher.ledger["conv1.weight"].scheme) == ("xavier_normal", "orthogonal")
    assert same(student.build(), mf.build("model=mlp", "activation=tanh", "init=xavier_normal", "seed=7"))
    assert isinstance(teacher.build().act1, torch.nn.GELU)


def test_errors_of_a_package_have_its_paths(composed: Callable[..., DictConfig]):
    root = ["data: digits", "activation: relu"]
    cfg = composed("net.layers.fc1._target_=torch.nn.Linearr", "+net.init=kaimin", defaults=["/model@net: mlp", *root])
    with pytest.raises(mf.ConfigError, match=r"(?s)net.layers.fc1._target_: 'torch.nn.Linearr'.*\nnet.init: 'kaimin' is not a scheme"):
        mf.build(cfg, at="net")


@pytest.mark.parametrize("use", [mf.plan, mf.build], ids=["plan", "build"])
@pytest.mark.parametrize(
    "theirs",
    [
        {"lr": 0.1, "callbacks": {"stop": {"patience": 3}}, "paths": {"root": "."}},
        {"trainer": {"_target_": "lightning.Trainer", "max_epochs": "???"}, "scheduler": "cosine", "experiment": "baseline"},
        {"optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1}, "logger": "${oc.env:NOT_SET}"},
    ],
    ids=["own", "lightning", "partial"],
)
def test_keys_of_another_project_are_left_alone(use: Callable[[Any], Any], theirs: dict[str, Any]):
    use({**theirs, **SMALL})
    use(OmegaConf.create({**theirs, **SMALL}))


def test_strictness_inside_our_own_groups_stays():
    with pytest.raises(mf.ConfigError, match="init.rulse: not a key of init"):
        mf.build({**SMALL, "init": {"rulse": {}}})


QUICK = {"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1}, "trainer": {"max_epochs": 1, "device": "cpu", "progress": "none"}}


def test_training_leaves_other_keys_alone_and_the_command_line_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from modelfactory.cli.main import main

    cfg = {**mf.compose("model.width=8"), **QUICK, "callbacks": {"stop": "???"}}
    assert mf.train(cfg, run_dir=tmp_path / "run").status == "completed"
    assert "callbacks" not in (tmp_path / "run" / "config.yaml").read_text()
    assert main(["train", "+callbacks={}", f"hydra.run.dir={tmp_path}/other"]) == 2
    assert "callbacks: not a key of the config" in capsys.readouterr().err
    assert main(["plan", "+callbacks={}"]) == 0


TARGETS = ("modelfactory.build", "modelfactory.api.run.build")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("more", [{}, {"_convert_": "all"}, {"_partial_": True}, {"_recursive_": False}], ids=str)
def test_instantiate_gives_build_the_config_as_it_stands(target: str, more: dict[str, Any]):
    made = instantiate({"net": {"_target_": target, "cfg": SMALL, **more}, "act": {"_target_": "torch.nn.ReLU"}}, **ALLOWED)
    net = made.net() if "_partial_" in more else made.net
    assert same(net, mf.build(SMALL)) and isinstance(made.act, torch.nn.ReLU)


def test_instantiate_builds_what_an_interpolation_or_a_package_gives(composed: Callable[..., DictConfig]):
    groups = ["/model@net.cfg.model: cnn", "/data@net.cfg.data: digits", "/activation@net.cfg.activation: relu", "/init@net.cfg.init: auto"]
    targets = "net: {_target_: modelfactory.build, cfg: {seed: 2}}\nlightning: {_target_: modelfactory.build, cfg: '${net.cfg}'}"
    cfg = composed(defaults=groups, keys=targets)
    ours = mf.build("model=cnn", "init=auto", "seed=2")
    assert same(instantiate(cfg.net, **ALLOWED), ours) and same(instantiate(cfg.lightning, **ALLOWED), ours)


def test_instantiate_builds_from_overrides():
    node = {"_target_": "modelfactory.build", "_args_": ["model=cnn", "init=auto"]}
    assert same(instantiate(node, **ALLOWED), mf.build(mf.compose("model=cnn", "init=auto")))


@pytest.mark.skipif(OF_1_4, reason="hydra-zen gives Hydra 1.4 no whitelist")
def test_hydra_zen_builds_models():
    zen = pytest.importorskip("hydra_zen")
    for config in (zen.builds(mf.build, cfg=SMALL), zen.builds(mf.build, SMALL), zen.builds(mf.build, cfg=SMALL, zen_meta={"note": 1})):
        assert same(zen.instantiate(config), mf.build(SMALL))
    assert same(zen.instantiate(zen.builds(mf.build, "model=cnn", "seed=4")), mf.build("model=cnn", "seed=4"))


def test_a_yaml_file_is_a_config(tmp_path: Path):
    defaults = "[{model: cnn}, {data: digits}, {activation: gelu}, {init: auto}, _self_]"
    (tmp_path / "my-net.yaml").write_text(f"defaults: {defaults}\nlr: 3\nseed: 1\n")
    expected = mf.build("model=cnn", "activation=gelu", "seed=1", "model.width=8")
    assert same(mf.build(tmp_path / "my-net.yaml", "model.width=8"), expected)
    OmegaConf.save(OmegaConf.create({**SMALL, "lr": "${seed}"}), tmp_path / "plain.yaml")
    assert same(mf.build(str(tmp_path / "plain.yaml")), mf.build(SMALL))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cnn"], "'cnn' is neither an override, such as model=cnn, nor the path of a YAML file"),
        (["model=cnn", "cuda"], "'cuda' is neither an override"),
        (["no/such.yaml"], "there is no file 'no/such.yaml' in "),
        (["my.yml"], "'my.yml' ends in .yml, and Hydra reads .yaml alone; give it that name"),
        ([SMALL, "cpu"], "'cpu' comes after a config; overrides go to mf.compose, and device= and at= have names"),
        (["model=cnnn"], "model: 'cnnn' is not a config of model; did you mean 'cnn'?"),
    ],
)
def test_what_is_no_config_is_told(words: list[Any], message: str):
    with pytest.raises(mf.ConfigError) as caught:
        mf.build(*words)
    assert message in str(caught.value)


def net() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))


@pytest.mark.parametrize("init", ["orthogonal", "auto", "lsuv", "zero_head"])
def test_initialize_takes_the_node_of_a_config_or_a_config(init: str):
    example = 2 * torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    cfg = mf.compose(f"init={init}", "seed=4")
    by_node, by_config, by_name = net(), net(), net()
    ledger = mf.initialize(by_node, cfg.init, seed=4, example=example)
    mf.initialize(by_config, cfg, example=example)
    mf.initialize(by_name, init, seed=4, example=example)
    assert same(by_node, by_config) and same(by_node, by_name) and not same(by_node, net())
    row = ledger["3.weight"]
    assert row.std == pytest.approx(by_node[3].weight.std(correction=0).item(), rel=1e-5)
    assert any(row.scheme.endswith("+lsuv") for row in ledger) == (init == "lsuv")


def test_initialize_takes_a_node_under_a_package_and_interpolations_in_it():
    cfg = OmegaConf.create({"scale": 0.5, "net": {"init": {"rules": {"all": {"match": "*", "scheme": "constant", "val": "${scale}"}}}}})
    for give in (lambda model: mf.initialize(model, cfg, at="net"), lambda model: mf.initialize(model, cfg.net.init)):
        model = net()
        give(model)
        assert all(bool((parameter == 0.5).all()) for parameter in model.parameters())


def test_a_calibration_without_data_is_told():
    with pytest.raises(mf.ConfigError, match="init.calibrate: 'lsuv' needs data; give a batch of inputs as example="):
        mf.initialize(net(), mf.compose("init=lsuv").init)


def test_freeze_takes_the_node_of_a_config_or_a_config():
    cfg = mf.compose("+freeze.rules.first={match: '0.*'}", "+freeze.rules.bias={match: 0.bias, frozen: false}")
    for what, at in ((cfg.freeze, None), (cfg, None), (OmegaConf.to_container(cfg.freeze), None), ({"net": cfg}, "net")):
        model = net()
        names = mf.freeze(model, what, at=at)
        assert names == ["0.weight"] == [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert mf.freeze(net(), mf.compose().freeze) == []
    with pytest.raises(mf.ConfigError, match="freeze.rules.x.mach: not a key of a freeze rule"):
        mf.freeze(net(), {"rules": {"x": {"mach": "0.*"}}})
