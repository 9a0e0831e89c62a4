"""Invariant 2 at scale: whole models have the same values in any process, with any number of threads, in any order, type and device."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

import modelfactory as mf
from modelfactory.config.compose import to_plain

ROOT = Path(__file__).resolve().parents[2]
RULES = {  # one for each kind of draw: elementwise, by factorisation, by the author
    "author": {"match": "*", "scheme": "default", "optional": True},
    "weights": {"role": "weight", "scheme": "kaiming_normal", "gain": 1.4},
    "projections": {"role": ["query", "key", "value"], "scheme": "orthogonal", "optional": True},
    "ends": {"match": ["*conv2.weight", "*mlp.0.weight"], "scheme": "orthogonal", "optional": True},
    "head": {"match": ["fc.*", "heads.head.*"], "scheme": "trunc_normal", "std": 0.02, "a": -0.04, "b": 0.04},
}
TORCHVISION = {
    "resnet18": {"_target_": "torchvision.models.resnet18", "num_classes": 10},
    "vit": {
        "_target_": "torchvision.models.VisionTransformer",
        **{"image_size": 64, "patch_size": 8, "num_layers": 4, "num_heads": 4, "hidden_dim": 192, "mlp_dim": 768, "num_classes": 10},
    },
}
OURS = ("mlp", "deep_mlp", "cnn", "resnet", "vit", "lstm")


@cache
def configs() -> dict[str, dict[str, Any]]:
    found = {
        f"torchvision {name}": {"model": model, "data": {"input_shape": [3, 64, 64]}, "init": {"rules": RULES}, "seed": 3}
        for name, model in TORCHVISION.items()
    }
    for model in OURS:
        config = to_plain(mf.compose(f"model={model}", "seed=3"))
        found |= {f"{model} {init}": {**config, "init": init} for init in ("default", "kaiming_normal", "orthogonal")}
    return found


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """A hash of every bit of every parameter and buffer, with their names."""
    digest = blake2b(digest_size=16)
    for name, tensor in state.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprints(backwards: bool = False) -> dict[str, str]:
    """Of each model, the hash of its state and that of its ledger."""
    cases, found = list(configs().items()), {}
    for name, config in reversed(cases) if backwards else cases:
        built = mf.plan(config).materialize()
        found[name] = f"{fingerprint(built.model.state_dict())} {built.ledger.fingerprint}"
    return found


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    return fingerprints()


def started(threads: int, hash_seed: int, backwards: bool) -> subprocess.Popen:
    code = (
        "import json, torch; from tests.contract.test_invariance import fingerprints; "
        f"torch.manual_seed({hash_seed}); print(json.dumps(fingerprints({backwards})))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(hash_seed)}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_another_process_with_other_numbers_of_threads_has_the_same_values(expected):
    """At the same time, with three threads, another hash seed, another global seed, and the models in the other order."""
    process = started(3, 2, True)
    again = fingerprints()
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert json.loads(printed) == again == expected


def test_models_differ_and_a_seed_changes_every_matrix(expected):
    assert len(set(expected.values())) == len(expected)
    config = configs()["torchvision vit"]
    one, other = mf.build(config), mf.build({**config, "seed": 4})
    matrices = [name for name, parameter in one.named_parameters() if parameter.ndim == 2 or name == "conv_proj.weight"]
    assert len(matrices) > 12
    assert [name for name in matrices if torch.equal(one.get_parameter(name), other.get_parameter(name))] == []


def test_rules_in_another_order_give_the_same_values(expected):
    """Rules that pick different parameters, that is: of two that pick one, the later wins."""
    weights = RULES | {"weights": {"match": "layer[1-4].*conv1.weight", "scheme": "kaiming_normal"}}
    config = configs()["torchvision resnet18"]
    base = mf.build({**config, "init": {"rules": weights}}).state_dict()
    author, *others = weights
    turned = {name: weights[name] for name in (author, *reversed(others))}
    assert fingerprint(mf.build({**config, "init": {"rules": turned}}).state_dict()) == fingerprint(base)


def test_the_rule_of_one_layer_changes_that_layer_alone():
    config = configs()["torchvision resnet18"]
    base = mf.build(config).state_dict()
    one = {**RULES, "one": {"match": "layer3.0.conv1.weight", "scheme": "zeros"}}
    state = mf.build({**config, "init": {"rules": one}}).state_dict()
    assert {name for name in base if not torch.equal(base[name], state[name])} == {"layer3.0.conv1.weight"}


def test_a_layer_that_is_added_leaves_all_others_as_they_were():
    plain = copy.deepcopy(configs()["resnet kaiming_normal"])
    base = mf.build(plain).state_dict()
    first, *rest = plain["model"]["layers"].items()
    channels = next(value for name, value in base.items() if name.startswith(first[0]) and value.ndim == 4).shape[0]
    added = {"_target_": "torch.nn.Conv2d", "out_channels": channels, "kernel_size": 1}
    plain["model"]["layers"] = dict([first, ("added", added), *rest])
    state = mf.build(plain).state_dict()
    assert {"added.weight", "added.bias"} == set(state) - set(base)
    assert [name for name in base if not torch.equal(base[name], state[name])] == []


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["torchvision vit", "lstm orthogonal", "cnn default"])
def test_another_type_has_the_same_values_cast(name, dtype):
    config = configs()[name]
    built = mf.plan(config).materialize()
    base = built.model.state_dict()
    with default_dtype(dtype):
        in_other = mf.plan(config).materialize()
        state = in_other.model.state_dict()
    if dtype is torch.float64:
        assert in_other.ledger.fingerprint == built.ledger.fingerprint
    floating = [key for key in base if base[key].is_floating_point()]
    assert floating and all(state[key].dtype is dtype for key in floating)
    assert [key for key in floating if not torch.equal(state[key], base[key].to(dtype))] == []


def test_a_model_that_was_on_the_meta_device_gets_the_same_values():
    rules = {
        "weights": {"role": "weight", "scheme": "kaiming_normal", "gain": 1.4},
        "others": {"role": ["norm", "bias"], "scheme": "zeros"},
    }
    base = mf.build({"model": TORCHVISION["resnet18"], "data": {"input_shape": [3, 64, 64]}, "init": {"rules": rules}, "seed": 3})
    example = torch.empty(2, 3, 64, 64, device="meta")
    with torch.device("meta"):
        model = torchvision.models.resnet18(num_classes=10)
    model = model.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    mf.initialize(model, rules, seed=3, example=example)
    for (name, ours), theirs in zip(model.named_parameters(), base.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_has_the_same_values(expected):
    for name, config in configs().items():
        assert fingerprint(mf.build(config, device="cuda").state_dict()) == expected[name].split()[0]
