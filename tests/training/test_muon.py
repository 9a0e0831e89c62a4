"""Muon beside AdamW as one optimizer, against torch's own two."""

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.training import muon
from modelfactory.training.muon import Muon, orthogonal_update
from modelfactory.training.optimizer import build_optimizer
from modelfactory.training.training_spec import training_spec

torchs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon of its own")


@torchs_muon
@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("shape", [(20, 12), (12, 20), (8, 8)])
@pytest.mark.parametrize("nesterov", [True, False])
def test_it_moves_matrices_as_torchs_muon_and_the_rest_as_torchs_adamw(adjust, shape, nesterov, monkeypatch):
    monkeypatch.setattr(muon, "precision_on", lambda device: torch.bfloat16)  # torch's has no other
    draw = torch.Generator().manual_seed(0)
    start = torch.randn(shape, generator=draw), torch.randn(7, generator=draw)
    ours, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    mine = Muon([{"params": ours[:1], "muon": True}, {"params": ours[1:]}], lr=0.02, nesterov=nesterov, adjust_lr=adjust)
    others = (
        torch.optim.Muon(theirs[:1], lr=0.02, nesterov=nesterov, adjust_lr_fn=adjust),
        torch.optim.AdamW(theirs[1:], lr=0.02, weight_decay=0.1, betas=(0.9, 0.95)),
    )
    for _ in range(5):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=draw)
            b.grad = a.grad.clone()
        mine.step()
        for each in others:
            each.step()
    assert torch.equal(ours[0], theirs[0]) and torch.allclose(ours[1], theirs[1], atol=1e-7)


def test_its_update_is_nearly_orthogonal_whatever_the_gradient():
    draw = torch.Generator().manual_seed(0)
    for shape in ((32, 8), (8, 32)):
        values = torch.linalg.svdvals(orthogonal_update(torch.randn(shape, generator=draw) * 1e-3).float())
        assert 0.6 < values.min() and values.max() < 1.25


def test_the_cpus_precision_gives_the_same_update_to_that_of_bfloat16(monkeypatch):
    gradient = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    exact = orthogonal_update(gradient)
    monkeypatch.setattr(muon, "precision_on", lambda device: torch.bfloat16)
    assert (orthogonal_update(gradient) - exact).norm() < 0.03 * exact.norm() and exact.dtype == torch.float32


def test_a_kernel_moves_as_the_matrix_that_it_is():
    weight = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    kernel, matrix = nn.Parameter(weight.clone()), nn.Parameter(weight.flatten(1).clone())
    for parameter in (kernel, matrix):
        parameter.grad = parameter.detach().clone()
        Muon([parameter], muon=True).step()
    assert torch.equal(kernel.flatten(1), matrix)


@pytest.mark.parametrize("model", ["mlp", "cnn", "gpt"])
def test_every_trainable_parameter_is_in_exactly_one_group(model):
    overrides = ("data=bytes", "data.context=8", "model.width=8", "model.hidden=8") if model == "gpt" else ()
    cfg = mf.compose(f"model={model}", "optimizer=muon", *overrides)
    built = mf.build(cfg)
    optimizer = mf.build_optimizer(built, cfg)
    placed = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(placed) == sorted(id(parameter) for parameter in built.parameters())
    by_muon = {id(parameter) for group in optimizer.param_groups if group["muon"] for parameter in group["params"]}
    names = {name for name, parameter in built.named_parameters() if id(parameter) in by_muon}
    assert names and all(built.get_parameter(name).ndim in (2, 4) for name in names)
    assert not any(name.startswith(("head", "tokens", "positions")) for name in names)


def test_what_is_no_matrix_is_refused_by_its_shape():
    with pytest.raises(ValueError, match=r"shape \[4\], which is no matrix"):
        Muon([nn.Parameter(torch.zeros(4))], muon=True)
    cfg = {"_target_": "modelfactory.Muon", "groups": {"all": {"match": "*", "muon": True}}}
    with pytest.raises(mf.ConfigError, match="no matrix"):
        build_optimizer(training_spec(cfg).optimizer, nn.Linear(3, 2))


@pytest.mark.parametrize(("key", "value"), [("momentum", 1.0), ("adjust_lr", "other"), ("ns_steps", 0), ("lr", -1)])
def test_numbers_out_of_range_are_told(key, value):
    with pytest.raises(mf.ConfigError, match=f"optimizer.*{key}"):
        training_spec({"_target_": "modelfactory.Muon", key: value})


def test_a_run_goes_on_with_its_momentum(tmp_path):
    quiet = ("trainer.device=cpu", "trainer.progress=none", "trainer.signal=none")
    base = ("optimizer=muon", "model.width=8", "trainer.limit_batches=3", *quiet)
    whole = mf.train(mf.compose(*base, "trainer.max_epochs=2"), tmp_path / "whole")
    mf.train(mf.compose(*base, "trainer.max_epochs=1"), tmp_path / "half")
    again = mf.train(mf.compose(*base, "trainer.max_epochs=2"), tmp_path / "again", resume=tmp_path / "half")
    assert again.final == whole.final
