"""Published weights: fetched by name from torchvision's and timm's own places, and loaded as these load them."""

from __future__ import annotations

import csv
import io
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import modelfactory as mf
from modelfactory.config.errors import ConfigError
from modelfactory.model.deferred_construction import construction
from tests.model.weights.serving import hashed, serving

HEAD = {"layers": {"head": {"_target_": "torch.nn.Linear", "out_features": 2}}}


def config(name: str, weights: object = "DEFAULT", size: int = 64, **more: object) -> dict:
    backbone = {"name": name, "weights": weights, **more}
    return {"backbone": backbone, "model": HEAD, "data": {"input_shape": [3, size, size]}, "init": "kaiming_normal"}


def file_of(model: nn.Module, older: tuple[str, str] | None = None) -> bytes:
    """A file of random values for a model, under older names where they are given, from when norms counted no batches."""
    generator, values = torch.Generator().manual_seed(0), {}
    for name, tensor in model.state_dict().items():
        if older is not None and name.endswith("num_batches_tracked"):
            continue
        drawn = torch.rand(tensor.shape, generator=generator) * 0.1 + 0.01 if tensor.is_floating_point() else tensor
        values[re.sub(*older, name) if older is not None else name] = drawn
    stream = io.BytesIO()
    torch.save(values, stream)
    return stream.getvalue()


