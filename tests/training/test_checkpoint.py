import json
import os

import pytest
import torch
from safetensors import safe_open
from torch import nn

from modelfactory.config.errors import ConfigError
from modelfactory.config.files import remove_leftovers, write_atomic, write_text
from modelfactory.training.checkpoint import load_into, read_state, read_weights, save_state, save_weights


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.body, self.head = nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("part", self.body.weight.detach()[:1])  # a view of another's memory
        self.register_buffer("empty", torch.zeros(0))


def test_weights_and_config_come_back_and_tied_weights_are_stored_once(tmp_path):
    model, config = Tied(), {"seed": 3, "model": {"layers": {"a": [1, None, 0.1]}}}
    save_weights(tmp_path / "m.safetensors", model, config, {"note": "x"})
    with safe_open(tmp_path / "m.safetensors", framework="pt") as file:
        assert set(file.keys()) == {"embed.weight", "body.weight", "body.bias", "part", "empty"}
        assert json.loads(file.metadata()["modelfactory.config"]) == config
    weights = read_weights(tmp_path / "m.safetensors")
    assert weights.config == config and weights.metadata["note"] == "x"
    assert weights.tensors["head.weight"] is weights.tensors["embed.weight"]
    other = Tied()
    load_into(other, weights.tensors, "trainer.resume", "m")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_channels_last_weight_comes_back(tmp_path):
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    save_weights(tmp_path / "m", model)
    assert torch.equal(read_weights(tmp_path / "m").tensors["weight"], model.weight)


def test_nested_state_comes_back_exactly(tmp_path):
    state = {
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "m": torch.randn(2, 3)}, 1: {}},
            "groups": [{"betas": (0.9, 0.999), "name": "a"}],
        },
        "lr": 0.1 + 0.2,
        "tiny": 5e-324,
        "none": None,
        "flag": True,
        "bytes": torch.arange(4, dtype=torch.uint8),
        "inf": float("inf"),
        "tensor": {"tensor": "not one"},
    }
    save_state(tmp_path / "c" / "s.safetensors", state)
    back = read_state(tmp_path / "c" / "s.safetensors")
    tensor, other = state["optimizer"]["state"][0]["m"], back["optimizer"]["state"][0].pop("m")
    del state["optimizer"]["state"][0]["m"]
    assert torch.equal(tensor, other) and torch.equal(back.pop("bytes"), state.pop("bytes")) and back == state


def test_tensors_that_were_one_come_back_apart(tmp_path):
    tensor = torch.zeros(2)
    save_state(tmp_path / "s", {"a": tensor, "b": tensor})
    back = read_state(tmp_path / "s")
    back["a"].add_(1)
    assert back["b"].tolist() == [0, 0]


@pytest.mark.parametrize(("value", "message"), [(print, "builtin_function_or_method at a.b"), ({(1, 2): 3}, "key .* at a.b")])
def test_what_would_need_pickle_is_refused(tmp_path, value, message):
    with pytest.raises(TypeError, match=message):
        save_state(tmp_path / "s", {"a": {"b": value}})
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a", "old")

    def fail(file):
        file.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(tmp_path / "a", fail)
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_files_have_the_rights_that_the_umask_allows(tmp_path):
    save_weights(tmp_path / "m", nn.Linear(1, 1))
    (tmp_path / "plain").touch()
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    for name in (".result.json.17.tmp", "checkpoint/.last.safetensors.17.tmp", "result.json"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "result.json"] and os.listdir(tmp_path / "checkpoint") == []


def test_a_file_that_is_none_of_ours_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "pickle")
    with pytest.raises(ConfigError, match="is not a safetensors file"):
        read_weights(tmp_path / "pickle")
    with pytest.raises(ConfigError, match="there is no file"):
        read_weights(tmp_path / "nothing")
    save_weights(tmp_path / "w", nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="holds no training state"):
        read_state(tmp_path / "w")


def test_weights_of_another_model_are_refused_and_nothing_is_copied():
    first = nn.Linear(2, 3)
    model = nn.Sequential(first, nn.Linear(3, 1))
    before = first.bias.detach().clone()
    tensors = {**model.state_dict(), "1.weight": torch.zeros(1, 4), "2.bias": torch.zeros(1), "0.bias": torch.ones(3)}
    del tensors["1.bias"]
    with pytest.raises(ConfigError) as caught:
        load_into(model, tensors, "trainer.resume", "run")
    wrong = "1.weight is [1, 4] in it and [1, 3] here; 1.bias is missing in it; 2.bias is not in this model"
    assert str(caught.value) == f"trainer.resume: run is of another model: {wrong}"
    assert torch.equal(first.bias, before)
