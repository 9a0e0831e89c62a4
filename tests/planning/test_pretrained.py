"""Backbones in whole models: where their values come from, what may overwrite them, and what is left of a file."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

import modelfactory as mf
from modelfactory.config.compose import to_plain
from modelfactory.config.errors import ConfigError

NAME = "squeezenet1_1"  # 50 tensors and 2.8 MB, convolutions with biases
LINEAR = {"head": {"_target_": "torch.nn.Linear", "out_features": 3}}


def theirs(name: str = NAME, seed: int = 1, **arguments: Any) -> nn.Module:
    """A whole model of torchvision with random values everywhere, statistics of norms too."""
    model = getattr(models, name)(weights=None, **arguments)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.1 + 0.01)
    return model


def saved(folder: Path, model: nn.Module, file: str = "w.pth") -> str:
    torch.save(model.state_dict(), folder / file)
    return str(folder / file)


def config(weights: Any = None, name: str = NAME, shape: tuple[int, ...] = (3, 64, 64), **more: Any) -> dict[str, Any]:
    groups = {key: more.pop(key) for key in ("init", "freeze", "model", "optimizer", "trainer", "data") if key in more}
    base = {"model": {"layers": LINEAR}, "data": {"input_shape": list(shape)}, "init": "kaiming_normal", "seed": 3}
    return {**base, "backbone": {"name": name, "weights": weights, **more}, **groups}


def test_a_pretrained_backbone_has_the_files_values_and_its_head_is_drawn(tmp_path: Path):
    model = theirs("resnet18")
    plan = mf.plan(config(saved(tmp_path, model), "resnet18"))
    built = plan.build()
    state = built.state_dict()
    for name, value in model.state_dict().items():
        if not name.startswith("fc."):
            assert torch.equal(state.pop(f"backbone.{name}"), value), name
    assert list(state) == ["head.weight", "head.bias"] and state["head.weight"].shape == (3, 512)
    model.fc, head = nn.Identity(), built.head
    built.eval(), model.eval()
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(built(x), head(model(x)))


def test_the_ledger_names_file_and_tensor_of_each_parameter_and_buffer(tmp_path: Path):
    plan = mf.plan(config(saved(tmp_path, theirs("resnet18")), "resnet18"))
    planned = {row.name: row for row in plan.ledger}
    rows = {row.name: row for row in plan.materialize().ledger}
    assert planned.keys() == rows.keys() and len(rows) == 122
    conv, mean, head = rows["backbone.conv1.weight"], rows["backbone.bn1.running_mean"], rows["head.weight"]
    assert (conv.origin, conv.rule, conv.scheme) == ("pretrained", "backbone.weights", "w.pth:conv1.weight")
    assert (mean.origin, mean.role, mean.scheme, mean.trainable) == ("pretrained", "buffer", "w.pth:bn1.running_mean", False)
    assert (head.origin, head.scheme) == ("rule", "kaiming_normal")
    assert conv.mean == pytest.approx(0.06, abs=0.01) and mean.mean == pytest.approx(0.06, abs=0.01)
    assert "120 of 120 tensors and 42.7 of 42.7 MiB (100 %) from w.pth, 2 of its tensors left out" in str(plan.pretrained)


def test_another_seed_moves_the_head_alone(tmp_path: Path):
    weights = saved(tmp_path, theirs())
    one, other = (mf.build({**config(weights), "seed": seed}).state_dict() for seed in (0, 1))
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    assert differing == ["head.weight"]


@pytest.mark.parametrize("init", ["kaiming_normal", "zeros", "orthogonal", None])
def test_broad_rules_leave_what_is_pretrained_alone(tmp_path: Path, init: str | None):
    model = theirs()
    built = mf.build(config(saved(tmp_path, model), init=init)).state_dict()
    assert all(torch.equal(built[f"backbone.{n}"], v) for n, v in model.state_dict().items() if not n.startswith("classifier"))


def test_a_rule_that_names_only_what_is_pretrained_is_an_error_unless_it_says_reinit(tmp_path: Path):
    weights = saved(tmp_path, theirs())
    rules = {"all": {"match": "*", "scheme": "default"}, "mine": {"match": "backbone.features.0.weight", "scheme": "zeros"}}
    with pytest.raises(ConfigError) as caught:
        mf.plan(config(weights, init={"rules": rules}))
    assert str(caught.value) == (
        "init.rules.mine: picks backbone.features.0.weight: pretrained, and never overwritten unless the rule says reinit: true"
    )
    kept = mf.build(config(weights, init={"rules": {"all": rules["all"]}})).state_dict()
    rules["mine"]["reinit"] = True
    made = mf.plan(config(weights, init={"rules": rules})).materialize()
    built = made.model.state_dict()
    assert [name for name in built if not torch.equal(built[name], kept[name])] == ["backbone.features.0.weight"]
    assert not built["backbone.features.0.weight"].any()
    row = made.ledger["backbone.features.0.weight"]
    assert (row.origin, row.rule, row.scheme) == ("rule", "mine", "zeros")


def test_a_rule_by_name_that_also_picks_what_is_drawn_leaves_the_pretrained_alone(tmp_path: Path):
    rules = {
        "all": {"match": "*", "scheme": "default"},
        "mine": {"match": ["backbone.features.0.*", "head.*"], "scheme": "zeros"},
    }
    model = theirs()
    built = mf.build(config(saved(tmp_path, model), init={"rules": rules}))
    assert torch.equal(built.backbone.features[0].weight, model.features[0].weight) and not built.head.weight.any()


def test_a_stage_drawn_again_is_as_it_would_be_without_weights_statistics_too(tmp_path: Path):
    rules = {
        "all": {"match": "*", "scheme": "default"},
        "again": {"match": "backbone.layer4.*", "scheme": "default", "reinit": True},
    }
    weights = saved(tmp_path, theirs("resnet18"))
    made = mf.plan(config(weights, "resnet18", init={"rules": rules})).materialize()
    built, kept, fresh = (
        made.model.state_dict(),
        mf.build(config(weights, "resnet18")).state_dict(),
        mf.build(config(None, "resnet18", init=None)).state_dict(),
    )
    for name, value in built.items():
        again = name.startswith("backbone.layer4.")
        assert torch.equal(value, (fresh if again else kept)[name]) or name.startswith("head."), name
    assert "backbone.layer4.0.bn1.running_mean" not in [row.name for row in made.ledger]
    with pytest.raises(ConfigError, match="15 parameters of the backbone are frozen and were never trained"):
        mf.plan(config(weights, "resnet18", init={"rules": rules}, freeze={"rules": {"body": {"match": "backbone.*"}}}))


def test_part_of_an_existing_model_is_initialised_again_and_the_rest_is_bit_identical(tmp_path: Path):
    model = mf.build(config(saved(tmp_path, theirs())))
    before = copy.deepcopy(model.state_dict())
    ledger = mf.initialize(model, {"match": "backbone.features.12.*", "scheme": "xavier_normal", "reinit": True}, seed=0)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == [row.name for row in ledger] and len(changed) == 6


def test_a_training_step_on_mapped_weights_never_changes_the_file(tmp_path: Path):
    from safetensors.torch import save_file

    model = theirs()
    for file in ("w.safetensors", "w.pth"):
        path = tmp_path / file
        save_file(model.state_dict(), path) if path.suffix == ".safetensors" else torch.save(model.state_dict(), path)
        before = path.read_bytes()
        plan = mf.plan(config(str(path)))
        one, other = plan.build(), plan.build()
        mapped = Path("/proc/self/maps")
        if mapped.exists():
            assert str(path) in mapped.read_text()
        optimizer = torch.optim.SGD(one.parameters(), lr=1.0)
        one(torch.rand(2, 3, 64, 64)).sum().backward()
        optimizer.step()
        assert path.read_bytes() == before
        assert not torch.equal(one.backbone.features[0].weight, model.features[0].weight)
        assert torch.equal(other.backbone.features[0].weight, model.features[0].weight)
        assert torch.equal(plan.build().backbone.features[0].weight, model.features[0].weight)


def test_nothing_pretrained_is_drawn(tmp_path: Path):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Draws(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if torch.Tag.nondeterministic_seeded in func.tags and not str(func).startswith("aten.empty"):
                self.count += args[0].numel()
            return func(*args, **(kwargs or {}))

    weights = saved(tmp_path, theirs("resnet18"))
    plan = mf.plan(config(weights, "resnet18"))
    with Draws() as draws:
        plan.build()
    assert draws.count == 3 * 512


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("stem", ["sum", "repeat"])
def test_a_stem_of_other_channels_is_made_of_the_pretrained_one(tmp_path: Path, channels: int, stem: str):
    model = theirs()
    plan = mf.plan(config(saved(tmp_path, model), shape=(channels, 64, 64), stem=stem))
    weight, old = plan.build().backbone.features[0].weight, model.features[0].weight
    expected = (old.sum(1, keepdim=True) / channels).expand(-1, channels, -1, -1)
    if stem == "repeat":
        expected = old.repeat(1, 2, 1, 1)[:, :channels] * (3 / channels)
    assert torch.allclose(weight, expected, rtol=1e-6)
    assert plan.ledger["backbone.features.0.weight"].scheme == f"w.pth:features.0.weight ({stem})"
    if (channels == 1) == (stem == "sum"):
        adapt = pytest.importorskip("timm").models.adapt_input_conv
        assert torch.allclose(weight, adapt(channels, old.detach().clone()), rtol=1e-6)


def test_other_channels_without_a_declared_stem_are_an_error(tmp_path: Path):
    with pytest.raises(
        ConfigError, match=r"64x3x3x3 in the file and 64x1x3x3 here \(backbone.stem: sum or repeat would make it fit\)"
    ):
        mf.plan(config(saved(tmp_path, theirs()), shape=(1, 64, 64)))
    with pytest.raises(ConfigError, match="backbone.stem: missing: the weights are of 3 input channels and 1 come in"):
        mf.plan(config("DEFAULT", shape=(1, 64, 64)))
    assert mf.build(config(shape=(1, 64, 64)))(torch.zeros(1, 1, 64, 64)).shape == (1, 3)


def test_features_leave_where_output_says_and_nothing_after_is_built(tmp_path: Path):
    layers = {
        "pool": {"_target_": "torch.nn.AdaptiveAvgPool2d", "output_size": 1},
        "flatten": {"_target_": "torch.nn.Flatten"},
        **LINEAR,
    }
    model = theirs("resnet18").eval()
    built = mf.build(config(saved(tmp_path, model), "resnet18", output="layer2", model={"layers": layers})).eval()
    names = list(built.backbone.state_dict())
    assert names == [name for name in model.state_dict() if name.startswith(("conv1", "bn1", "layer1", "layer2"))]
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(built.backbone(x), model.layer2(model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(x)))))))
    assert built.head.in_features == 128


@pytest.mark.parametrize("output", [None, "features.5"])
def test_what_is_built_is_a_plain_module(tmp_path: Path, output: str | None):
    layers = {
        "pool": {"_target_": "torch.nn.AdaptiveAvgPool2d", "output_size": 1},
        "flatten": {"_target_": "torch.nn.Flatten"},
        **LINEAR,
    }
    model = {"layers": LINEAR if output is None else layers}
    built = mf.build(config(saved(tmp_path, theirs()), output=output, model=model)).eval()
    x = torch.rand(2, 3, 64, 64)
    expected = built(x)
    for other in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        assert torch.equal(other(x), expected) and list(other.state_dict()) == list(built.state_dict())
        assert other.train().training and other.backbone.training
    exported = torch.export.export(built, (x,)).module()
    assert torch.allclose(exported(x), expected, atol=1e-6)
    compiled = torch.compile(built, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(x), expected, atol=1e-6)


def test_frozen_at_random_is_an_error_unless_it_is_meant():
    freeze = {"rules": {"body": {"match": "backbone.*"}}}
    with pytest.raises(ConfigError) as caught:
        mf.plan(config(freeze=freeze))
    assert str(caught.value).startswith(
        "backbone.allow_random: 50 parameters of the backbone are frozen and were never trained (backbone.features.0.weight, "
    )
    built = mf.build(config(freeze=freeze, allow_random=True))
    assert [name for name, parameter in built.named_parameters() if parameter.requires_grad] == ["head.weight", "head.bias"]


def test_a_backbone_in_the_grammar_takes_the_weights_of_a_run(tmp_path: Path):
    small = ("model=cnn", "model.width=4", "trainer=debug", "trainer.device=cpu", "trainer.progress=none", "trainer.signal=none")
    mf.train(mf.compose(*small), run_dir=tmp_path / "first")
    cfg = to_plain(mf.compose(*small))
    layers = {name: layer for name, layer in cfg["model"]["layers"].items() if name != "head"}
    cfg["backbone"] = {"layers": layers, "weights": str(tmp_path / "first"), "allow": {"unexpected": ["head.*"]}}
    cfg["model"] = {"layers": LINEAR}
    cfg["data"]["num_classes"] = None
    made, first = mf.plan(cfg).materialize(), mf.load(tmp_path / "first")
    built = made.model
    assert torch.equal(built.backbone.conv2.weight, first.conv2.weight)
    assert torch.equal(built.backbone.norm1.running_mean, first.norm1.running_mean)
    assert made.ledger["backbone.conv1.weight"].scheme == "first/model.safetensors:conv1.weight"
    cfg["backbone"]["allow"] = {}
    with pytest.raises(ConfigError, match=r"unexpected \(2\): head.bias \[10\], head.weight \[10x16\]"):
        mf.plan(cfg)


def test_a_run_is_loaded_resumed_and_carried_on_from_without_its_weights_file(tmp_path: Path):
    weights = tmp_path / "w.pth"
    saved(tmp_path, theirs())
    overrides = (
        "model=linear_head",
        f"backbone={NAME}",
        f"backbone.weights={weights}",
        "backbone.stem=sum",
        "trainer.device=cpu",
    )
    once = ("trainer.limit_batches=1", "trainer.progress=none", "trainer.signal=none", "data.batch_size=8")
    data = ("data=fake", "data.input_shape=[1,32,32]", "data.num_samples=16", "data.num_val_samples=8")
    whole = mf.train(mf.compose(*overrides, *once, *data, "trainer.max_epochs=2"), run_dir=tmp_path / "whole")
    mf.train(mf.compose(*overrides, *once, *data, "trainer.max_epochs=1"), run_dir=tmp_path / "half")
    resumed = mf.train(
        mf.compose(*overrides, *once, *data, "trainer.max_epochs=2", f"trainer.resume={tmp_path / 'half'}"),
        run_dir=tmp_path / "half",
    )
    assert resumed.final["train_loss"] == whole.final["train_loss"] and resumed.final["val_loss"] == whole.final["val_loss"]
    weights.unlink()
    loaded = mf.load(tmp_path / "half")
    best = mf.load(tmp_path / "whole")
    assert all(
        torch.equal(one, other) for one, other in zip(loaded.state_dict().values(), best.state_dict().values(), strict=True)
    )
    further = mf.plan(config(str(tmp_path / "half"), shape=(1, 32, 32))).materialize()
    assert torch.equal(further.model.backbone.features[0].weight, loaded.backbone.features[0].weight)
    assert further.ledger["backbone.features.0.bias"].scheme == "half/model.safetensors:backbone.features.0.bias"
    with pytest.raises(ConfigError, match="backbone.weights: there is no file .*w.pth"):
        mf.plan(mf.compose(*overrides, *data))


def test_what_another_runs_backbone_was_built_with_has_to_be_said(tmp_path: Path):
    from modelfactory.training.checkpoint import save_weights

    first = config(shape=(3, 64, 64), arguments={"dropout": 0.1})
    save_weights(tmp_path / "run" / "model.safetensors", mf.build(first), first)
    with pytest.raises(ConfigError) as caught:
        mf.plan(config(str(tmp_path / "run")))
    assert (
        str(caught.value)
        == "backbone.arguments.dropout: missing: run/model.safetensors was trained with 0.1; give that, or another"
    )
    mf.plan(config(str(tmp_path / "run"), arguments={"dropout": 0.5}))


def test_values_of_a_file_that_are_not_finite_are_told(tmp_path: Path):
    model = theirs()
    with torch.no_grad():
        model.features[3].squeeze.weight[0] = torch.nan
    with pytest.raises(ConfigError) as caught:
        mf.build(config(saved(tmp_path, model)))
    assert str(caught.value) == (
        "backbone.weights: 1 tensors hold values that are not finite: w.pth:features.3.squeeze.weight; take another file"
    )


def test_weights_in_half_precision_become_the_models(tmp_path: Path):
    model = theirs()
    torch.save({name: value.half() for name, value in model.state_dict().items()}, tmp_path / "half.pt")
    built = mf.build(config(str(tmp_path / "half.pt"))).backbone.features[0].weight
    assert built.dtype is torch.float32 and torch.equal(built, model.features[0].weight.half().float())


def test_tensors_that_share_memory_in_a_file_do_not_in_the_model(tmp_path: Path):
    state = theirs().state_dict()
    one = "features.3.expand1x1.bias"
    state["features.4.expand1x1.bias"] = state[one]
    torch.save(state, tmp_path / "w.pt")
    built = mf.build(config(str(tmp_path / "w.pt")))
    with torch.no_grad():
        built.backbone.features[3].expand1x1.bias.zero_()
    assert torch.equal(built.backbone.features[4].expand1x1.bias, state[one])


def test_what_a_partial_load_leaves_is_drawn_by_the_rules(tmp_path: Path):
    model = theirs()
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("features.12.")}
    state["features.0.weight"], state["extra"] = torch.zeros(64, 3, 5, 5), torch.zeros(2)
    torch.save(state, tmp_path / "part.pt")
    allow = {"missing": ["features.12.*"], "unexpected": ["extra"], "reshape": ["features.0.weight"]}
    plan = mf.plan(config(str(tmp_path / "part.pt"), allow=allow))
    built, fresh = plan.build().state_dict(), mf.build(config()).state_dict()
    drawn = [row.name for row in plan.ledger if row.origin != "pretrained" and row.name.startswith("backbone.")]
    assert drawn == ["backbone.features.0.weight", *(name for name in fresh if name.startswith("backbone.features.12."))]
    assert all(torch.equal(built[name], fresh[name]) for name in drawn)
    assert torch.equal(built["backbone.features.3.squeeze.weight"], model.features[3].squeeze.weight)
    assert "43 of 50 tensors" in str(plan.pretrained) and "3 of its tensors left out" in str(plan.pretrained)


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator")
def test_pretrained_values_are_the_same_on_an_accelerator(tmp_path: Path):
    model = theirs()
    built = mf.build(config(saved(tmp_path, model)), device=torch.accelerator.current_accelerator())
    assert torch.equal(built.backbone.features[0].weight.cpu(), model.features[0].weight)
    built(torch.rand(2, 3, 64, 64, device=built.head.weight.device)).sum().backward()


def test_without_the_extra_models_of_timm_are_told_to_need_it(monkeypatch: pytest.MonkeyPatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"backbone.name: 'timm/resnet18' needs timm: pip install modelfactory\[timm\]"):
        mf.plan(config(name="timm/resnet18"))