PUBLISHED = [
    ("squeezenet1_1", models.SqueezeNet1_1_Weights, None),
    ("densenet121", models.DenseNet121_Weights, (r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2")),
    ("googlenet", models.GoogLeNet_Weights, None),
]


@pytest.mark.parametrize(("name", "enum", "older"), PUBLISHED, ids=[name for name, *_ in PUBLISHED])
def test_published_weights_give_what_torchvisions_own_loading_gives(name, enum, older, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with construction(0, name):
        content = file_of(getattr(models, name)(**({"init_weights": False} if name == "googlenet" else {})), older)
    with serving() as server:
        monkeypatch.setattr(enum.DEFAULT.value, "url", server.url(hashed(content, name), content))
        plan = mf.plan(config(name))
        planned = [row.name for row in plan.ledger]
        assert server.asked == 0 and f"from {hashed(content, name)} (not fetched yet)" in str(plan.pretrained)
        made = plan.materialize()
        ours, loaded = made.model.eval().backbone, [row.name for row in made.ledger]
        assert server.asked == 1 and loaded == [name for name in planned if older is None or "num_batches" not in name]
        whole = getattr(models, name)(weights="DEFAULT").eval()  # finds the file that was fetched
        assert server.asked == 1
    last = [found for found, module in whole.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    owner, _, attr = last.rpartition(".")
    setattr(whole.get_submodule(owner), attr, nn.Identity())
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(ours(x), whole(x))


def test_a_tampered_file_in_the_cache_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    with construction(0, ""):
        torch.save(models.resnet18().state_dict(), cache / "resnet18-f37072fd.pth")
    with pytest.raises(
        ConfigError, match=r"backbone.weights: .*resnet18-f37072fd.pth is not what it should be: its SHA-256 begins with"
    ):
        mf.plan(config("resnet18"))


def test_weights_that_cannot_be_fetched_are_told_when_the_model_is_built(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(models.ResNet18_Weights.DEFAULT.value, "url", "http://127.0.0.1:9/resnet18-f37072fd.pth")
    plan = mf.plan(config("resnet18"))
    with pytest.raises(
        ConfigError, match=r"backbone.weights: http.* cannot be fetched: .*; put the file at .*resnet18-f37072fd.pth"
    ):
        plan.build()


def test_a_url_with_a_declared_hash(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with construction(0, ""):
        content = file_of(models.squeezenet1_1())
    with serving() as server:
        url = server.url("weights/mine.pth", content)
        plan = mf.plan(config("squeezenet1_1", url))
        assert plan.materialize().ledger["backbone.features.0.bias"].scheme == "mine.pth:features.0.bias"
        mf.build(config("squeezenet1_1", url, sha256=hashed(content).split("-")[1][:8]))
        with pytest.raises(ConfigError, match="is not what it should be"):
            mf.build(config("squeezenet1_1", url, sha256="0" * 8))
        assert server.asked == 1


def test_timms_own_weights_are_loaded_by_timm(tmp_path, monkeypatch):
    timm = pytest.importorskip("timm")
    constants = pytest.importorskip("huggingface_hub.constants")
    with construction(0, ""):
        theirs = timm.create_model("resnet10t", pretrained=False)
    values = {
        name: torch.rand_like(tensor) if tensor.is_floating_point() else tensor for name, tensor in theirs.state_dict().items()
    }
    folder = tmp_path / "models--timm--resnet10t.c3_in1k"  # the hub's own cache, as a download leaves it
    for path, text in (("refs/main", "abc"), ("snapshots/abc/config.json", "{}")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    save_file(values, folder / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = torch.get_rng_state()
    plan = mf.plan(config("timm/resnet10t", True))
    made = plan.materialize()
    built = made.model.state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(built[f"backbone.{name}"], value) for name, value in values.items() if not name.startswith("fc."))
    row = made.ledger["backbone.conv1.0.weight"]
    assert (row.origin, row.scheme) == ("pretrained", "timm/resnet10t.c3_in1k:conv1.0.weight")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nothing"))
    told = "backbone.weights: timm's weights of resnet10t cannot be had from the model timm/resnet10t.c3_in1k of Hugging Face: .*its path"
    with pytest.raises(ConfigError, match=told):
        mf.build(config("timm/resnet10t", True))


def test_a_run_on_a_folder_of_images_with_the_weights_own_preprocessing(tmp_path, monkeypatch):
    from tests.data.test_vision import write_images

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    write_images(tmp_path / "images")
    with construction(0, ""):
        content = file_of(models.squeezenet1_1())
    with serving() as server:
        url = server.url(hashed(content, "squeezenet1_1"), content)
        monkeypatch.setattr(models.SqueezeNet1_1_Weights.DEFAULT.value, "url", url)
        backbone = ("backbone=squeezenet1_1", "backbone.weights=DEFAULT", "model=linear_head")
        data = (
            "data=image_folder",
            f"data.root={tmp_path / 'images'}",
            "data.transforms=backbone",
            "data.num_classes=2",
            "data.num_workers=0",
        )
        short = ("trainer=debug", "trainer.device=cpu", "trainer.progress=none", "trainer.signal=none", "trainer.precision=fp32")
        result = mf.train(mf.compose(*backbone, *data, *short), run_dir=tmp_path / "run")
    assert result.status == "completed"
    row = (tmp_path / "run" / "ledger.csv").read_text().splitlines()[1]
    assert (
        row.startswith("backbone.features.0.weight,64x3x3x3,") and f"{hashed(content, 'squeezenet1_1')}:features.0.weight" in row
    )


@pytest.mark.slow
def test_the_transfer_experiment_runs_on_a_folder_of_images_and_leaves_the_backbone_as_it_was_published(tmp_path, monkeypatch):
    from tests.data.test_vision import write_images

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    write_images(tmp_path / "images")
    with construction(0, ""):
        content = file_of(models.resnet18())
    cached = tmp_path / "home" / "hub" / "checkpoints" / hashed(content, "resnet18")
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    monkeypatch.setattr(models.ResNet18_Weights.DEFAULT.value, "url", f"http://127.0.0.1:9/{cached.name}")  # nothing answers
    data = ("data=image_folder", f"data.root={tmp_path / 'images'}", "data.num_classes=2", "data.transforms=backbone")
    short = ("data.num_workers=0", "trainer.max_epochs=2", "trainer.device=cpu", "trainer.progress=none", "trainer.signal=none")
    result = mf.train(mf.compose("experiment=transfer_resnet18", *data, *short), run_dir=tmp_path / "run")
    assert (result.status, result.final["epoch"]) == ("completed", 2)
    published = torch.load(io.BytesIO(content), weights_only=True)
    left = mf.load(tmp_path / "run").state_dict()
    assert all(torch.equal(left[f"backbone.{name}"], value) for name, value in published.items() if not name.startswith("fc."))
    with (tmp_path / "run" / "ledger.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["role"] != "buffer"]
    trained = {row["name"]: row["scheme"] for row in rows if row["trainable"] == "true"}
    assert list(trained.values()) == ["xavier_uniform", "zeros"] * 2
    assert {row["origin"] for row in rows if row["name"] not in trained} == {"pretrained"}
