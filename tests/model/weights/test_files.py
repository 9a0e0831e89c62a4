"""Files of weights are read whole, mapped, and without running anything that is in them."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modelfactory.config.errors import Problems
from modelfactory.model.weights.files import Source, open_weights
from modelfactory.training.checkpoint import save_weights

TENSORS = {"a": torch.arange(600.0).reshape(20, 30), "b": torch.ones(7, dtype=torch.int64)}


def opened(file: Path) -> tuple[Source | None, str]:
    problems = Problems()
    source = open_weights(file, "backbone.weights", problems)
    return source, "\n".join(map(str, problems))


def written(folder: Path, kind: str, content: Any = TENSORS) -> Path:
    file = folder / {"safetensors": "w.safetensors", "zip": "w.pt", "legacy": "w.pth"}[kind]
    if kind == "safetensors":
        save_file(content, file)
    else:
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    return file


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_tensors_are_those_of_the_file_and_writing_to_them_does_not_change_it(tmp_path: Path, kind: str):
    file = written(tmp_path, kind)
    before = file.read_bytes()
    source, problems = opened(file)
    assert not problems and source is not None and source.label == file.name
    assert all(torch.equal(source.tensors[name], value) for name, value in TENSORS.items())
    for tensor in source.tensors.values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes  # alone in its memory, so that pickle takes no more
        tensor.zero_()
    assert file.read_bytes() == before


@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
def test_a_file_that_is_cut_short_is_told(tmp_path: Path, kind: str, share: float):
    file = written(tmp_path, kind)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    source, problems = opened(file)
    assert source is None
    assert problems.startswith(f"backbone.weights: {file} ") and (
        "is cut short or of another kind" in problems or "is not a whole" in problems
    )


@pytest.mark.parametrize("content", [b"hello world", b"\x80\x02}q\x00.", b"PK\x03\x04 and no more", bytes(range(256))])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_file_of_something_else_is_told(tmp_path: Path, content: bytes, suffix: str):
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    source, problems = opened(file)
    assert source is None and problems.count("\n") == 0 and str(file) in problems


class Malicious:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("kind", ["zip", "legacy", "raw", "module", "object"])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path, kind: str):
    marker, file = tmp_path / "ran", tmp_path / "w.pt"
    if kind == "raw":
        file.write_bytes(pickle.dumps(Malicious(marker)))
    elif kind == "module":
        torch.save(nn.Linear(2, 2), file)
    elif kind == "object":
        torch.save({**TENSORS, "args": argparse.Namespace(lr=1)}, file)
    else:
        torch.save({**TENSORS, "x": Malicious(marker)}, file, _use_new_zipfile_serialization=kind == "zip")
    source, problems = opened(file)
    assert source is None and not marker.exists()
    assert "is refused: it holds more than tensors, and reading it would run code" in problems
    assert {"module": "torch.nn.modules", "object": "argparse.Namespace", "raw": "operand 149"}.get(kind, "system") in problems


@pytest.mark.parametrize(
    "nest", [lambda t: t, lambda t: {"state_dict": t, "epoch": 3}, lambda t: {"model": {"state_dict": t}, "queue": torch.ones(2)}]
)
def test_a_state_dict_is_found_where_training_code_puts_it(tmp_path: Path, nest: Any):
    source, _ = opened(written(tmp_path, "zip", nest(TENSORS)))
    assert source is not None and source.tensors.keys() == TENSORS.keys()


def test_a_file_without_tensors_is_told(tmp_path: Path):
    assert opened(written(tmp_path, "zip", {"epoch": 3}))[1].endswith("holds no named tensors; give a file of a state_dict")
    assert opened(written(tmp_path, "zip", [torch.ones(1)]))[1].endswith("holds no named tensors; give a file of a state_dict")


def test_a_runs_directory_and_its_tied_names(tmp_path: Path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_weights(tmp_path / "run" / "model.safetensors", model)
    source, _ = opened(tmp_path / "run")
    assert source is not None and source.label == "run/model.safetensors"
    assert torch.equal(source.tensors["1.weight"], model[0].weight)
    assert "there is no model.safetensors in" in opened(tmp_path)[1]
