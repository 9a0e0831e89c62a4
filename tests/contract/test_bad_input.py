"""Wrong configs: each says where it is wrong, what was given and what would do, and leaves nothing behind."""

from __future__ import annotations

import copy
import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import modelfactory as mf
from modelfactory.api.run import check
from modelfactory.cli import main as cli
from modelfactory.config import target
from modelfactory.config.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def nothing_trusted(monkeypatch):
    monkeypatch.setattr(target, "_TRUSTED", set())
    monkeypatch.delenv("MODELFACTORY_TRUST", raising=False)


def layer(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"torch.nn.{name}", **arguments}


def ours(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"modelfactory.{name}", **arguments}


def sched(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"torch.optim.lr_scheduler.{name}", **arguments}


@functools.cache
def base(model: str) -> Any:
    return OmegaConf.to_container(mf.compose(f"model={model}", "trainer.device=cpu"), resolve=False)


def changed(model: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The config of `model=MODEL` with values put at paths: with dots, or with slashes where a name holds a dot."""
    config = copy.deepcopy(base(model))
    for path, value in changes.items():
        *above, last = path.split("/") if "/" in path else path.split(".")
        node = config
        for name in above:
            node = node.setdefault(name, {})
        node[last] = value
    return config


def says(error: ConfigError, expected: str) -> bool:
    """Whether one of the problems is `expected`, in which ... stands for anything."""
    pattern = re.escape(expected).replace(re.escape("..."), ".*")
    return any(re.fullmatch(pattern, str(problem), re.DOTALL) for problem in error.problems)


# name, model, what is put where, and the first problem told (... for anything: mostly for what torch itself says)
WRONG: list[tuple[str, str, dict[str, Any], str]] = [
    ("root: unknown key", "mlp", {"modle": {}}, "modle: not a key of the config; did you mean 'model'?"),
    ("root: model null", "mlp", {"model": None}, "model: None is not a model; give layers, or _target_"),
    ("root: model a list", "mlp", {"model": [1]}, "model: [1] is not a model; give layers, or _target_"),
    ("root: model a name", "mlp", {"model": "mlp"}, "model: 'mlp' is not a model; give layers, or _target_"),
    (
        "experiment: no such figure",
        "mlp",
        {"experiment": {"figure": "saxe2013"}},
        "experiment.figure: 'saxe2013' is not a choice; did you mean 'saxe2014'?",
    ),
    (
        "experiment: unknown key",
        "mlp",
        {"experiment": {"figur": "saxe2014"}},
        "experiment.figur: not a key of experiment; did you mean 'figure'?",
    ),
    ("experiment: a name", "mlp", {"experiment": "saxe2014"}, "experiment: 'saxe2014' is not a mapping; give its keys: figure, arm, arms"),
    ("root: seed a text", "mlp", {"seed": "1"}, "seed: '1' is a text; give a whole number >= 0 (leave the quotes out: 1)"),
    ("root: seed negative", "mlp", {"seed": -1, "data.seed": 0}, "seed: -1 is too small; give a whole number >= 0"),
    (
        "root: seed too large",
        "mlp",
        {"seed": 2**70, "data.seed": 0},
        "seed: 1180591620717411303424 is too large; give a whole number below 2^63",
    ),
    ("root: seed true", "mlp", {"seed": True, "data.seed": 0}, "seed: True is true or false; give a whole number >= 0"),
    ("data: batch_size 0", "mlp", {"data.batch_size": 0}, "data.batch_size: 0 is too small; give a whole number >= 1"),
    (
        "data: batch_size a text",
        "mlp",
        {"data.batch_size": "64"},
        "data.batch_size: '64' is a text; give a whole number >= 1 (leave the quotes out: 64)",
    ),
    (
        "data: batch_size a fraction",
        "mlp",
        {"data.batch_size": 1.5},
        "data.batch_size: 1.5 is a number; give a whole number >= 1",
    ),
    ("data: unknown key", "mlp", {"data.batchsize": 1}, "data.batchsize: not an argument of digits; did you mean 'batch_size'?"),
    (
        "data: misspelt",
        "mlp",
        {"data._target_": "modelfactory.data.digit"},
        "data._target_: 'modelfactory.data.digit' is not a modelfactory.data data set; did you mean ...",
    ),
    (
        "data: no _target_",
        "mlp",
        {"data._target_": None},
        "data._target_: None is not the dotted name of a data set, like modelfactory.data.digits",
    ),
    (
        "data: a function that is no data set",
        "mlp",
        {"data._target_": "modelfactory.data.build_data"},
        "data._target_: 'modelfactory.data.build_data' is not a data set; choose one of digits, wine, diabetes, ...",
    ),
    (
        "data: refused",
        "mlp",
        {"data._target_": "os.system"},
        "data._target_: 'os.system' is refused: only modelfactory.data may be named here",
    ),
    (
        "data: input_shape with 0",
        "mlp",
        {"data.input_shape": [1, 0, 8]},
        "data.input_shape: [1, 0, 8] holds 0; give sizes >= 1, without the batch, such as [1, 28, 28]",
    ),
    (
        "data: input_shape negative",
        "mlp",
        {"data.input_shape": [1, -8, 8]},
        "data.input_shape: [1, -8, 8] holds -8; give sizes >= 1, without the batch, such as [1, 28, 28]",
    ),
    (
        "data: input_shape a text",
        "mlp",
        {"data.input_shape": "1,8,8"},
        "data.input_shape: '1,8,8' is not a list; give sizes >= 1, without the batch, such as [1, 28, 28]",
    ),
    (
        "data: input_shape with a fraction",
        "mlp",
        {"data.input_shape": [1, 8.5, 8]},
        "data.input_shape: [1, 8.5, 8] holds 8.5; give sizes >= 1, without the batch, such as [1, 28, 28]",
    ),
    (
        "data: input_dtype",
        "mlp",
        {"data.input_dtype": "float16"},
        "data.input_dtype: 'float16' is not a choice; did you mean 'float32'?",
    ),
    (
        "data: num_classes 0",
        "mlp",
        {"data.num_classes": 0, "model.layers.head.out_features": 10},
        "data.num_classes: 0 is too small; give a whole number >= 1, or null",
    ),
    ("data: seed negative", "mlp", {"data.seed": -1}, "data.seed: -1 is too small; give a whole number >= 0"),
    (
        "data: val_fraction over 0.9",
        "mlp",
        {"data.val_fraction": 2},
        "data.val_fraction: 2 is too large; give a number > 0 and <= 0.9",
    ),
    (
        "data: val_fraction a text",
        "mlp",
        {"data.val_fraction": "half"},
        "data.val_fraction: 'half' is a text; give a number > 0 and <= 0.9",
    ),
    (
        "data: num_workers negative",
        "mlp",
        {"data.num_workers": -1},
        "data.num_workers: -1 is too small; give a whole number >= 0",
    ),
    (
        "data: missing folder",
        "mlp",
        {"data": {"_target_": "modelfactory.data.mnist", "root": "nowhere", "input_shape": [1, 28, 28], "num_classes": 10}},
        "data.root: there is no folder nowhere/MNIST/raw; give the folder that holds it, or data.download=true to ...",
    ),
    (
        "data: missing image folder",
        "mlp",
        {"data": {"_target_": "modelfactory.data.image_folder", "root": "nowhere", "input_shape": [3, 8, 8], "num_classes": 2}},
        "data.root: there is no folder nowhere; give one that holds train and val, or one folder a class with ...",
    ),
    (
        "data: download a text",
        "mlp",
        {"data": {"_target_": "modelfactory.data.mnist", "download": "no", "input_shape": [1, 28, 28], "num_classes": 10}},
        "data.download: 'no' is a text; give true or false",
    ),
    (
        "data: noise NaN",
        "mlp",
        {"data": {"_target_": "modelfactory.data.fake", "noise": NAN, "input_shape": [4], "num_classes": 2}},
        "data.noise: nan is not finite; give a number >= 0",
    ),
    (
        "data: num_samples 0",
        "mlp",
        {"data": {"_target_": "modelfactory.data.fake", "num_samples": 0, "input_shape": [4], "num_classes": 2}},
        "data.num_samples: 0 is too small; give a whole number >= 1",
    ),
    (
        "activation: misspelt",
        "mlp",
        {"activation": layer("Rellu")},
        "activation._target_: 'torch.nn.Rellu' is not a torch.nn module; did you mean 'torch.nn.ReLU'?",
    ),
    (
        "activation: unknown argument",
        "mlp",
        {"activation": layer("ELU", alhpa=2.0)},
        "activation.alhpa: not an argument of ELU; did you mean 'alpha'?",
    ),
    (
        "activation: a name",
        "mlp",
        {"activation": "relu"},
        "activation: 'relu' is not a layer; give a mapping with _target_, or with layers",
    ),
    (
        "activation: null",
        "mlp",
        {"activation": None},
        "activation: null would take out every layer that is ${activation}; give {_target_: torch.nn.Identity} for none",
    ),
    (
        "activation: not used, misspelt all the same",
        "vit",
        {"activation": layer("Rellu")},
        "activation._target_: 'torch.nn.Rellu' is not a torch.nn module; did you mean 'torch.nn.ReLU'?",
    ),
    (
        "model: neither layers nor _target_",
        "mlp",
        {"model": {"depth": 3}},
        "model: has neither layers nor _target_; give one of them",
    ),
    (
        "model: layers misspelt",
        "mlp",
        {"model": {"layerss": {}}},
        "model: has neither layers nor _target_; did you mean 'layers'?",
    ),
    ("model: layers null", "mlp", {"model.layers": None}, "model.layers: is missing; give at least one name: {_target_: ...}"),
    ("model: layers empty", "mlp", {"model.layers": {}}, "model.layers: is empty; give at least one name: {_target_: ...}"),
    (
        "model: layers a list",
        "mlp",
        {"model.layers": [layer("ReLU")]},
        "model.layers: is [{'_target_': 'torch.nn.ReLU'}], not a mapping; give at least one name: {_target_: ...}",
    ),
    (
        "model: every layer null",
        "mlp",
        {"model.layers": {"a": None}},
        "model.layers: holds no layer that is not null; give at least one name: {_target_: ...}",
    ),
    (
        "model: output at the root",
        "mlp",
        {"model.output": 0},
        "model.output: 0 picks nothing here: it goes beside a layer, inside layers",
    ),
    ("model: unknown key", "mlp", {"model.outputs": 3}, "model.outputs: not a key of a model; did you mean 'output'?"),
    ("model: repeat 0", "mlp", {"model.repeat": 0}, "model.repeat: 0 is too small; give a whole number >= 1"),
    (
        "layer: a number",
        "mlp",
        {"model.layers.fc1": 3},
        "model.layers.fc1: 3 is not a layer; give a mapping with _target_, or with layers",
    ),
    ("layer: empty", "mlp", {"model.layers.fc1": {}}, "model.layers.fc1: has neither _target_ nor layers; give one of them"),
    (
        "layer: _target_ misspelt",
        "mlp",
        {"model.layers.fc1": {"_target": "torch.nn.Linear"}},
        "model.layers.fc1: has neither _target_ nor layers; did you mean '_target_'?",
    ),
    (
        "layer: unknown argument",
        "mlp",
        {"model.layers.fc1.out_feature": 3},
        "model.layers.fc1.out_feature: not an argument of Linear; did you mean 'out_features'?",
    ),
    (
        "layer: argument missing",
        "mlp",
        {"model.layers.fc1": layer("Linear")},
        "model.layers.fc1.out_features: missing; Linear needs it",
    ),
    (
        "layer: argument of a base class missing",
        "lstm",
        {"model.layers.lstm": layer("LSTM", output=0)},
        "model.layers.lstm.hidden_size: missing; LSTM needs it",
    ),
    (
        "layer: size null",
        "mlp",
        {"model.layers.fc1.out_features": None},
        "model.layers.fc1.out_features: None is null; give a whole number",
    ),
    (
        "layer: size a text",
        "mlp",
        {"model.layers.fc1.out_features": "64"},
        "model.layers.fc1.out_features: '64' is a text; give a whole number (leave the quotes out: 64)",
    ),
    (
        "layer: size a fraction",
        "mlp",
        {"model.layers.fc1.out_features": 6.4},
        "model.layers.fc1.out_features: 6.4 is a number; give a whole number",
    ),
    (
        "layer: size negative",
        "mlp",
        {"model.layers.fc1.out_features": -1},
        "model.layers.fc1.out_features: -1 is too small; give a whole number >= 1",
    ),
    (
        "layer: size 0",
        "mlp",
        {"model.layers.fc1.out_features": 0},
        "model.layers.fc1.out_features: 0 is too small; give a whole number >= 1",
    ),
    (
        "layer: size a list",
        "mlp",
        {"model.layers.fc1.out_features": [3]},
        "model.layers.fc1.out_features: [3] is a list; give a whole number",
    ),
    (
        "layer: size a mapping",
        "mlp",
        {"model.layers.fc1.out_features": {"a": 3}},
        "model.layers.fc1.out_features: {'a': 3} is a mapping; give a whole number",
    ),
    (
        "layer: size beyond floats",
        "mlp",
        {"model.layers.fc1.out_features": 10**400},
        "model.layers.fc1: Linear refuses its arguments: ...",
    ),
    ("layer: bool a text", "mlp", {"model.layers.fc1.bias": "no"}, "model.layers.fc1.bias: 'no' is a text; give true or false"),
    (
        "layer: device",
        "mlp",
        {"model.layers.fc1.device": "cuda"},
        "model.layers.fc1.device: 'cuda' is refused: trainer.device and trainer.precision choose for the whole model",
    ),
    (
        "layer: dtype",
        "mlp",
        {"model.layers.fc1.dtype": "float16"},
        "model.layers.fc1.dtype: 'float16' is refused: trainer.device and trainer.precision choose for the whole model",
    ),
    (
        "layer: Hydra's own key",
        "mlp",
        {"model.layers.fc1._partial_": True},
        "model.layers.fc1._partial_: not a key here; give arguments by name, beside _target_",
    ),
    (
        "layer: size that does not fit",
        "mlp",
        {"model.layers.fc1.in_features": 3},
        "model.layers.fc1.in_features: 3 does not fit what comes in, [N, 64]: leave it out, or give 64",
    ),
    (
        "layer: size that cannot be inferred",
        "mlp",
        {"data.input_shape": None},
        "model.layers.fc1.in_features: cannot be inferred: what comes in is not known; give it, or data.input_shape",
    ),
    (
        "layer: dropout over 1",
        "mlp",
        {"model.layers.act1": layer("Dropout", p=2.0)},
        "model.layers.act1: Dropout refuses its arguments: ...",
    ),
    (
        "layer: attention dropout over 1",
        "vit",
        {"model.layers.blocks.layers.attention.layers.self.dropout": 2.0},
        "model.layers.blocks.layers.attention.layers.self.dropout: 2.0 is too large; give a number >= 0 and <= 1",
    ),
    (
        "layer: heads that do not divide",
        "vit",
        {"model.heads": 7},
        "model.layers.blocks.layers.attention.layers.self: SelfAttention refuses its arguments: ...",
    ),
    (
        "layer: groups that do not divide",
        "mlp",
        {"model.layers.act1": layer("GroupNorm", num_groups=7)},
        "model.layers.act1: GroupNorm refuses its arguments: ...",
    ),
    (
        "layer: another number of dimensions",
        "mlp",
        {"model.layers.act1": layer("Conv2d", out_channels=3, kernel_size=3)},
        "model.layers.act1: Conv2d cannot take what comes in, [N, 512]: ...",
    ),
    (
        "layer: an embedding of what is not declared to be indices",
        "mlp",
        {"model.layers.flatten": layer("Embedding", num_embeddings=5, embedding_dim=3)},
        "model.layers.flatten: Embedding cannot take what comes in, ...; where the data are indices give data.input_dtype=int64",
    ),
    (
        "layer: kernel of three sizes in 2d",
        "cnn",
        {"model.layers.conv1.kernel_size": [3, 3, 3]},
        "model.layers.conv1.kernel_size: [3, 3, 3] has the length 3; Conv2d takes one number, or a list of 2",
    ),
    (
        "layer: kernel of one size in 2d",
        "cnn",
        {"model.layers.conv1.kernel_size": [3]},
        "model.layers.conv1.kernel_size: [3] has the length 1; Conv2d takes one number, or a list of 2",
    ),
    (
        "layer: kernel with a text",
        "cnn",
        {"model.layers.conv1.kernel_size": [3, "x"]},
        "model.layers.conv1.kernel_size: [3, 'x'] holds 'x'; give a whole number, or a list of whole numbers",
    ),
    (
        "layer: kernel larger than the image",
        "cnn",
        {"model.layers.conv1.kernel_size": 100},
        "model.layers.conv1: Conv2d cannot take what comes in, [N, 1, 8, 8]: ...",
    ),
    (
        "layer: stride 0",
        "cnn",
        {"model.layers.conv1.stride": 0},
        "model.layers.conv1.stride: 0 is too small; give a whole number >= 1",
    ),
    (
        "layer: padding negative",
        "cnn",
        {"model.layers.conv1.padding": -1},
        "model.layers.conv1.padding: -1 is too small; give whole numbers >= 0",
    ),
    (
        "layer: padding_mode",
        "cnn",
        {"model.layers.conv1.padding_mode": "mirror"},
        "model.layers.conv1.padding_mode: 'mirror' is a text; give one of zeros, reflect, replicate, circular",
    ),
    (
        "layer: image too small",
        "cnn",
        {"data.input_shape": [1, 1, 1]},
        "model.layers.pool1: MaxPool2d cannot take what comes in, [N, 32, 1, 1]: ...",
    ),
    (
        "layer: choice",
        "vit",
        {"model.layers.pool.how": "avg"},
        "model.layers.pool.how: 'avg' is a text; give one of mean, sum, max",
    ),
    (
        "layer: std negative",
        "vit",
        {"model.layers.positions.std": -1.0},
        "model.layers.positions: PositionalEmbedding refuses its arguments: ...",
    ),
    (
        "layer: permuted dimensions that are not there",
        "vit",
        {"model.layers.tokens.dims": [0, 1, 5]},
        "model.layers.tokens: Permute cannot take what comes in, [N, 64, 16]: ...",
    ),
    (
        "layer: an inner module refused",
        "mlp",
        {"model.layers.act1": layer("TransformerEncoder", num_layers=2, encoder_layer={"_target_": "os.system"})},
        "model.layers.act1.encoder_layer._target_: 'os.system' is refused: only torch.nn, torchvision.models, ...",
    ),
    (
        "layer: layers beside a class that takes none",
        "mlp",
        {"model.layers.fc1.layers": {}},
        "model.layers.fc1.layers: torch.nn.Linear takes no layers; only a chain, Residual and Parallel do",
    ),
    (
        "layer: repeat a text",
        "mlp",
        {"model.layers.fc1.repeat": "x"},
        "model.layers.fc1.repeat: 'x' is a text; give a whole number >= 1",
    ),
    (
        "layer: repeat -1",
        "mlp",
        {"model.layers.fc1.repeat": -1},
        "model.layers.fc1.repeat: -1 is too small; give a whole number >= 1",
    ),
    (
        "layer: name with a dot",
        "mlp",
        {"model/layers/fc.3": layer("Linear", out_features=3)},
        "model.layers.fc.3: 'fc.3' cannot name a module: it is empty or has a dot",
    ),
    (
        "layer: name of an attribute",
        "mlp",
        {"model.layers.forward": layer("ReLU")},
        "model.layers.forward: 'forward' cannot name a module: Sequential has an attribute of that name; choose another",
    ),
    (
        "layer: name of a hidden attribute",
        "mlp",
        {"model.layers._modules": layer("ReLU")},
        "model.layers._modules: '_modules' cannot name a module: Sequential has an attribute of that name; choose another",
    ),
    (
        "layer: empty name",
        "mlp",
        {"model/layers/": layer("ReLU")},
        "model.layers.: '' cannot name a module: it is empty or has a dot",
    ),
    (
        "layer: one name twice",
        "mlp",
        {"model.layers": {1: layer("ReLU"), "1": layer("ReLU")}},
        "model.layers.1: ...1...",  # what OmegaConf 2.4 says of it is its own
    ),
    (
        "layer: freeze a text",
        "mlp",
        {"model.layers.fc1.freeze": "yes"},
        "model.layers.fc1.freeze: 'yes' is a text; give true or false, or null",
    ),
    (
        "layer: init a number",
        "mlp",
        {"model.layers.fc1.init": 3},
        "model.layers.fc1.init: 3 is not a mapping; give parameter: scheme, like {weight: zeros}",
    ),
    (
        "layer: init of an unknown scheme",
        "mlp",
        {"model.layers.fc1.init": "zeross"},
        "model.layers.fc1.init.weight: 'zeross' is not a scheme; did you mean 'zeros'?",
    ),
    (
        "layer: init of an unknown parameter",
        "mlp",
        {"model.layers.fc1.init": {"wieght": "zeros"}},
        "model.layers.fc1.init.wieght: 'wieght' is not a parameter of this layer; did you mean 'weight'?",
    ),
    (
        "layer: init for more dimensions",
        "mlp",
        {"model.layers.fc1.init": {"bias": "xavier_normal"}},
        "model.layers.fc1.init.bias: xavier_normal needs 2 dimensions, and fc1.bias has shape (512,)",
    ),
    (
        "target: torch.nn.Rellu",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.nn.Rellu"}},
        "model.layers.act1._target_: 'torch.nn.Rellu' is not a torch.nn module; did you mean 'torch.nn.ReLU'?",
    ),
    (
        "target: torch.nn.linear",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.nn.linear"}},
        "model.layers.act1._target_: 'torch.nn.linear' is not a torch.nn module; did you mean 'torch.nn.Linear'?",
    ),
    (
        "target: Linear",
        "mlp",
        {"model.layers.act1": {"_target_": "Linear"}},
        "model.layers.act1._target_: 'Linear' is refused: give the full name; did you mean 'torch.nn.Linear'?",
    ),
    (
        "target: nn.Linear",
        "mlp",
        {"model.layers.act1": {"_target_": "nn.Linear"}},
        "model.layers.act1._target_: 'nn.Linear' is refused: give the full name; did you mean 'torch.nn.Linear'?",
    ),
    (
        "target: torch.Linear",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.Linear"}},
        "model.layers.act1._target_: 'torch.Linear' is refused: give the full name; did you mean 'torch.nn.Linear'?",
    ),
    (
        "target: os.system",
        "mlp",
        {"model.layers.act1": {"_target_": "os.system"}},
        "model.layers.act1._target_: 'os.system' is refused: only torch.nn, torchvision.models, torchvision.ops, ...",
    ),
    (
        "target: torch.load",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.load"}},
        "model.layers.act1._target_: 'torch.load' is refused: only torch.nn, torchvision.models, torchvision.ops, ...",
    ),
    (
        "target: torch.nn.modules.module.torch.load",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.nn.modules.module.torch.load"}},
        "model.layers.act1._target_: 'torch.nn.modules.module.torch.load' is refused: its step 'torch' leaves ...",
    ),
    (
        "target: builtins.eval",
        "mlp",
        {"model.layers.act1": {"_target_": "builtins.eval"}},
        "model.layers.act1._target_: 'builtins.eval' is refused: only torch.nn, torchvision.models, torchvision.ops, ...",
    ),
    (
        "target: torch.hub.load",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.hub.load"}},
        "model.layers.act1._target_: 'torch.hub.load' is refused: only torch.nn, torchvision.models, ...",
    ),
    (
        "target: my_pkg.Layer",
        "mlp",
        {"model.layers.act1": {"_target_": "my_pkg.Layer"}},
        "model.layers.act1._target_: 'my_pkg.Layer' is refused: only torch.nn, torchvision.models, torchvision.ops, ...",
    ),
    (
        "target: torch.nn.LazyLinear",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.nn.LazyLinear"}},
        "model.layers.act1._target_: 'torch.nn.LazyLinear' is refused: sizes are inferred here; name the layer ...",
    ),
    (
        "target: torch.nn.Module",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.nn.Module"}},
        "model.layers.act1._target_: 'torch.nn.Module' is what every module is made from, and does nothing itself; ...",
    ),
    (
        "target: torch.nn.functional.relu",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.nn.functional.relu"}},
        "model.layers.act1._target_: 'torch.nn.functional.relu' is not a torch.nn module; did you mean 'torch.nn.ReLU'?",
    ),
    (
        "target: torch.nn.modules.conv._ConvNd",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.nn.modules.conv._ConvNd"}},
        "model.layers.act1._target_: 'torch.nn.modules.conv._ConvNd' is refused at '_ConvNd': only public names of ...",
    ),
    (
        "target: torch.nn.Parameter",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.nn.Parameter"}},
        "model.layers.act1._target_: 'torch.nn.Parameter' is not a torch.nn module; did you mean ...",
    ),
    (
        "target: torch.nn.ReLU()",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.nn.ReLU()"}},
        "model.layers.act1._target_: 'torch.nn.ReLU()' is not the dotted name of a module, like torch.nn.Linear",
    ),
    (
        "target: torch.nn.Linear.forward",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.nn.Linear.forward"}},
        "model.layers.act1._target_: 'torch.nn.Linear.forward' is refused at 'forward': only public names of modules ...",
    ),
    (
        "target: torch.optim.SGD",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.optim.SGD"}},
        "model.layers.act1._target_: 'torch.optim.SGD' is refused: only torch.nn, torchvision.models, ...",
    ),
    (
        "target: torch.nn.quantized.Linear",
        "mlp",
        {"model.layers.act1": {"_target_": "torch.nn.quantized.Linear"}},
        "model.layers.act1._target_: 'torch.nn.quantized.Linear' is refused: it leads to ...",
    ),
    (
        "target: torchvision.datasets.MNIST",
        "mlp",
        {"model.layers.act1": {"_target_": "torchvision.datasets.MNIST"}},
        "model.layers.act1._target_: 'torchvision.datasets.MNIST' is refused: only torch.nn, torchvision.models, ...",
    ),
    (
        "target: torchvision.models.resnet19",
        "mlp",
        {"model.layers.act1": {"_target_": "torchvision.models.resnet19"}},
        "model.layers.act1._target_: 'torchvision.models.resnet19' is not a torchvision.models module; did you mean ...",
    ),
    (
        "target: torchvision.models.get_model",
        "mlp",
        {"model.layers.act1": {"_target_": "torchvision.models.get_model"}},
        "model.layers.act1._target_: 'torchvision.models.get_model' is not a torchvision.models module; did you mean ...",
    ),
    (
        "target: modelfactory.api.run.train",
        "mlp",
        {"model.layers.act1": {"_target_": "modelfactory.api.run.train"}},
        "model.layers.act1._target_: 'modelfactory.api.run.train' is not a modelfactory module; did you mean ...",
    ),
    (
        "target: a number",
        "mlp",
        {"model.layers.act1": {"_target_": 3}},
        "model.layers.act1._target_: 3 is not the dotted name of a module, like torch.nn.Linear",
    ),
    (
        "pretrained: weights",
        "mlp",
        {"model": {"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"}},
        "model.weights: 'DEFAULT' is refused here; pretrained weights are loaded by backbone",
    ),
    (
        "pretrained: the old name",
        "mlp",
        {"model": {"_target_": "torchvision.models.resnet18", "pretrained": True}},
        "model.pretrained: True is refused here; pretrained weights are loaded by backbone",
    ),
    (
        "pretrained: of the backbone",
        "mlp",
        {"model": {"_target_": "torchvision.models.segmentation.fcn_resnet50", "weights_backbone": "DEFAULT"}},
        "model.weights_backbone: 'DEFAULT' is refused here; pretrained weights are loaded by backbone",
    ),
    (
        "pretrained: of an inner module",
        "mlp",
        {
            "model.layers.act1": layer(
                "TransformerEncoder",
                num_layers=1,
                encoder_layer={"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"},
            )
        },
        "model.layers.act1.encoder_layer.weights: 'DEFAULT' is refused here; pretrained weights are loaded by backbone",
    ),
    (
        "builder: unknown argument",
        "mlp",
        {"model": {"_target_": "torchvision.models.resnet18", "num_class": 3}},
        "model.num_class: not an argument of resnet18; did you mean 'num_classes'?",
    ),
    (
        "builder: size negative",
        "mlp",
        {"model": {"_target_": "torchvision.models.resnet18", "num_classes": -3}},
        "model.num_classes: -3 is too small; give a whole number >= 1",
    ),
    (
        "builder: another input",
        "mlp",
        {"model": {"_target_": "torchvision.models.resnet18"}},
        "model: ResNet cannot take what comes in, [N, 1, 8, 8]: ...",
    ),
    (
        "residual: shapes",
        "mlp",
        {"model.layers.act1": ours("Residual", layers={"fc": layer("Linear", out_features=7)})},
        "model.layers.act1: the branch gives [N, 7], what comes in [N, 512]: they cannot be added; give a shortcut ...",
    ),
    (
        "residual: shortcut's shape",
        "mlp",
        {"model.layers.act1": ours("Residual", layers={"a": layer("Identity")}, shortcut=layer("Linear", out_features=3))},
        "model.layers.act1: the branch gives [N, 512], the shortcut [N, 3]: they cannot be added; give a shortcut ...",
    ),
    (
        "residual: shortcut misspelt",
        "mlp",
        {"model.layers.act1": ours("Residual", layers={"a": layer("Identity")}, shortcutt=layer("Identity"))},
        "model.layers.act1.shortcutt: not a key here; did you mean 'shortcut'?",
    ),
    (
        "residual: no layers",
        "mlp",
        {"model.layers.act1": ours("Residual")},
        "model.layers.act1.layers: is missing; give at least one name: {_target_: ...}",
    ),
    (
        "residual: a shortcut alone",
        "mlp",
        {"model.layers.act1": ours("Residual", layers={"shortcut": layer("Identity")})},
        "model.layers.act1.layers: holds no layer that is not null; give at least one name: {_target_: ...}",
    ),
    (
        "residual: scale a text",
        "mlp",
        {"model.layers.act1": ours("Residual", layers={"a": layer("Identity")}, scale="x")},
        "model.layers.act1.scale: 'x' is a text; give a number",
    ),
    (
        "residual: scale NaN",
        "mlp",
        {"model.layers.act1": ours("Residual", layers={"a": layer("Identity")}, scale=NAN)},
        "model.layers.act1.scale: nan is not finite; give a number",
    ),
    (
        "residual: scale's key",
        "mlp",
        {"model.layers.act1": ours("Residual", layers={"a": layer("Identity")}, scale={"lern": 0.0})},
        "model.layers.act1.scale.lern: not a key of scale; did you mean 'learn'?",
    ),
    (
        "residual: scale without a start",
        "mlp",
        {"model.layers.act1": ours("Residual", layers={"a": layer("Identity")}, scale={"per": "channel"})},
        "model.layers.act1.scale.learn: missing; give the number that the scale starts at, such as 0.0",
    ),
    (
        "residual: branch a tuple",
        "vit",
        {"model.layers.blocks.layers.attention.layers.self.output": None},
        "model.layers.blocks.layers.attention: the branch gives a tuple of 2; say which part goes on with output: 0 ...",
    ),
    (
        "parallel: combine",
        "mlp",
        {"model.layers.act1": ours("Parallel", layers={"a": layer("Identity")}, combine="add")},
        "model.layers.act1.combine: 'add' is a text; give one of cat, sum",
    ),
    (
        "parallel: dimension not there",
        "mlp",
        {"model.layers.act1": ours("Parallel", layers={"a": layer("Identity")}, dim=5)},
        "model.layers.act1: the branches cannot be combined by cat: a [N, 512] (Dimension out of range (expected to ...",
    ),
    (
        "parallel: the batch",
        "mlp",
        {"model.layers.act1": ours("Parallel", layers={"a": layer("Identity")}, dim=0)},
        "model.layers.act1.dim: 0 is the batch, whose samples stay apart; give 1 or more, or -1",
    ),
    (
        "parallel: cat of other shapes",
        "mlp",
        {
            "model.layers.act1": ours(
                "Parallel", layers={"a": layer("Identity"), "b": layer("Unflatten", dim=1, unflattened_size=[2, 256])}
            )
        },
        "model.layers.act1: the branches cannot be combined by cat: a [N, 512], b [N, 2, 256] (Number of dimensions ...",
    ),
    (
        "parallel: sum of other shapes",
        "mlp",
        {
            "model.layers.act1": ours(
                "Parallel", layers={"a": layer("Identity"), "b": layer("Linear", out_features=3)}, combine="sum"
            )
        },
        "model.layers.act1: the branches cannot be combined by sum: a [N, 512], b [N, 3] (Attempting to broadcast a ...",
    ),
    (
        "parallel: branch a tuple",
        "mlp",
        {"model.layers.act1": ours("Parallel", layers={"a": layer("LSTM", hidden_size=3), "b": layer("Identity")})},
        "model.layers.act1: the branch 'a' gives a tuple of 2; say which part goes on with output: 0 beside its last ...",
    ),
    (
        "output: not declared",
        "lstm",
        {"model.layers.lstm.output": None},
        "model.layers.last: Select cannot take what comes in, a tuple of 2: 'tuple' object has no attribute ...",
    ),
    (
        "output: out of range",
        "lstm",
        {"model.layers.lstm.output": 2},
        "model.layers.lstm.output: 2 is outside of the 2 parts that the layer returns",
    ),
    (
        "output: a text",
        "lstm",
        {"model.layers.lstm.output": "0"},
        "model.layers.lstm.output: '0' is a text; give a whole number (leave the quotes out: 0)",
    ),
    (
        "output: of one tensor",
        "mlp",
        {"model.layers.fc1.output": 0},
        "model.layers.fc1.output: the layer returns one tensor of shape [N, 512]; leave output out",
    ),
    ("init: a list", "mlp", {"init": []}, "init: [] is not an init; give rules, or the name of a scheme"),
    ("init: misspelt", "mlp", {"init": "xaviernormal"}, "init: 'xaviernormal' is not a scheme; did you mean 'xavier_normal'?"),
    ("init: unknown key", "mlp", {"init.rule": {}}, "init.rule: not a key of init; did you mean 'rules'?"),
    ("init: no rules", "mlp", {"init.rules": {}}, "init.rules: is empty; give name: {match: ..., scheme: ...}"),
    (
        "init: rules a list",
        "mlp",
        {"init.rules": [{"match": "*", "scheme": "zeros"}]},
        "init.rules: [{'match': '*', 'scheme': 'zeros'}] is not a mapping; give name: {match: ..., scheme: ...}",
    ),
    ("init: fans", "mlp", {"init.fans": "torchy"}, "init.fans: 'torchy' is not a choice; did you mean 'torch'?"),
    ("init: calibrate", "mlp", {"init.calibrate": True}, "init.calibrate: True is not a mapping; give its keys: method, ..."),
    ("init: calibrate misspelt", "mlp", {"init.calibrate": "lsvu"}, "init.calibrate: 'lsvu' is not a calibration; did you mean 'lsuv'?"),
    ("init: calibrate tol", "mlp", {"init.calibrate": {"tol": 0.0}}, "init.calibrate.tol: 0.0 is too small; give a number > 0"),
    (
        "init: parameters that no rule picks",
        "mlp",
        {"init": {"rules": {"w": {"role": "weight", "scheme": "zeros"}}}},
        "init.rules: no rule picks fc1.bias (bias, of Linear); add one, such as biases: {role: bias, scheme: ...",
    ),
    (
        "rule: a name",
        "mlp",
        {"init.rules.mine": "zeros"},
        "init.rules.mine: 'zeros' is not a rule; give a mapping of match, module or role, and scheme",
    ),
    (
        "rule: no selector",
        "mlp",
        {"init.rules.mine": {"scheme": "zeros"}},
        "init.rules.mine: picks nothing: give match, module or role, or a layer as before or after",
    ),
    (
        "rule: no scheme",
        "mlp",
        {"init.rules.mine": {"match": "fc1.*"}},
        "init.rules.mine.scheme: missing; give default, or one of bilinear, centred_normal, chrono, completep, constant, ...",
    ),
    (
        "rule: a residual role without a branch",
        "mlp",
        {"init.rules.mine": {"role": "residual_out", "scheme": "zeros"}},
        "init.rules.mine: {role: residual_out} picks no parameter; ...no residual branch is known in this model...",
    ),
    (
        "rule: a branch count without a branch",
        "mlp",
        {"init.rules.mine": {"match": "fc1.weight", "scheme": "gpt2"}},
        "init.rules.mine: fc1.weight of shape (512, 64): branches: auto: it is in no residual branch; give branches, or: ...",
    ),
    (
        "rule: branches below 1",
        "mlp",
        {"init.rules.mine": {"match": "fc1.weight", "scheme": "gpt2", "branches": 0}},
        "init.rules.mine.branches: 0 is too small; give a whole number >= 1",
    ),
    (
        "rule: mup without a base width",
        "mlp",
        {"init.rules.mine": {"match": "head.weight", "scheme": "mup"}},
        "init.rules.mine.base_width: missing; mup needs it",
    ),
    (
        "rule: a gate bias for a matrix",
        "mlp",
        {"init.rules.mine": {"match": "fc1.weight", "scheme": "forget_bias"}},
        "init.rules.mine: forget_bias needs 1 dimension, and fc1.weight has shape (512, 64)",
    ),
    (
        "rule: a gate bias without a gate",
        "mlp",
        {"init.rules.mine": {"match": "fc1.bias", "scheme": "forget_bias"}},
        "init.rules.mine: fc1.bias of shape (512,): forget_bias is for the biases of an LSTM, ...; Linear has none",
    ),
    (
        "rule: a prior of 1",
        "mlp",
        {"init.rules.mine": {"match": "head.bias", "scheme": "prior_bias", "p": 1.0}},
        "init.rules.mine: prior_bias needs 0 < p < 1, not 1.0",
    ),
    (
        "rule: priors of another number of classes",
        "mlp",
        {"init.rules.mine": {"match": "head.bias", "scheme": "prior_bias", "priors": [0.5, 0.5]}},
        "init.rules.mine: head.bias of shape (10,): prior_bias has 2 priors for a tensor of shape (10,)",
    ),
    (
        "rule: a class that never occurs",
        "mlp",
        {"init.rules.mine": {"match": "head.bias", "scheme": "prior_bias", "priors": [0.0, 1.0]}},
        "init.rules.mine: class 0 has the prior 0.0, whose logarithm is no number; give priors above 0",
    ),
    (
        "roles: not a role",
        "mlp",
        {"model.layers.fc1.roles": {"haed": "weight"}},
        "model.layers.fc1.roles.haed: not a role; did you mean 'head'?",
    ),
    (
        "roles: a glob of nothing",
        "mlp",
        {"model.layers.fc1.roles": {"head": "wieght"}},
        "model.layers.fc1.roles.head: 'wieght' is not a parameter of this layer; did you mean 'weight'?",
    ),
    (
        "roles: a list",
        "mlp",
        {"model.layers.fc1.roles": ["head"]},
        "model.layers.fc1.roles: ['head'] is not a mapping; give role: glob, like {head: 'fc.*'}",
    ),
    (
        "rule: match misspelt",
        "mlp",
        {"init.rules.mine": {"mtch": "*", "scheme": "zeros", "role": "bias"}},
        "init.rules.mine.mtch: not a key of a rule; did you mean 'match'?",
    ),
    (
        "rule: scheme misspelt",
        "mlp",
        {"init.rules.mine": {"match": "*", "shceme": "zeros"}},
        "init.rules.mine.shceme: not a key of a rule; did you mean 'scheme'?",
    ),
    (
        "rule: picks nothing",
        "mlp",
        {"init.rules.mine": {"match": "fc9.*", "scheme": "zeros"}},
        "init.rules.mine: {match: fc9.*} picks no parameter; the parameters are fc1.weight, fc1.bias, fc2.weight, ...",
    ),
    (
        "rule: parameter misspelt",
        "mlp",
        {"init.rules.mine": {"match": "fc1.wieght", "scheme": "zeros"}},
        "init.rules.mine: {match: fc1.wieght} picks no parameter; did you mean 'fc1.weight'? (optional: true allows it)",
    ),
    (
        "rule: role misspelt",
        "mlp",
        {"init.rules.mine": {"role": "wieght", "scheme": "zeros"}},
        "init.rules.mine.role: 'wieght' is not a role; did you mean 'weight'?",
    ),
    (
        "rule: module misspelt",
        "mlp",
        {"init.rules.mine": {"module": "Liner", "scheme": "zeros"}},
        "init.rules.mine: {module: Liner} picks no parameter; did you mean 'Linear'? (optional: true allows it)",
    ),
    (
        "rule: match a number",
        "mlp",
        {"init.rules.mine": {"match": 3, "scheme": "zeros"}},
        "init.rules.mine.match: 3 is not a text; give one, or a list of them",
    ),
    (
        "rule: unknown scheme",
        "mlp",
        {"init.rules.mine": {"match": "*", "scheme": "kaiming"}},
        "init.rules.mine.scheme: 'kaiming' is not a scheme; did you mean 'kaiming_normal'?",
    ),
    (
        "rule: scheme null",
        "mlp",
        {"init.rules.mine": {"match": "*", "scheme": None}},
        "init.rules.mine.scheme: None is not a scheme; choose one of auto, copy, default, uniform, normal, ...",
    ),
    (
        "rule: scheme of torch by its full name",
        "mlp",
        {"init.rules.mine": {"match": "*", "scheme": "torch.nn.init.normal_"}},
        "init.rules.mine.scheme: 'torch.nn.init.normal_' is not a scheme; did you mean 'normal'?",
    ),
    (
        "rule: scheme of one's own, not trusted",
        "mlp",
        {"init.rules.mine": {"match": "*", "scheme": "my_pkg.init_"}},
        "init.rules.mine.scheme: 'my_pkg.init_' is refused: only trusted packages may be named here; to allow it, ...",
    ),
    (
        "rule: argument misspelt",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "normal", "sdt": 1}},
        "init.rules.mine.sdt: not an argument of normal; did you mean 'std'?",
    ),
    (
        "rule: argument missing",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "sparse"}},
        "init.rules.mine.sparsity: missing; sparse needs it",
    ),
    (
        "rule: argument a text",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "normal", "std": "0.1"}},
        "init.rules.mine.std: '0.1' is a text; give a number >= 0 (leave the quotes out: 0.1)",
    ),
    (
        "rule: std negative",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "normal", "std": -1}},
        "init.rules.mine.std: -1 is too small; give a number >= 0",
    ),
    (
        "rule: std NaN",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "normal", "std": NAN}},
        "init.rules.mine.std: nan is not finite; give a number >= 0",
    ),
    (
        "rule: mean beyond floats",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "normal", "mean": 10**400}},
        "init.rules.mine.mean: ...",
    ),
    (
        "rule: bounds swapped",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "uniform", "a": 2, "b": 1}},
        "init.rules.mine: uniform needs a <= b, not a = 2 and b = 1",
    ),
    (
        "rule: mode",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "kaiming_normal", "mode": "fanin"}},
        "init.rules.mine.mode: 'fanin' is a text; give one of fan_in, fan_out",
    ),
    (
        "rule: nonlinearity",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "kaiming_normal", "nonlinearity": "rellu"}},
        "init.rules.mine.nonlinearity: 'rellu' is not an activation of torch.nn that acts elementwise; did you mean ...",
    ),
    (
        "rule: sparsity over 1",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "sparse", "sparsity": 2}},
        "init.rules.mine.sparsity: 2 is too large; give a number >= 0 and <= 1",
    ),
    (
        "rule: critical of no activation",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "critical", "activation": "tanhh"}},
        "init.rules.mine.activation: 'tanhh' is not an activation of torch.nn that acts elementwise; did you mean 'tanh'?",
    ),
    (
        "rule: gain of no activation",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "xavier_normal", "gain": "rellu"}},
        "init.rules.mine.gain: 'rellu' is not an activation of torch.nn that acts elementwise; did you mean 'relu'?; ...",
    ),
    (
        "rule: gain negative",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "xavier_normal", "gain": -1}},
        "init.rules.mine.gain: -1 is too small; give a number > 0",
    ),
    (
        "rule: gain a list",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "xavier_normal", "gain": []}},
        "init.rules.mine.gain: [] is a list; give a number > 0",
    ),
    (
        "rule: gain of a scheme without",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "normal", "gain": "auto"}},
        "init.rules.mine.gain: not an argument of normal; choose one of mean, std",
    ),
    (
        "rule: default with an argument",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "default", "std": 1}},
        "init.rules.mine.std: not an argument of default, which takes none",
    ),
    (
        "rule: two dimensions on a bias",
        "mlp",
        {"init.rules.mine": {"match": "fc1.bias", "scheme": "orthogonal"}},
        "init.rules.mine: orthogonal needs 2 dimensions, and fc1.bias has shape (512,)",
    ),
    (
        "rule: eye on a convolution",
        "cnn",
        {"init.rules.mine": {"match": "conv1.weight", "scheme": "eye"}},
        "init.rules.mine: conv1.weight of shape (32, 1, 3, 3): eye needs 2 dimensions, this tensor has shape (32, 1, ...",
    ),
    (
        "rule: dirac on a matrix",
        "mlp",
        {"init.rules.mine": {"match": "fc1.weight", "scheme": "dirac"}},
        "init.rules.mine: dirac needs 3 dimensions, and fc1.weight has shape (512, 64)",
    ),
    (
        "rule: dirac groups that do not divide",
        "cnn",
        {"init.rules.mine": {"match": "conv1.weight", "scheme": "dirac", "groups": 5}},
        "init.rules.mine: conv1.weight of shape (32, 1, 3, 3): dirac: 5 groups do not divide the 32 output channels ...",
    ),
    (
        "rule: reinit a text",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "zeros", "reinit": "yes"}},
        "init.rules.mine.reinit: 'yes' is a text; give true or false",
    ),
    (
        "rule: optional a text",
        "mlp",
        {"init.rules.mine": {"role": "weight", "scheme": "zeros", "optional": "yes"}},
        "init.rules.mine.optional: 'yes' is a text; give true or false",
    ),
    ("freeze: a list", "mlp", {"freeze": []}, "freeze: [] is not a mapping; give rules: {name: {match: ...}}"),
    ("freeze: unknown key", "mlp", {"freeze": {"rule": {}}}, "freeze.rule: not a key of freeze; did you mean 'rules'?"),
    ("freeze: rules a list", "mlp", {"freeze.rules": []}, "freeze.rules: [] is not a mapping; give name: {match: ...}"),
    (
        "cache_features: no such place",
        "mlp",
        {"trainer.cache_features": "dsik"},
        "trainer.cache_features: 'dsik' is neither true nor false, nor a place; did you mean 'disk'?",
    ),
    (
        "cache_features: nothing is frozen",
        "mlp",
        {"trainer.cache_features": True},
        "trainer.cache_features: the first layer with parameters, 'fc1', is not frozen; freeze it (freeze.rules), or give false",
    ),
    (
        "cache_features: thawed later",
        "mlp",
        {"trainer.cache_features": "disk", "freeze.rules": {"a": {"before": "head", "until": {"epoch": 3}}}},
        "trainer.cache_features: fc1.weight trains from epoch 3 on, so the features would change; take that until away, or give false",
    ),
    (
        "weights of a run that is trained: overrides a text",
        "linear_head",
        {"backbone": {"name": "resnet18", "weights": {"train": "experiment=pretrain_digits"}}},
        "backbone.weights.train: 'experiment=pretrain_digits' is a text; give a list of texts",
    ),
    (
        "experiment: an arm that is not there",
        "mlp",
        {"experiment": {"arm": "frozn", "arms": {"frozen": {}, "staged": {}}}},
        "experiment.arm: 'frozn' is not one of the arms; did you mean 'frozen'?",
    ),
    ("data: classes a number", "mlp", {"data.classes": 5}, "data.classes: 5 is a whole number; give a list of whole numbers, or null"),
    ("data: per_class 0", "mlp", {"data.per_class": 0}, "data.per_class: 0 is too small; give a whole number >= 1, or null"),
    ("freeze: dropout a rate", "mlp", {"freeze.dropout": 0.5}, "freeze.dropout: 0.5 is a number; give true or false"),
    (
        "freeze: until a number",
        "mlp",
        {"freeze.rules": {"a": {"match": "fc1.*", "until": 3}}},
        "freeze.rules.a.until: 3 does not say until when; give {epoch: 3}, the first epoch in which it trains",
    ),
    (
        "freeze: until the first epoch",
        "mlp",
        {"freeze.rules": {"a": {"match": "fc1.*", "until": {"epoch": 1}}}},
        "freeze.rules.a.until.epoch: 1 is too small; give a whole number >= 2",
    ),
    (
        "freeze: until, and not frozen",
        "mlp",
        {"freeze.rules": {"a": {"match": "fc1.*", "frozen": False, "until": {"epoch": 2}}}},
        "freeze.rules.a.until: {'epoch': 2} thaws nothing, since frozen is false; give one of them",
    ),
    (
        "freeze: before a layer that is not there",
        "mlp",
        {"freeze.rules": {"a": {"before": "haed"}}},
        "freeze.rules.a: {before: haed} picks no parameter; there is no layer 'haed'; did you mean 'head'? (optional: true allows it)",
    ),
    (
        "freeze: all of it at first",
        "mlp",
        {"freeze.rules": {"a": {"match": "*", "until": {"epoch": 2}}}},
        "optimizer: there is nothing to train at first: every parameter is frozen until a later epoch",
    ),
    (
        "freeze: rule a glob",
        "mlp",
        {"freeze.rules": {"a": "fc1.*"}},
        "freeze.rules.a: 'fc1.*' is not a rule; give a mapping of match, module or role",
    ),
    (
        "freeze: match misspelt",
        "mlp",
        {"freeze.rules": {"a": {"mtch": "*"}}},
        "freeze.rules.a.mtch: not a key of a freeze rule; did you mean 'match'?",
    ),
    (
        "freeze: picks nothing",
        "mlp",
        {"freeze.rules": {"a": {"match": "fc9.*"}}},
        "freeze.rules.a: {match: fc9.*} picks no parameter; the parameters are fc1.weight, fc1.bias, fc2.weight, ...",
    ),
    (
        "freeze: everything",
        "mlp",
        {"freeze.rules": {"a": {"match": "*"}}},
        "optimizer: there is nothing to train: every parameter of the model is frozen",
    ),
    (
        "freeze: frozen a text",
        "mlp",
        {"freeze.rules": {"a": {"match": "fc1.*", "frozen": "yes"}}},
        "freeze.rules.a.frozen: 'yes' is a text; give true or false",
    ),
    (
        "optimizer: a name",
        "mlp",
        {"optimizer": "adam"},
        "optimizer: 'adam' is not a mapping; give _target_, such as torch.optim.AdamW, and lr",
    ),
    (
        "optimizer: no _target_",
        "mlp",
        {"optimizer": {"lr": 0.1}},
        "optimizer._target_: None is not the dotted name of an optimizer, like torch.optim.AdamW",
    ),
    (
        "optimizer: misspelt",
        "mlp",
        {"optimizer._target_": "torch.optim.Adamm"},
        "optimizer._target_: 'torch.optim.Adamm' is not a torch.optim optimizer; did you mean 'torch.optim.Adam'?",
    ),
    (
        "optimizer: short name",
        "mlp",
        {"optimizer._target_": "Adam"},
        "optimizer._target_: 'Adam' is refused: give the full name; did you mean 'torch.optim.Adam'?",
    ),
    (
        "optimizer: refused",
        "mlp",
        {"optimizer._target_": "torch.optim.adam.torch.load"},
        "optimizer._target_: 'torch.optim.adam.torch.load' is refused: its step 'torch' leaves torch.optim for the ...",
    ),
    (
        "optimizer: base class",
        "mlp",
        {"optimizer._target_": "torch.optim.Optimizer"},
        "optimizer._target_: 'torch.optim.Optimizer' is what every optimizer is made from, and does nothing itself; ...",
    ),
    (
        "optimizer: needs a closure",
        "mlp",
        {"optimizer._target_": "torch.optim.LBFGS"},
        "optimizer._target_: 'torch.optim.LBFGS' needs a closure, which the training loop has not; give torch.optim.AdamW",
    ),
    (
        "optimizer: for matrices alone",
        "mlp",
        {"optimizer": {"_target_": "torch.optim.Muon", "lr": 0.1}},
        "optimizer: Muon refuses this model: ...",
    ),
    ("optimizer: unknown argument", "mlp", {"optimizer.lrr": 1}, "optimizer.lrr: not an argument of AdamW; did you mean 'lr'?"),
    (
        "optimizer: lr a text",
        "mlp",
        {"optimizer.lr": "1e-3"},
        "optimizer.lr: '1e-3' is a text; give a number >= 0 (YAML reads 1e-3 as text: write 0.001)",
    ),
    ("optimizer: lr negative", "mlp", {"optimizer.lr": -1}, "optimizer.lr: -1 is too small; give a number >= 0"),
    ("optimizer: lr NaN", "mlp", {"optimizer.lr": NAN}, "optimizer.lr: nan is not finite; give a number >= 0"),
    ("optimizer: lr infinite", "mlp", {"optimizer.lr": INF}, "optimizer.lr: inf is not finite; give a number >= 0"),
    ("optimizer: lr null", "mlp", {"optimizer.lr": None}, "optimizer.lr: None is null; give a number >= 0"),
    (
        "optimizer: weight_decay negative",
        "mlp",
        {"optimizer.weight_decay": -0.1},
        "optimizer.weight_decay: -0.1 is too small; give a number >= 0",
    ),
    ("optimizer: beta 1", "mlp", {"optimizer.betas": [1.0, 0.9]}, "optimizer.betas: 1.0 is not in 0 <= beta < 1"),
    (
        "optimizer: one beta",
        "mlp",
        {"optimizer.betas": [0.9]},
        "optimizer.betas: [0.9] is not two numbers; give such as [0.9, 0.999]",
    ),
    (
        "optimizer: beta null",
        "mlp",
        {"optimizer.betas": [0.9, None]},
        "optimizer.betas: [0.9, None] holds None; give a list of numbers",
    ),
    ("optimizer: amsgrad a text", "mlp", {"optimizer.amsgrad": "yes"}, "optimizer.amsgrad: 'yes' is a text; give true or false"),
    (
        "optimizer: differentiable",
        "mlp",
        {"optimizer.differentiable": True},
        "optimizer.differentiable: true needs a step that is differentiated, which the training loop has not; give false",
    ),
    (
        "optimizer: params",
        "mlp",
        {"optimizer.params": []},
        "optimizer.params: not a key here; the model's parameters are used, and groups pick among them",
    ),
    (
        "optimizer: nesterov without momentum",
        "mlp",
        {"optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, "nesterov": True}},
        "optimizer: SGD refuses it: ...",
    ),
    (
        "group: a text",
        "mlp",
        {"optimizer.groups": "x"},
        "optimizer.groups: 'x' is not a mapping; give named groups, each with match, module or role",
    ),
    (
        "layer_decay: above 1",
        "mlp",
        {"optimizer.layer_decay": 7.5},
        "optimizer.layer_decay: 7.5 is too large; give a number > 0 and <= 1, or null",
    ),
    (
        "no_decay: not a list",
        "mlp",
        {"optimizer.no_decay": "norm"},
        "optimizer.no_decay: 'norm' is a text; give a list of texts",
    ),
    (
        "no_decay: not a role",
        "mlp",
        {"optimizer.no_decay": ["biases"]},
        "optimizer.no_decay: 'biases' is not a role; did you mean 'bias'?",
    ),
    (
        "group: a number in it",
        "mlp",
        {"optimizer.groups": {"a": 3}},
        "optimizer.groups.a: 3 is not a mapping; give match, module or role, and lr_scale or another option",
    ),
    (
        "group: no selector",
        "mlp",
        {"optimizer.groups": {"a": {"lr_scale": 0.1}}},
        "optimizer.groups.a: picks nothing: give match, module or role, or a layer as before or after",
    ),
    (
        "group: picks nothing",
        "mlp",
        {"optimizer.groups": {"a": {"match": "fc9.*"}}},
        "optimizer.groups.a: {match: fc9.*} picks no parameter; the parameters are fc1.weight, fc1.bias, fc2.weight, ...",
    ),
    (
        "group: module that is not there",
        "mlp",
        {"optimizer.groups": {"a": {"module": "Conv2d", "lr_scale": 0.1}}},
        "optimizer.groups.a: {module: Conv2d} picks no parameter; choose one of Linear (optional: true allows it)",
    ),
    (
        "group: key misspelt",
        "mlp",
        {"optimizer.groups": {"a": {"match": "fc1.*", "lr_scal": 1}}},
        "optimizer.groups.a.lr_scal: not an argument of AdamW; did you mean 'lr_scale'?",
    ),
    (
        "group: lr_scale negative",
        "mlp",
        {"optimizer.groups": {"a": {"match": "fc1.*", "lr_scale": -1}}},
        "optimizer.groups.a.lr_scale: -1 is too small; give a number >= 0",
    ),
    (
        "group: lr and lr_scale",
        "mlp",
        {"optimizer.groups": {"a": {"match": "fc1.*", "lr": 1, "lr_scale": 1}}},
        "optimizer.groups.a.lr_scale: 1 and lr: 1 are both given; give one",
    ),
    (
        "group: called default",
        "mlp",
        {"optimizer.groups": {"default": {"match": "fc1.*"}}},
        "optimizer.groups.default: 'default' is the group of all that no other picks; choose another name",
    ),
    (
        "group: of frozen parameters",
        "mlp",
        {"optimizer.groups": {"a": {"match": "fc1.*"}}, "freeze.rules": {"b": {"match": "fc1.*"}}},
        "optimizer.groups.a: {match: fc1.*} picks frozen parameters only (optional: true allows it)",
    ),
    (
        "scheduler: a name",
        "mlp",
        {"scheduler": "cosine"},
        "scheduler: 'cosine' is not a mapping; give _target_ (null: constant), interval and warmup_epochs",
    ),
    (
        "scheduler: unknown",
        "mlp",
        {"scheduler": sched("StepLRR")},
        "scheduler._target_: 'torch.optim.lr_scheduler.StepLRR' is not a torch.optim.lr_scheduler scheduler; did you ...",
    ),
    ("scheduler: argument missing", "mlp", {"scheduler": sched("StepLR")}, "scheduler.step_size: missing; StepLR needs it"),
    (
        "scheduler: argument misspelt",
        "mlp",
        {"scheduler": sched("StepLR", step_size=1, gama=1)},
        "scheduler.gama: not an argument of StepLR; did you mean 'gamma'?",
    ),
    (
        "scheduler: warmup misspelt",
        "mlp",
        {"scheduler.warmup_epoch": 1},
        "scheduler.warmup_epoch: not a key of a constant schedule, which has 'warmup_epochs'; name one with ...",
    ),
    (
        "scheduler: step_size 0",
        "mlp",
        {"scheduler": sched("StepLR", step_size=0)},
        "scheduler.step_size: 0 is too small; give a whole number >= 1",
    ),
    (
        "scheduler: gamma NaN",
        "mlp",
        {"scheduler": sched("StepLR", step_size=1, gamma=NAN)},
        "scheduler.gamma: nan is not finite; give a number >= 0",
    ),
    (
        "scheduler: interval",
        "mlp",
        {"scheduler": sched("StepLR", step_size=1, interval="epochs")},
        "scheduler.interval: 'epochs' is a text; give one of epoch, step",
    ),
    (
        "scheduler: milestones a text",
        "mlp",
        {"scheduler": sched("MultiStepLR", milestones="3,4")},
        "scheduler.milestones: '3,4' is a text; give a list of whole numbers",
    ),
    (
        "scheduler: max_lr negative",
        "mlp",
        {"scheduler": sched("OneCycleLR", max_lr=-1)},
        "scheduler.max_lr: -1 is too small; give a number >= 0",
    ),
    (
        "scheduler: pct_start over 1",
        "mlp",
        {"scheduler": sched("OneCycleLR", pct_start=2)},
        "scheduler: OneCycleLR refuses it: ...",
    ),
    (
        "scheduler: steps beyond floats",
        "mlp",
        {"scheduler": sched("OneCycleLR", total_steps=10**400)},
        "scheduler: OneCycleLR refuses it: ...",
    ),
    (
        "scheduler: needs functions",
        "mlp",
        {"scheduler": sched("LambdaLR", lr_lambda="x")},
        "scheduler._target_: 'torch.optim.lr_scheduler.LambdaLR' needs Python functions or objects; give StepLR, ...",
    ),
    (
        "scheduler: plateau each step",
        "mlp",
        {"scheduler": sched("ReduceLROnPlateau", interval="step")},
        "scheduler.interval: 'step' does not go with ReduceLROnPlateau, which needs the epoch's value; give epoch",
    ),
    (
        "scheduler: warm-up as long as the training",
        "mlp",
        {"scheduler.warmup_epochs": 20},
        "scheduler.warmup_epochs: 20 is not less than the 20 epochs of the training; give fewer, or 0",
    ),
    (
        "scheduler: warm-up negative",
        "mlp",
        {"scheduler.warmup_epochs": -1},
        "scheduler.warmup_epochs: -1 is too small; give a number >= 0",
    ),
    (
        "scheduler: warm-up longer than the training",
        "mlp",
        {"scheduler": sched("StepLR", step_size=1, warmup_epochs=5), "trainer.max_epochs": 2},
        "scheduler.warmup_epochs: 5 is not less than the 2 epochs of the training; give fewer, or 0",
    ),
    ("trainer: unknown key", "mlp", {"trainer.epochs": 3}, "trainer.epochs: not a key of trainer; did you mean 'max_epochs'?"),
    ("trainer: max_epochs 0", "mlp", {"trainer.max_epochs": 0}, "trainer.max_epochs: 0 is too small; give a whole number >= 1"),
    (
        "trainer: max_epochs a text",
        "mlp",
        {"trainer.max_epochs": "3"},
        "trainer.max_epochs: '3' is a text; give a whole number >= 1 (leave the quotes out: 3)",
    ),
    (
        "trainer: max_steps 0",
        "mlp",
        {"trainer.max_steps": 0},
        "trainer.max_steps: 0 is too small; give a whole number >= 1, or null",
    ),
    ("trainer: device", "mlp", {"trainer.device": "gpu"}, "trainer.device: 'gpu' is not a device; give auto, or cuda"),
    ("trainer: device null", "mlp", {"trainer.device": None}, "trainer.device: None is null; give a text"),
    (
        "trainer: precision",
        "mlp",
        {"trainer.precision": "float16"},
        "trainer.precision: 'float16' is not a choice; choose one of fp32, bf16, fp16",
    ),
    ("trainer: compile a text", "mlp", {"trainer.compile": "yes"}, "trainer.compile: 'yes' is a text; give true or false"),
    (
        "trainer: clip_norm negative",
        "mlp",
        {"trainer.clip_norm": -1},
        "trainer.clip_norm: -1 is too small; give a number > 0, or null",
    ),
    (
        "trainer: clip_norm infinite",
        "mlp",
        {"trainer.clip_norm": INF},
        "trainer.clip_norm: inf is not finite; give a number > 0, or null",
    ),
    ("trainer: accumulate 0", "mlp", {"trainer.accumulate": 0}, "trainer.accumulate: 0 is too small; give a whole number >= 1"),
    (
        "trainer: resume from nowhere",
        "mlp",
        {"trainer.resume": "nowhere"},
        "trainer.resume: 'nowhere' has no checkpoint/last.safetensors; give the directory of a run that finished an epoch",
    ),
    (
        "trainer: monitor",
        "mlp",
        {"trainer.monitor": "val_los"},
        "trainer.monitor: 'val_los' is not a choice; did you mean 'val_loss'?",
    ),
    (
        "trainer: patience 0",
        "mlp",
        {"trainer.patience": 0},
        "trainer.patience: 0 is too small; give a whole number >= 1, or null",
    ),
    (
        "trainer: limit_batches a fraction",
        "mlp",
        {"trainer.limit_batches": 1.5},
        "trainer.limit_batches: 1.5 is a number; give a whole number >= 1, or null",
    ),
    (
        "trainer: progress",
        "mlp",
        {"trainer.progress": "tqdm"},
        "trainer.progress: 'tqdm' is not a choice; choose one of auto, bar, lines, none",
    ),
    (
        "trainer: tracker",
        "mlp",
        {"trainer.tracker": "tensorbord"},
        "trainer.tracker: 'tensorbord' is not a choice; did you mean 'tensorboard'?",
    ),
    ("trainer: loss a name", "mlp", {"trainer.loss": "mse"}, "trainer.loss: 'mse' is a text; give a mapping, or null"),
    (
        "trainer: loss misspelt",
        "mlp",
        {"trainer.loss": layer("MSEloss")},
        "trainer.loss._target_: 'torch.nn.MSEloss' is not a torch.nn loss module; did you mean 'torch.nn.MSELoss'?",
    ),
    (
        "trainer: loss that is a layer",
        "mlp",
        {"trainer.loss": layer("Linear", in_features=1, out_features=1)},
        "trainer.loss._target_: 'torch.nn.Linear' is not a torch.nn loss module; did you mean 'torch.nn.MultiMarginLoss'?",
    ),
    (
        "trainer: loss argument misspelt",
        "mlp",
        {"trainer.loss": layer("CrossEntropyLoss", label_smoothin=0.1)},
        "trainer.loss.label_smoothin: not an argument of CrossEntropyLoss; did you mean 'label_smoothing'?",
    ),
    (
        "trainer: loss argument out of range",
        "mlp",
        {"trainer.loss": layer("CrossEntropyLoss", label_smoothing=2.0)},
        "trainer.loss: torch.nn.CrossEntropyLoss refuses {'label_smoothing': 2.0}: ...",
    ),
    (
        "trainer: loss without a reduction",
        "mlp",
        {"trainer.loss": layer("CrossEntropyLoss", reduction="none")},
        "trainer.loss.reduction: 'none' gives no one number to train on; give mean or sum",
    ),
    (
        "trainer: loss reduction",
        "mlp",
        {"trainer.loss": layer("MSELoss", reduction="avg")},
        "trainer.loss: torch.nn.MSELoss refuses {'reduction': 'avg'}: ...",
    ),
    (
        "trainer: loss weights",
        "mlp",
        {"trainer.loss": layer("CrossEntropyLoss", weight=[1, "a"])},
        "trainer.loss.weight: [1, 'a'] is not a list of numbers",
    ),
    ("backbone: a name", "mlp", {"backbone": "resnet18"}, "backbone: 'resnet18' is not a mapping; give its keys: name, layers, ..."),
    (
        "backbone: misspelt",
        "mlp",
        {"backbone": {"name": "resnet181"}},
        "backbone.name: 'resnet181' is not a classification model of torchvision; did you mean 'resnet18'?",
    ),
    (
        "backbone: of another task",
        "mlp",
        {"backbone": {"name": "fcn_resnet50"}},
        "backbone.name: 'fcn_resnet50' is not a classification model of torchvision; did you mean 'resnet50'?",
    ),
    (
        "backbone: misspelt of timm",
        "mlp",
        {"backbone": {"name": "timm/resnet81"}},
        "backbone.name: 'timm/resnet81' is not a model of timm; did you mean 'timm/resnet18'?",
    ),
    (
        "backbone: a tag that timm has not",
        "mlp",
        {"backbone": {"name": "timm/resnet18.a1_in2k"}},
        "backbone.name: 'timm/resnet18.a1_in2k' has no weights of that tag; did you mean 'timm/resnet18.a1_in1k'?",
    ),
    (
        "backbone: weights by name of timm",
        "mlp",
        {"backbone": {"name": "timm/resnet18", "weights": "DEFAULT"}},
        "backbone.weights: 'DEFAULT' is neither a URL nor a file nor the directory of a run; give true for timm's own",
    ),
    (
        "backbone: unknown key",
        "mlp",
        {"backbone": {"name": "resnet18", "weigths": "DEFAULT"}},
        "backbone.weigths: not a key of backbone; did you mean 'weights'?",
    ),
    (
        "backbone: weights misspelt",
        "mlp",
        {"backbone": {"name": "resnet18", "weights": "DEFALT"}},
        "backbone.weights: 'DEFALT' is neither weights of resnet18 nor a file or folder; did you mean 'DEFAULT'?",
    ),
    (
        "backbone: weights of another model",
        "mlp",
        {"backbone": {"name": "resnet18", "weights": "IMAGENET1K_V2"}},
        "backbone.weights: 'IMAGENET1K_V2' is neither weights of resnet18 nor a file or folder; did you mean 'IMAGENET1K_V1'?",
    ),
    (
        "backbone: weights true of torchvision",
        "mlp",
        {"backbone": {"name": "resnet18", "weights": True}},
        "backbone.weights: true is for timm's models; give DEFAULT, a URL, a file, or the directory of a run",
    ),
    (
        "backbone: weights empty",
        "mlp",
        {"backbone": {"name": "resnet18", "weights": ""}},
        "backbone.weights: '' is empty; give null for none",
    ),
    (
        "backbone: weights a number",
        "mlp",
        {"backbone": {"name": "resnet18", "weights": 1}},
        "backbone.weights: 1 is a whole number; give a text, or true or false, or null",
    ),
    (
        "backbone: weights that are not there",
        "mlp",
        {"backbone": {"name": "resnet18", "weights": "runs/none.pt", "stem": "sum"}},
        "backbone.weights: there is no file runs/none.pt",
    ),
    (
        "backbone: stem",
        "mlp",
        {"backbone": {"name": "resnet18", "weights": "DEFAULT", "stem": "both"}},
        "backbone.stem: 'both' is not a choice; choose one of sum, repeat",
    ),
    (
        "backbone: features only",
        "mlp",
        {"backbone": {"name": "vgg16", "weights": "IMAGENET1K_FEATURES"}},
        "backbone.weights: 'IMAGENET1K_FEATURES' has values up to features only; give backbone.output: avgpool",
    ),
    (
        "backbone: output",
        "mlp",
        {"backbone": {"name": "resnet18", "output": "layer5"}},
        "backbone.output: 'layer5' is not a layer of resnet18; did you mean 'layer...'?",
    ),
    (
        "backbone: input channels",
        "mlp",
        {"backbone": {"name": "resnet18", "in_channels": 3}},
        "backbone.in_channels: 3 does not fit what comes in, [N, 1, 8, 8]: leave it out, or give 1",
    ),
    (
        "backbone: no stem declared",
        "mlp",
        {"backbone": {"name": "resnet18", "weights": "DEFAULT"}},
        "backbone.stem: missing: the weights are of 3 input channels and 1 come in; give sum or repeat",
    ),
    (
        "backbone: a stem of no weights",
        "mlp",
        {"backbone": {"name": "resnet18", "stem": "sum"}},
        "backbone.stem: 'sum' is of weights that are loaded, and weights is null",
    ),
    (
        "backbone: an input that it cannot take",
        "mlp",
        {"backbone": {"name": "vit_b_16"}},
        "backbone: VisionTransformer cannot take what comes in, [N, 1, 8, 8]: Wrong image height! Expected 224 but got 8!; its size of "
        "images is an argument: backbone.arguments.image_size",
    ),
    (
        "backbone: an argument that its builder has not",
        "mlp",
        {"backbone": {"name": "resnet18", "arguments": {"widht": 3}}},
        "backbone.arguments: resnet18 refuses them: ResNet.__init__() got an unexpected keyword argument 'widht'",
    ),
    (
        "backbone: classes",
        "mlp",
        {"backbone": {"name": "resnet18", "arguments": {"num_classes": 3}}},
        "backbone.arguments.num_classes: not an argument here: weights and in_channels are keys of backbone, and the head gives ...",
    ),
    (
        "backbone: allow misspelt",
        "mlp",
        {"backbone": {"name": "resnet18", "allow": {"mising": ["fc.*"]}}},
        "backbone.allow.mising: not a key of allow; did you mean 'missing'?",
    ),
    (
        "backbone: allow a number",
        "mlp",
        {"backbone": {"name": "resnet18", "allow": {"missing": [1]}}},
        "backbone.allow.missing: [1] holds 1; give a list of texts",
    ),
    (
        "backbone: rename to a number",
        "mlp",
        {"backbone": {"name": "resnet18", "weights": "w.pt", "stem": "sum", "rename": {"model.": 1}}},
        "backbone.rename.model.: 1 is not a text; give what to put in place of 'model.'",
    ),
    (
        "backbone: sha256",
        "mlp",
        {"backbone": {"name": "resnet18", "weights": "w.pt", "stem": "sum", "sha256": "xyz"}},
        "backbone.sha256: 'xyz' is not the beginning of a SHA-256; give 8 to 64 hex digits",
    ),
    (
        "backbone: keys and no name",
        "mlp",
        {"backbone": {"weights": "DEFAULT"}},
        "backbone.weights: 'DEFAULT' is of no backbone; give backbone.name, such as resnet18",
    ),
    (
        "backbone: a name and layers",
        "mlp",
        {"backbone": {"name": "resnet18", "layers": {"act": layer("ReLU")}}},
        "backbone.layers: stands beside name 'resnet18'; give one of them",
    ),
    (
        "backbone: layers that are wrong",
        "mlp",
        {"backbone": {"layers": {"act": layer("Rellu")}}},
        "backbone.layers.act._target_: 'torch.nn.Rellu' is not a torch.nn module; did you mean 'torch.nn.ReLU'?",
    ),
    (
        "backbone: published weights of layers",
        "mlp",
        {"backbone": {"layers": {"act": layer("ReLU")}, "weights": "DEFAULT"}},
        "backbone.weights: 'DEFAULT' is neither a URL nor a file nor the directory of a run, and layers have no weights of their own",
    ),
    (
        "backbone: in front of a model of one's own",
        "mlp",
        {"backbone": {"name": "squeezenet1_1"}, "model": layer("Flatten"), "data.input_shape": [3, 64, 64]},
        "model._target_: 'torch.nn.Flatten' leaves no place for a backbone, which stands in front of layers; give layers",
    ),
    (
        "backbone: two of that name",
        "mlp",
        {"backbone": {"name": "squeezenet1_1"}, "model.layers.backbone": layer("ReLU"), "data.input_shape": [3, 64, 64]},
        "model.layers.backbone: 'backbone' names two modules; choose another name",
    ),
    (
        "backbone: frozen at random",
        "mlp",
        {
            "backbone": {"name": "squeezenet1_1"},
            "data.input_shape": [3, 64, 64],
            "freeze.rules": {"body": {"match": "backbone.*"}},
        },
        "backbone.allow_random: 50 parameters of the backbone are frozen and were never trained (backbone.features.0.weight, ...",
    ),
    (
        "backbone: transforms of it and none",
        "mlp",
        {"data.transforms": "backbone"},
        "data.transforms: 'backbone' is for image_folder, which reads images one by one; digits has no transforms",
    ),
]


@pytest.mark.parametrize(("model", "changes", "expected"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_wrong_config_says_where_what_and_what_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, changes: dict[str, Any], expected: str
):
    monkeypatch.chdir(tmp_path)
    config = changed(model, changes)
    before = str(config)
    with pytest.raises(ConfigError) as caught:
        check(config)
    assert says(caught.value, expected), str(caught.value)
    assert str(config) == before
    assert list(tmp_path.iterdir()) == []


def test_there_are_enough_of_them():
    assert len(WRONG) >= 120
    assert len({name for name, *_ in WRONG}) == len(WRONG)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_not_there_is_refused(device: str):
    with pytest.raises(ConfigError) as caught:
        check(changed("mlp", {"trainer.device": device}))
    assert says(caught.value, f"trainer.device: {device!r} is not on this machine, which has the CPU only; give auto, or cpu")


# what is known once the data is there: told before anything is trained or written
LATER: list[tuple[str, str, dict[str, Any], str]] = [
    ("num_classes", "mlp", {"data.num_classes": 12}, "data.num_classes: 12 is not what was loaded; give 10 (classes)"),
    ("input_shape", "mlp", {"data.input_shape": [1, 9, 9]}, "data.input_shape: [1, 9, 9] is not what was loaded; give [1, 8, 8]"),
    (
        "input_dtype",
        "mlp",
        {"data.input_dtype": "int64", "model.layers.fc1": layer("Embedding", num_embeddings=99, embedding_dim=9)},
        "data.input_dtype: 'int64' is not what was loaded, which is float32",
    ),
    (
        "a loss of values",
        "mlp",
        {"trainer.loss": layer("MSELoss")},
        "trainer.loss: MSELoss wants float targets, and the data has classes; ...",
    ),
    (
        "weights of the loss",
        "mlp",
        {"trainer.loss": layer("CrossEntropyLoss", weight=[1, 2])},
        "trainer.loss: CrossEntropyLoss cannot compare them, ...",
    ),
    (
        "outputs of the head",
        "mlp",
        {"model.layers.head.out_features": 4},
        "model: gives 4 classes and the data has 10; give the last layer 10 outputs",
    ),
    (
        "no flatten",
        "cnn",
        {"model.layers.flatten": None},
        "trainer.loss: CrossEntropyLoss wants [N, classes] against [N], and ...",
    ),
    (
        "a dimension that only real data has",
        "mlp",
        {"model.layers.act1": layer("Softmax", dim=7)},
        "model: cannot take an input of shape [2, 1, 8, 8]: ...",
    ),
    (
        "too few steps",
        "mlp",
        {"scheduler": sched("OneCycleLR", total_steps=3, interval="step")},
        "scheduler.total_steps: 3 is less than the 460 steps that it is stepped; give null, which fits it",
    ),
]


@pytest.mark.parametrize(("model", "changes", "expected"), [row[1:] for row in LATER], ids=[row[0] for row in LATER])
def test_what_only_the_data_tells_is_told_before_training(tmp_path: Path, model: str, changes: dict[str, Any], expected: str):
    with pytest.raises(ConfigError) as caught:
        mf.train(changed(model, {"trainer.progress": "none", **changes}), run_dir=tmp_path / "run")
    assert says(caught.value, expected), str(caught.value)
    assert not (tmp_path / "run").exists()


def test_independent_mistakes_are_told_all_at_once():
    mistakes = {
        "modle": {},
        "data.batch_size": 0,
        "activation": layer("Rellu"),
        "model.layers.fc1.out_features": -1,
        "model.layers.fc2.bias": "no",
        "init.rules.mine": {"match": "*", "scheme": "kaiming_normall"},
        "freeze.rules": {"a": {"role": "wieght"}},
        "optimizer.lr": "1e-3",
        "optimizer.groups": {"a": {"match": "*", "lr_scale": -1}},
        "scheduler.warmup_epochs": -1,
        "trainer.precision": "fp8",
        "trainer.loss": layer("MSEloss"),
    }
    with pytest.raises(ConfigError) as caught:
        check(changed("mlp", mistakes))
    told = [problem.path for problem in caught.value.problems]
    for path in (*mistakes, "activation._target_"):
        assert any(where.startswith(path) for where in told), (path, told)
    assert len(told) == len(set(told)) == len(mistakes)  # and each of them once


def test_mistakes_that_only_the_whole_model_shows_are_told_together():
    groups = {"a": {"match": "fc9.*"}, "b": {"module": "Conv2d"}}
    with pytest.raises(ConfigError) as caught:
        check(changed("mlp", {"optimizer.groups": groups, "trainer.patience": 0}))
    assert [problem.path for problem in caught.value.problems] == ["trainer.patience", "optimizer.groups.a", "optimizer.groups.b"]


NONSENSE: list[Any] = [
    None,
    3,
    "model",
    [],
    [1, 2],
    {},
    {"model": None},
    {"model": [None]},
    {"model": {"layers": [{"_target_": "torch.nn.ReLU"}]}},
    {"model": {"layers": {1: 2, None: 3}}},
    {"model": {"layers": {"a": {"layers": {"b": {"layers": {}}}}}}},
    {"model": {"layers": {"a": {"_target_": {"_target_": {}}}}}},
    {"model": {"layers": {"a": {"_target_": "torch.nn.Linear", 3: 4}}}},
    {"model": {"layers": {"a": torch.nn.ReLU()}}},
    {"model": {"_target_": torch.nn.Linear, "in_features": 1, "out_features": 1}},
    {"model": {"_target_": "torch.nn.Linear", "in_features": torch.ones(1), "out_features": 1}, "init": []},
    {3: 4, None: None, (1, 2): 3},
    {"model": {"layers": {"a": layer("ReLU")}}, "data": {"input_shape": [[1]]}},
    {"model": {"layers": {"a": layer("ReLU")}}, "init": {"rules": {"a": [], 3: None}}},
    {"model": {"layers": {"a": layer("ReLU")}}, "freeze": {"rules": {1: {2: 3}}}},
]


@pytest.mark.parametrize("use", [check, mf.plan, mf.build], ids=["check", "plan", "build"])
@pytest.mark.parametrize("config", NONSENSE, ids=lambda config: str(config)[:40])
def test_nonsense_given_to_python_is_a_config_error(use: Any, config: Any):
    with pytest.raises(ConfigError, match="."):
        use(config)


NASTY: list[Any] = [None, [], {}, "x", -1, NAN, True, 10**400, [None], {"a": None}, "${nope}", "???"]
NASTY += [[2**64], [[0.9, 0.99]], {"a": [1]}, {False: 1, "a": 2}, 1e308, [2**63 - 1] * 4, "off", False]


def paths(node: dict[str, Any], above: str = ""):
    for name, value in node.items():
        yield f"{above}{name}"
        if isinstance(value, dict):
            yield from paths(value, f"{above}{name}.")


@pytest.mark.parametrize("group", ["data", "model", "init", "optimizer", "scheduler", "trainer"])
def test_any_value_anywhere_is_right_or_a_config_error(group: str):
    for path in paths(base("mlp")[group], f"{group}."):
        for value in NASTY:
            try:
                check(changed("mlp", {path: value}))
            except ConfigError as error:
                assert all(problem.path for problem in error.problems), str(error)


@pytest.mark.parametrize("use", [mf.plan, check], ids=["plan", "check"])
@pytest.mark.parametrize("betas", [[[0.9, 0.99]], [0.9], "x", {"a": 1}])
def test_a_wrong_argument_of_the_optimizer_is_told_by_a_plan_too(use: Any, betas: Any):
    config = changed("mlp", {"optimizer": {"_target_": "torch.optim.Adam", "lr": 0.1, "betas": betas}})
    with pytest.raises(ConfigError, match=r"^optimizer\.betas: "):
        use(config)


@pytest.mark.parametrize("shape", [[1, 8, 2**64], [1, 8, 2**63], [2**40, 2**40], [2**58]])
def test_an_input_beyond_sixty_four_bits_is_told(shape: list[int]):
    with pytest.raises(ConfigError, match=r"^data\.input_shape: .* holds 2\^58 numbers or more, whose bytes 64 bits cannot count"):
        mf.plan({"data": {"input_shape": shape}, "model": {"layers": {"fc": layer("Linear", out_features=3)}}})


COMMANDS: list[tuple[list[str], str]] = [
    (["modle.width=3"], "modle.width: there is no such key; did you mean 'model'?"),
    (["+model.widht=3"], "model.widht: is used by nothing: no ${model.widht} is in the config; did you mean 'width'?"),
    (["+model.purpose=3"], "model.purpose: is used by nothing: no ${model.purpose} is in the config; choose one of width"),
    (["data=null"], "a group is given null or a number; give the name of one of its configs, such as data=digits"),
    (["+modle={}"], "modle: not a key of the config; did you mean 'model'?"),
    (["optimizer.lr=1e-3x"], "optimizer.lr: '1e-3x' is a text; give a number >= 0"),
    (["optimizer.lr=nan"], "optimizer.lr: nan is not finite; give a number >= 0"),
    (["data=mnist"], "data.root: there is no folder data/MNIST/raw; give the folder that holds it, or data.download=true"),
    (["model.layers.fc1.out_features=-1"], "model.layers.fc1.out_features: -1 is too small; give a whole number >= 1"),
    (["model.layers.act1={_target_: os.system}"], "model.layers.act1._target_: 'os.system' is refused"),
    (["+init.rules.mine={match: 'fc9.*', scheme: zeros}"], "init.rules.mine: {match: fc9.*} picks no parameter"),
    (["model.width=${model.depht}"], "model.width: '${model.depht}' does not resolve"),
    (["+freeze.rules.all={match: '*'}"], "optimizer: there is nothing to train: every parameter of the model is frozen"),
    (["scheduler.warmup_epochs=50"], "scheduler.warmup_epochs: 50 is not less than the 20 epochs of the training"),
    (["trainer.resume=nowhere"], "trainer.resume: 'nowhere' has no checkpoint"),
    (["data.num_classes=12", "trainer.device=cpu"], "data.num_classes: 12 is not what was loaded; give 10 (classes)"),
]
IN_A_PROCESS_OF_ITS_OWN = (0, 1, 9, 11, 15)  # each costs the start of torch


@pytest.mark.parametrize(("arguments", "message"), COMMANDS, ids=[" ".join(arguments) for arguments, _ in COMMANDS])
def test_a_wrong_command_line_gives_2_and_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    if COMMANDS.index((arguments, message)) in IN_A_PROCESS_OF_ITS_OWN:
        variables = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300)
        status, out, err = done.returncode, done.stdout, done.stderr
    else:
        monkeypatch.chdir(tmp_path)
        status, (out, err) = cli.train(arguments), capsys.readouterr()
    assert status == 2, err
    assert message in err
    assert "Traceback" not in err + out
    assert list(tmp_path.iterdir()) == []
