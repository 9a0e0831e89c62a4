"""The samples of a batch stay apart, or the plan says where they do not."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import modelfactory as mf
from modelfactory.config import target
from modelfactory.config.errors import ConfigError
from modelfactory.model import samples


@pytest.fixture(autouse=True)
def this_module_trusted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(target, "_TRUSTED", {__name__})


def layer(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": name if "." in name else f"torch.nn.{name}", **arguments}


def own(name: str, **arguments: Any) -> dict[str, Any]:
    return layer(f"{__name__}.{name}", **arguments)


def config(model: dict[str, Any], shape: tuple[int, ...] = (9, 8), **data: Any) -> dict[str, Any]:
    return {"data": {"input_shape": list(shape), "num_classes": 4, **data}, "model": model}


def chain(**layers: Any) -> dict[str, Any]:
    return {"layers": {**layers, "head": layer("Linear", out_features=4)}}


MEAN = layer("modelfactory.Reduce", dim=1)
ENCODER = layer("TransformerEncoderLayer", d_model=8, nhead=2, dim_feedforward=12)
WITH_BATCH_FIRST = {
    "LSTM": layer("LSTM", hidden_size=6, output=0),
    "GRU": layer("GRU", hidden_size=6, output=0, bidirectional=True),
    "RNN": layer("RNN", hidden_size=6, output=0),
    "MultiheadAttention": layer("MultiheadAttention", num_heads=2, output=0),
    "TransformerEncoderLayer": layer("TransformerEncoderLayer", nhead=2, dim_feedforward=12),
    "TransformerEncoder": layer("TransformerEncoder", num_layers=2, encoder_layer=ENCODER, enable_nested_tensor=False),
}


class Turning(nn.LSTM):
    """A class of one's own that hands its arguments on."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)

    def forward(self, input: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(input)[0]


OWN_BATCH_FIRST = {"Turning": own("Turning", input_size=8, hidden_size=6)}


@pytest.mark.parametrize("name", [*WITH_BATCH_FIRST, *OWN_BATCH_FIRST])
def test_a_sample_gives_the_same_alone_and_in_a_batch(name: str):
    model = mf.build(config(chain(mix=(WITH_BATCH_FIRST | OWN_BATCH_FIRST)[name], mean=MEAN))).eval()
    x = torch.randn(5, 9, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.allclose(model(x)[2], model(x[2:3])[0], atol=1e-5)
        assert not torch.allclose(model(x)[2], model(x)[3], atol=1e-3)


@pytest.mark.parametrize("name", [*WITH_BATCH_FIRST, *OWN_BATCH_FIRST])
@pytest.mark.parametrize("use", [mf.plan, mf.build], ids=["plan", "build"])
def test_batch_first_false_is_refused_with_its_path(use: Any, name: str):
    given = {**(WITH_BATCH_FIRST | OWN_BATCH_FIRST)[name]}
    path = "model.layers.mix.batch_first"
    if name == "TransformerEncoder":
        given["encoder_layer"] = {**ENCODER, "batch_first": False}
        path = "model.layers.mix.encoder_layer.batch_first"
    else:
        given["batch_first"] = False
    message = f"^{path}: False would make the batch's dimension that of time, and mix its samples; leave it out$"
    with pytest.raises(ConfigError, match=message):
        use(config(chain(mix=given, mean=MEAN)))


def test_batch_first_true_may_be_said():
    mf.plan(config(chain(mix=layer("LSTM", hidden_size=6, output=0, batch_first=True), mean=MEAN)))


# layers of torch that mix what comes in: [shape of a sample], layers, the error
PERMUTE = layer("modelfactory.Permute", dims=[1, 0, 2])
MIXING: dict[str, tuple[tuple[int, ...], dict[str, Any], str]] = {
    "an LSTM of vectors": ((8,), {"mix": WITH_BATCH_FIRST["LSTM"]}, "mix: LSTM makes each sample .* lstm takes the batch for time"),
    "attention of vectors": (
        (8,),
        {"mix": WITH_BATCH_FIRST["MultiheadAttention"]},
        "mix: MultiheadAttention makes .* attention takes the batch",
    ),
    "an encoder of vectors": (
        (8,),
        {"mix": WITH_BATCH_FIRST["TransformerEncoderLayer"]},
        "mix: TransformerEncoderLayer makes .* attention",
    ),
    "a softmax over the batch": ((8,), {"mix": layer("Softmax", dim=0)}, r"mix: Softmax makes .* works along the batch, in \[N, 8\]"),
    "a softmax from the other end": ((9, 8), {"mix": layer("LogSoftmax", dim=-3), "mean": MEAN}, "mix: LogSoftmax makes"),
    "a mean over the batch": ((9, 8), {"mix": layer("modelfactory.Reduce", dim=0)}, "mix: Reduce makes .* mean takes samples together"),
    "one sample of all": ((9, 8), {"mix": layer("modelfactory.Select", dim=0)}, "head: .*|mix: .*"),
    "recurrence after a permute": (
        (9, 8),
        {"there": PERMUTE, "mix": WITH_BATCH_FIRST["GRU"], "back": PERMUTE, "mean": MEAN},
        r"mix: GRU makes .* gru takes the batch for time, in \[9, N, 8\]",
    ),
    "in a block that is repeated": (
        (8,),
        {"blocks": {"repeat": 5, "layers": {"fc": layer("Linear", out_features=8), "mix": layer("Softmax", dim=0)}}},
        "blocks.layers.mix: Softmax makes",
    ),
    "in a residual": (
        (8,),
        {"block": layer("modelfactory.Residual", layers={"mix": layer("Softmax", dim=0)})},
        "block.layers.mix: Softmax makes",
    ),
    "two samples and no more": (
        (72,),
        {"flat": layer("Flatten", start_dim=0), "two": layer("Unflatten", dim=0, unflattened_size=[2, 72])},
        "two: takes a batch of 2 and not one of 1009, so it depends on their number",
    ),
}


@pytest.mark.parametrize("what", MIXING)
@pytest.mark.parametrize("use", [mf.plan, mf.build], ids=["plan", "build"])
def test_layers_that_mix_samples_are_refused_with_the_path(use: Any, what: str):
    shape, layers, message = MIXING[what]
    with pytest.raises(ConfigError, match=rf"^model\.layers\.({message})"):
        use(config(chain(**layers), shape))


def test_layers_of_a_backbone_are_looked_at_too():
    mixing = {"layers": {"fc": layer("Linear", out_features=6), "mix": layer("Softmax", dim=0)}}
    with pytest.raises(ConfigError, match=r"^backbone\.layers\.mix: Softmax makes"):
        mf.plan({**config(chain(), (8,)), "backbone": mixing})


FINE: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "batch norm": ((6, 4, 4), {"norm": layer("BatchNorm2d", track_running_stats=False), "flat": layer("Flatten")}),
    "there and back": ((9, 8), {"there": PERMUTE, "fc": layer("Linear", out_features=8), "back": PERMUTE, "mean": MEAN}),
    "a last state": ((9, 8), {"gru": layer("GRU", hidden_size=6, output=1), "last": layer("modelfactory.Select", dim=0)}),
    "dropout and norms": (
        (6, 4, 4),
        {"a": layer("InstanceNorm2d"), "b": layer("GroupNorm", num_groups=2), "c": layer("Dropout2d"), "d": layer("Flatten")},
    ),
    "padding and shuffles": (
        (4, 6, 6),
        {"a": layer("ZeroPad2d", padding=1), "b": layer("PixelShuffle", upscale_factor=2), "c": layer("Flatten")},
    ),
    "a softmax of each": ((9, 8), {"a": layer("Softmax", dim=-1), "b": MEAN}),
    "an embedding": ((9,), {"a": layer("Identity"), "b": layer("Unflatten", dim=1, unflattened_size=[3, 3]), "c": layer("Flatten")}),
}


@pytest.mark.parametrize("what", FINE)
def test_layers_that_keep_samples_apart_are_not_told_of(what: str):
    shape, layers = FINE[what]
    assert not mf.plan(config(chain(**layers), shape)).warnings


@pytest.mark.parametrize("model", ["mlp", "cnn", "lstm", "vit", "resnet", "deep_residual"])
def test_the_models_that_come_with_it_need_not_be_followed(model: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(samples, "BatchAxis", None)
    mf.build(mf.compose(f"model={model}"))


class Recurrent(nn.Module):
    def __init__(self, size: int = 8, width: int = 6, turned: bool = False):
        super().__init__()
        self.lstm, self.head, self.turned = nn.LSTM(size, width), nn.Linear(width, 8), turned

    def forward(self, x: Tensor) -> Tensor:
        out = self.lstm(x.transpose(0, 1))[0].transpose(0, 1) if self.turned else self.lstm(x)[0]
        return self.head(out).mean(1)


class Encoding(nn.Module):
    def __init__(self, size: int = 8, depth: int = 1, first: bool = False):
        super().__init__()
        block = nn.TransformerEncoderLayer(size, 2, 4 * size, batch_first=first)
        self.encoder = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x).mean(1)


class Ids(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.gru = nn.Embedding(50, 8), nn.GRU(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.embedding(x))[0].mean(1)


class Contrast(nn.Module):
    """Compares the samples of a batch, which is meant."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ x.flatten(1).T


class Stable(nn.Module):
    """Subtracts the largest number of the batch, which makes no difference."""

    def forward(self, x: Tensor) -> Tensor:
        powers = (x - x.max()).exp()
        return (powers / powers.sum(-1, keepdim=True)).mean(1)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(9, track_running_stats=False), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(x)).mean(1)


class AsksForValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while x.norm() < 1e9:  # for ever, for zeros
            x = x * 1.0
        return x.mean(1)


class OfTwo(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 9, 8).mean(1)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + torch.randn_like(x) + random.random()).mean(1)


class Counting(nn.Module):
    """Keeps statistics of what it sees, and uses none."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.mul_(0.9).add_(x.mean((0, 1)) * 0.1)
        return x.mean(1)


class Raising(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 512:
            raise ValueError("at most 512 at once")
        return x.mean(1)


MIXED = {
    "an LSTM": (own("Recurrent"), r"in lstm \(LSTM\) lstm takes the batch for time, in \[N, 9, 8\]\. .* batch_first=True"),
    "an encoder": (own("Encoding"), r"in encoder\.layers\.0\.self_attn \(MultiheadAttention\) attention takes the batch"),
    "similarities": (own("Contrast"), r"in Contrast matmul pairs the samples, in \[N, 72\]$"),
}


@pytest.mark.parametrize("what", MIXED)
def test_a_module_of_ones_own_that_mixes_samples_is_warned_of(what: str):
    model, message = MIXED[what]
    (warning,) = mf.plan(config(model)).warnings
    name = model["_target_"].rpartition(".")[2]
    assert warning.startswith(f"model: what {name} gives for a sample depends on the others of its batch, N: ")
    assert re.search(message, warning)


def test_one_among_layers_is_warned_of_at_its_path():
    (warning,) = mf.plan(config(chain(own=own("Recurrent")))).warnings
    assert warning.startswith(
        "model.layers.own: what Recurrent gives for a sample depends on the others of its batch, N: in own.lstm (LSTM)"
    )


def test_one_that_takes_numbers_of_a_vocabulary_is_warned_of():
    (warning,) = mf.plan(config(own("Ids"), (9,), input_dtype="int64")).warnings
    assert "gru takes the batch for time" in warning


APART = ["Stable", "Normed", "AsksForValues", "OfTwo", "Noisy", "Counting", "Raising"]


@pytest.mark.parametrize(
    "model", [own("Recurrent", turned=True), own("Encoding", first=True), *map(own, APART)], ids=lambda model: model["_target_"]
)
def test_a_module_of_ones_own_that_does_not_is_left_alone(model: dict[str, Any]):
    assert not any("batch" in warning for warning in mf.plan(config(model)).warnings)


def test_looking_changes_no_random_state():
    torch_state, python_state = torch.random.get_rng_state(), random.getstate()
    warnings = [mf.plan(config(own("Recurrent"))).warnings for _ in range(2)]
    assert warnings[0] == warnings[1] and torch.equal(torch_state, torch.random.get_rng_state()) and random.getstate() == python_state


def test_a_large_module_is_judged_without_memory(monkeypatch: pytest.MonkeyPatch):
    def never(*_: object) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(samples, "_computed", never)
    large = config(own("Encoding", size=4096, depth=24), (2048, 4096))
    (warning,) = mf.plan(large).warnings
    assert "attention takes the batch" in warning
    assert not mf.plan(config(own("Encoding", size=4096, depth=24, first=True), (2048, 4096))).warnings


def test_a_run_is_refused_before_it_begins(tmp_path):
    whole = {
        **mf.compose("trainer.device=cpu", "trainer.progress=none"),
        "model": chain(flat=layer("Flatten"), mix=layer("Softmax", dim=0)),
    }
    with pytest.raises(ConfigError, match=r"^model\.layers\.mix: Softmax makes"):
        mf.train(whole, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_warning_is_told_by_the_plan_and_by_a_build():
    plan = mf.plan(config(chain(own=own("Recurrent"))))
    assert "depends on the others of its batch" in " ".join(str(plan).split())
    assert any("depends on the others of its batch" in warning for warning in plan.materialize().warnings)
