"""What a config of somebody else's cannot do: run code, set variables that run programs, import modules, write outside of its run."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from torch import nn

import modelfactory as mf
from modelfactory.config.checked import CheckedLoader
from modelfactory.config.errors import ConfigError
from modelfactory.config.hydra_patches import OF_1_4, VERSION_BASE, loading_by
from modelfactory.sweeping.job import JobFailed
from modelfactory.sweeping.process import call_isolated
from modelfactory.training.checkpoint import save_weights
from tests.contract.attacks import HELD, NEIGHBOURS, SWEEP, Attack
from tests.contract.conftest import everything, run

ROOT = Path(mf.__file__).parents[1]


@pytest.mark.parametrize("attack", [*HELD, *NEIGHBOURS], ids=lambda attack: attack.name)
def test_an_attack_is_refused_where_it_is_written_and_nothing_happens(here: Path, attack: Attack):
    words = tuple(word.replace("{here}", str(here)) for word in attack.words)
    if attack.evil:
        (here / "own" / "evil.yaml").write_text(attack.evil.replace("{here}", str(here)))
    before, environment = everything(here), dict(os.environ)
    with pytest.raises(ConfigError) as refusal:
        run(*words)
    paths = [problem.path for problem in refusal.value.problems if "too deeply" not in problem.message]
    too_deep = {problem.path for problem in refusal.value.problems} - {*paths}  # for OmegaConf 2.4 itself, where the override is given
    place_told = any(attack.path.startswith(path) for path in too_deep if path or OF_1_4)  # which from 1.4 on may tell no place
    assert attack.path in paths or place_told, str(refusal.value)
    assert everything(here) == before and dict(os.environ) == environment and "payload" not in sys.modules


@pytest.mark.parametrize("turn", range(6))
@pytest.mark.parametrize("words", [(), SWEEP], ids=["run", "sweep"])
def test_a_value_that_changes_from_one_look_to_the_next_is_what_it_was_when_it_was_checked(here: Path, turn: int, words: tuple[str, ...]):
    seen = itertools.count()
    register = OmegaConf.register_resolver if OF_1_4 else OmegaConf.register_new_resolver  # pyright: ignore[reportAttributeAccessIssue]
    register("turns", lambda good, evil: good if next(seen) < turn else evil, use_cache=False, replace=True)
    (here / "own" / "evil.yaml").write_text(
        "defaults: [small, _self_]\nhydra:\n  job_logging: {handlers: {x: {class: '${turns:logging.NullHandler,payload.Thing}'}}}\n"
        "  hydra_logging: {handlers: {x: {class: '${turns:logging.NullHandler,payload.Thing}'}}}\n"
        "  callbacks: {x: {_target_: '${turns:trusted_here.Thing,payload.Thing}'}}\n"
    )
    with contextlib.suppress(ConfigError, JobFailed):
        run("-cn", "evil", *words)
    OmegaConf.clear_resolver("turns")
    assert not (here / "ran").exists() and "payload" not in sys.modules


CHILD = """
import logging, pickle, sys
from hydra.core.utils import setup_globals
setup_globals()
loader, master = pickle.load(open('loader', 'rb'))
from modelfactory.config.errors import ConfigError
from modelfactory.config.target import trusted
try:
    config = loader.load_sweep_config(master, ['hydra.job.num=3'])
    print(trusted(), config.hydra.runtime.output_dir, config.hydra.job_logging.handlers.x)
except ConfigError as error:
    print('refused', error)
