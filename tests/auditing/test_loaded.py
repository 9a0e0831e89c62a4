"""After a load: what the file did not give, what was drawn again, and what is left over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import modelfactory as mf


def network(width: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, width))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(network().state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def loaded(file: Path) -> nn.Sequential:
    model = network()
    model.load_state_dict(torch.load(file))
    return model


def kinds(model: nn.Module, file: Path) -> set[tuple[str, str]]:
    return {(finding.name, finding.kind) for finding in mf.audit(model, checkpoint=file)}


def test_a_model_as_the_file_has_it_is_clean(file: Path):
    assert mf.audit(loaded(file), checkpoint=file)


def test_what_was_drawn_after_the_load_is_told(file: Path):
    model = loaded(file)
    model[3].reset_parameters()
    assert kinds(model, file) == {("3.weight", "drawn_again"), ("3.bias", "drawn_again")}


def test_a_model_that_was_never_loaded_is_one_finding(file: Path):
    model = network()
    for tensor in model[1].state_dict().values():
        tensor += 1
    assert kinds(model, file) == {("0.weight", "not_loaded")}


def test_another_shape_was_not_loaded(file: Path):
    model = network(12)
    model[0].load_state_dict(loaded(file)[0].state_dict())
    model[1].load_state_dict(loaded(file)[1].state_dict())
    assert kinds(model, file) == {("3.weight", "not_loaded"), ("3.bias", "not_loaded")}


def test_names_that_one_side_lacks_are_told_with_the_nearest(tmp_path: Path):
    model = nn.ModuleDict({"head": nn.Linear(4, 2), "body": nn.Linear(4, 4)})
    state = {name.replace("head", "heads"): value for name, value in model.state_dict().items()}
    torch.save(state, tmp_path / "a.pt")
    found = {finding.name: finding for finding in mf.audit(model, checkpoint=tmp_path / "a.pt")}
    assert {name: finding.kind for name, finding in found.items()} == {
        "head.weight": "not_loaded",
        "head.bias": "not_loaded",
        "heads.weight": "unused_in_checkpoint",
        "heads.bias": "unused_in_checkpoint",
    }
    assert "it has heads.weight" in found["head.weight"].message


def test_a_prefix_and_ties_do_not_matter(tmp_path: Path):
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8, bias=False))
    model[1].weight = model[0].weight
    save_file({"module.0.weight": model[0].weight.detach().clone()}, tmp_path / "a.safetensors")
    assert mf.audit(model, checkpoint=tmp_path / "a.safetensors")


def test_values_of_the_file_are_no_initial_ones(tmp_path: Path):
    model = network()
    nn.init.normal_(model[0].weight, std=3.0)
    nn.init.constant_(model[1].weight, 0.01)
    torch.save(model.state_dict(), tmp_path / "trained.pt")
    assert mf.audit(model, checkpoint=tmp_path / "trained.pt")
    model[0].weight.data[0, 0] = torch.nan
    torch.save(model.state_dict(), tmp_path / "broken.pt")
    assert kinds(model, tmp_path / "broken.pt") == {("0.weight", "not_finite")}


def test_a_file_that_is_none_is_an_error(tmp_path: Path):
    with pytest.raises(mf.ConfigError, match="there is no file"):
        mf.audit(network(), checkpoint=tmp_path / "nowhere.pt")
