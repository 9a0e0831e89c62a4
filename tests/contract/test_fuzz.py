"""Generated configs, right and broken, and damaged files: a right answer, or an error that says where; never anything else.

A short form runs by default, the long one with `-m slow`.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import modelfactory as mf
from modelfactory.config.errors import ModelFactoryError
from modelfactory.training.status import CHECKPOINT

SECONDS = 10.0  # of the CPU, within which an answer comes


def torchs(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"torch.nn.{name}", **arguments}


# ---- configs

SIZES = st.integers(1, 9)
LEAVES = st.one_of(
    st.builds(lambda size, bias: torchs("Linear", out_features=size, bias=bias), SIZES, st.booleans()),
    st.sampled_from(["ReLU", "Tanh", "GELU", "Identity", "SiLU", "Softplus"]).map(torchs),
    st.floats(0, 0.9).map(lambda p: torchs("Dropout", p=p)),
    st.just(torchs("LayerNorm")),
    st.just(torchs("BatchNorm1d")),
    st.builds(lambda shape: {"_target_": "torch.nn.PReLU", "num_parameters": shape}, st.just(1)),
)
NAMES = st.sampled_from(["a", "b", "fc1", "block", "1", "on", "head", "ReLU", "weight", "ä"])


def chains(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    layers = st.dictionaries(NAMES, inner, min_size=1, max_size=4)
    residual = layers.map(lambda found: {"_target_": "modelfactory.Residual", "layers": {**found, "same": torchs("Identity")}})
    repeated = st.builds(lambda count, found: {"repeat": count, "layers": found}, st.integers(1, 3), layers)
    return st.one_of(residual, repeated, layers.map(lambda found: {"layers": found}))


RULES = st.fixed_dictionaries(
    {"scheme": st.sampled_from(["kaiming_normal", "xavier_uniform", "orthogonal", "zeros", "lecun_normal", "identity"])},
    optional={"match": st.sampled_from(["*", "*.weight", "head.*", "nothing.*"]), "role": st.sampled_from(["weight", "bias", "norm"])},
)
LAYERS = st.dictionaries(NAMES, st.recursive(LEAVES, chains, max_leaves=6), min_size=1, max_size=5)
INITS = st.sampled_from(["kaiming_normal", "auto", "orthogonal", "zeros"]) | st.fixed_dictionaries({"rules": st.dictionaries(NAMES, RULES)})
CONFIGS = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries({"layers": LAYERS}),
        "data": st.fixed_dictionaries({"input_shape": st.lists(SIZES, min_size=1, max_size=2), "num_classes": SIZES}),
        "seed": st.integers(0, 3),
    },
    optional={
        "init": INITS,
        "optimizer": st.sampled_from(["SGD", "AdamW"]).map(lambda name: {"_target_": f"torch.optim.{name}", "lr": 0.1}),
    },
)
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.just([]), st.just({}), st.just("${nowhere}"),
    st.just("???"), st.just(10**30), st.just({"_target_": "os.system"}), st.just({"_target_": 3}), st.lists(st.integers(-2, 2), max_size=2),
)  # fmt: skip


@st.composite
def broken(draw: st.DrawFn) -> dict[str, Any]:
    """A config of which some places hold something else, are gone, or have another name."""
    config = copy.deepcopy(draw(CONFIGS))
    for _ in range(draw(st.integers(1, 3))):
        node: Any = config
        while True:
            key = draw(st.sampled_from(list(node) if isinstance(node, dict) else list(range(len(node)))))
            if not isinstance(node[key], (dict, list)) or not node[key] or draw(st.integers(0, 3)) == 0:
                break
            node = node[key]
        change = draw(st.sampled_from(["replace", "remove", "rename"]))
        value = node.pop(key) if change != "replace" or isinstance(node, dict) else node[key]
        if change == "replace":
            node[key] = copy.deepcopy(draw(ODD))  # the next change may be one of it
        elif change == "rename" and isinstance(node, dict):
            node[draw(st.text(max_size=3) | st.integers(0, 2))] = value
        if not config:
            break
    return config


def check_answer(config: dict[str, Any]) -> None:
    began, given_config = time.process_time(), repr(config)
    try:
        model = mf.build(config)
    except ModelFactoryError as error:
        assert str(error).strip()
    else:
        assert isinstance(model, nn.Module)
        assert all(tensor.isfinite().all() for tensor in model.state_dict().values() if tensor.is_floating_point())
    assert time.process_time() - began < SECONDS
    assert repr(config) == given_config


def of_examples(count: int, *, slow: bool = False):
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]
    chosen = settings(max_examples=count, deadline=None, derandomize=not slow, database=None, suppress_health_check=checks)
    return lambda test: pytest.mark.slow(chosen(test)) if slow else chosen(test)


@of_examples(25)
@given(CONFIGS)
def test_a_config_of_the_grammar_is_built_or_refused(config):
    check_answer(config)


@of_examples(50)
@given(broken())
def test_a_broken_config_is_built_or_refused(config):
    check_answer(config)


@of_examples(5000, slow=True)
@given(st.one_of(CONFIGS, broken()))
def test_many_configs_are_built_or_refused(config):
    check_answer(config)


# ---- files

CONFIG = {
    "data": {"_target_": "modelfactory.data.wine", "input_shape": [13], "num_classes": 3, "batch_size": 64},
    "model": {"layers": {"fc": torchs("Linear", out_features=4), "act": torchs("ReLU"), "head": torchs("Linear", out_features=3)}},
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.01},
    "trainer": {"max_epochs": 1, "device": "cpu", "progress": "none", "signal": "table"},
}
FILES = [CHECKPOINT.as_posix(), "model.safetensors", "config.yaml", "metrics.csv", "result.json", "ledger.csv", "signal.csv"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    result = mf.train(CONFIG, run_dir=folder)
    again = {**CONFIG, "trainer": {**CONFIG["trainer"], "max_epochs": 2}}
    return folder, mf.load(folder).state_dict(), result, mf.train(again, resume=folder).model.state_dict()


def damage(content: bytes, source: random.Random) -> bytes:
    """What a disk, a transfer or an editor makes of a file."""
    place, size = source.randrange(len(content)), source.randrange(1, 64)
    kinds = [
        lambda: content[:place],
        lambda: content[:place] + bytes([content[place] ^ 1 << source.randrange(8)]) + content[place + 1 :],
        lambda: content[:place] + bytes(size) + content[place + size :],
        lambda: content[:place] + source.randbytes(size) + content[place:],
        lambda: content[:place] + content[place + size :],
        lambda: content + content[:size],
        lambda: content[place:] + content[:place],
        lambda: content.replace(b"0", b"9", 1 + source.randrange(3)),
        lambda: b"",
    ]
    return source.choice(kinds)()


def check_damaged(folder: Path, finished: Any, name: str) -> None:
    _, weights, _, resumed = finished
    again = {**CONFIG, "trainer": {**CONFIG["trainer"], "max_epochs": 2}}
    for use, expected in (
        (lambda: mf.load(folder).state_dict(), weights),
        (lambda: mf.train(again, resume=folder).model.state_dict(), resumed),
        (lambda: len(str(mf.report(folder))), None),
    ):
        began = time.process_time()
        try:
            found = use()
        except ModelFactoryError as error:
            assert Path(name).name in str(error) or str(folder) in str(error), error
        else:
            assert expected is None or isinstance(found, dict) and all(torch.equal(found[key], expected[key]) for key in expected), name
        assert time.process_time() - began < SECONDS


def damaged_in(count: int, finished: Any, where: Path, seed: int) -> None:
    source = random.Random(seed)
    for number in range(count):
        name = FILES[number % len(FILES)]
        folder = where / str(number)
        shutil.copytree(finished[0], folder)
        (folder / name).write_bytes(damage((folder / name).read_bytes(), source))
        check_damaged(folder, finished, name)
        shutil.rmtree(folder)


def test_a_damaged_file_is_told_or_harms_nothing(finished, tmp_path):
    damaged_in(28, finished, tmp_path, seed=0)


@pytest.mark.slow
def test_many_damaged_files_are_told_or_harm_nothing(finished, tmp_path):
    """A tenth of the 2,000 that MODELFACTORY_DAMAGED=2000 asks for."""
    damaged_in(int(os.environ.get("MODELFACTORY_DAMAGED", "200")), finished, tmp_path, seed=1)