"""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{class: subprocess.Popen, args: [touch, ran]}", "refused hydra.job_logging.handlers.x.class: 'subprocess.Popen' is refused"),
        ("{class: logging.FileHandler, filename: '/else.log'}", "refused hydra.job_logging.handlers.x.filename: '/else.log' is refused"),
        ("{class: trusted_here.Handler}", "('trusted_here', 'trusted_too')"),
        ("{class: logging.NullHandler}", "/sweep/3 {'class': 'logging.NullHandler'}"),
    ],
)
def test_a_job_of_a_sweep_is_checked_in_the_process_that_it_runs_in(here: Path, value: str, said: str):
    """What its launcher sends there is a loader that checks, with what is trusted; the variable is another one there."""
    mf.trust("trusted_too")
    (here / "own" / "evil.yaml").write_text(
        "defaults: [small, _self_]\nhydra: {job_logging: {handlers: {x: '${oc.decode:${oc.env:WANDB_NOTES}}'}}}\n"
    )
    with loading_by(CheckedLoader), hydra.initialize_config_dir(str(here / "own"), **VERSION_BASE):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("evil", [f"hydra.sweep.dir={here}/sweep"], RunMode.MULTIRUN)
    (here / "loader").write_bytes(pickle.dumps((loader, master)))
    environment = {**os.environ, "WANDB_NOTES": value, "PYTHONPATH": os.pathsep.join([str(ROOT), str(here)])}
    done = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True)
    assert said in done.stdout, done.stdout + done.stderr
    assert not (here / "ran").exists()


def test_the_process_of_a_job_checks_its_logging_just_before_it_is_used(here: Path):
    call = functools.partial(call_isolated, "os._exit", {"status": 7}, dict(os.environ), str(here))

    def logged(**handler: Any) -> int:
        return call(logging={"config": {"version": 1, "handlers": {"x": handler}}, "folder": str(here / "sweep"), "trusted": []})

    before = everything(here)
    assert logged(**{"class": "subprocess.Popen", "args": ["touch", "ran"]}) == 1
    assert logged(**{"class": "logging.FileHandler", "filename": "../else.log"}) == 1
    assert everything(here) == before
    assert logged(**{"class": "logging.FileHandler", "filename": str(here / "sweep" / "own.log")}) == 7
    assert (here / "sweep" / "own.log").exists()


NET = {
    "data": {"input_shape": [3, 32, 32], "num_classes": 10},
    "model": {"layers": {"flat": {"_target_": "torch.nn.Flatten"}, "head": {"_target_": "torch.nn.Linear", "out_features": 10}}},
}
THING = {"_target_": "payload.Thing"}
TRAINED = [
    {"train": ["hydra.searchpath=[pkg://payload]"]},
    {"train": ["'hydra.searchpath=[pkg://payload]'"]},
    {"train": ["hydra.searchpath=[structured://payload]"]},
    {"train": ["backbone=resnet18", "backbone.weights={train: ['hydra.searchpath=[pkg://payload]']}"]},
    {"train": [], "config_dir": "own"},
    {"train": [], "config_dir": "pkg://payload"},
    {"train": ["+model.layers.x={_target_: payload.Thing}"]},
]
MODELS = [
    {"_target_": "payload.Thing"},
    {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "entry", "source": "local"},
    {"layers": {"x": THING}},
    {"layers": {"x": {"_target_": "torch.nn.TransformerEncoder", "num_layers": 1, "encoder_layer": THING}}},
    {"layers": {"x": {"_target_": "modelfactory.Residual", "layers": {"y": {"repeat": 2, "layers": {"z": THING}}}}}},
    {"layers": {"x": {"_target_": "torch.nn.modules.module.torch.load", "f": "payload.py"}}},
    {"layers": {"x": {"_target_": "${oc.env:PAYLOAD}.Thing"}}},
]


@pytest.mark.parametrize("weights", TRAINED, ids=str)
@pytest.mark.parametrize("use", [mf.plan, mf.build, mf.train], ids=["plan", "build", "train"])
def test_a_pretraining_of_a_plain_dict_imports_nothing(here: Path, weights: dict[str, Any], use: Any):
    (here / "own" / "config.yaml").write_text("hydra: {searchpath: ['pkg://payload']}\n")
    with pytest.raises(ConfigError, match=r"backbone\.weights"):
        use({**NET, "backbone": {"name": "resnet18", "weights": weights}})
    assert "payload" not in sys.modules and not (here / "outputs").exists()


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_config_or_a_file_of_weights_names_nothing_that_is_not_trusted(here: Path, model: dict[str, Any]):
    config = {**NET, "model": model}
    save_weights(here / "model.safetensors", nn.Linear(2, 2), config)
    for use, given in ((mf.plan, config), (mf.build, config), (mf.load, here / "model.safetensors")):
        with pytest.raises(ConfigError, match="is refused|is not the dotted name"):
            use(given)
    assert "payload" not in sys.modules and "hubconf" not in sys.modules


def test_composing_a_config_of_somebody_else_imports_nothing(here: Path):
    (here / "own" / "config.yaml").write_text("hydra: {searchpath: ['pkg://payload']}\n")
    for words, folder in ((["hydra.searchpath=[pkg://payload]"], None), ([], "own"), (["hydra.searchpath=[structured://payload]"], "own")):
        with pytest.raises(ConfigError, match=r"hydra\.searchpath: '\w+://payload' is refused"):
            mf.compose(*words, config_dir=folder)
    assert "payload" not in sys.modules


@pytest.mark.parametrize(
    "tag", ["apply:os.system ['touch ran']", "object/apply:os.system ['touch ran']", "name:payload.entry", "module:payload"]
)
def test_tags_of_yaml_make_no_objects(here: Path, tag: str):
    (here / "own" / "evil.yaml").write_text(f"defaults: [small, _self_]\nx: !!python/{tag}\n")
    with pytest.raises((ConfigError, yaml.YAMLError)):
        run("-cn", "evil")
    assert not (here / "ran").exists() and "payload" not in sys.modules
