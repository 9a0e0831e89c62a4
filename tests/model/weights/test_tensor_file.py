"""Tensors and texts in one file: its bytes follow from its content, and a damaged one is named."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelfactory.config.errors import ConfigError
from modelfactory.model.weights.tensor_file import CHECKSUM_KEY, DamagedFile, read_metadata, read_tensors, tensor_digest, write_tensors

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.int32, torch.int16,
          torch.int8, torch.uint8, torch.bool, torch.complex64)  # fmt: skip


def tensors():
    generator = torch.Generator().manual_seed(0)
    found = {f"layer.{index}": torch.randn(3, index + 1, generator=generator).to(dtype) for index, dtype in enumerate(DTYPES)}
    turned = torch.randn(4, 3, generator=generator).t()
    return {
        **found,
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "turned": turned,
        "\N{GREEK SMALL LETTER BETA}": torch.ones(1),
    }


def test_what_is_written_comes_back_and_safetensors_itself_reads_it(tmp_path: Path):
    write_tensors(tmp_path / "a", tensors(), {"note": "x", "config": '{"a": "\N{GREEK SMALL LETTER BETA}"}'})
    found, metadata = read_tensors(tmp_path / "a")
    assert metadata["note"] == "x" and found.keys() == tensors().keys()
    for read in (found, load_file(tmp_path / "a")):
        assert all(read[name].dtype == value.dtype and torch.equal(read[name], value) for name, value in tensors().items())
    assert tensor_digest(found) == tensor_digest(tensors())


def test_the_bytes_follow_from_the_content_in_any_process(tmp_path: Path):
    """Safetensors' own writer puts the metadata in an order that differs from process to process."""
    code = (
        "import sys, torch; from modelfactory.model.weights.tensor_file import write_tensors; "
        "write_tensors(sys.argv[1], {'b': torch.ones(3), 'a': torch.zeros(2)}, {str(i): 'x' for i in map(int, sys.argv[2].split())})"
    )
    for name, order in (("a", "0 1 2 3 4 5 6 7"), ("b", "7 6 5 4 3 2 1 0")):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name), order], check=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("change", [{"x": "2"}, {"y": "1"}, {}], ids=str)
def test_changed_metadata_are_noticed_without_reading_a_tensor(tmp_path: Path, change: dict):
    write_tensors(tmp_path / "a", {"w": torch.zeros(2)}, {"x": "1"})
    assert read_metadata(tmp_path / "a")["x"] == "1"
    known = {key: text for key, text in read_metadata(tmp_path / "a").items() if key != "x"}
    save_file({"w": torch.zeros(2)}, tmp_path / "a", {**known, **change})
    for read in (read_metadata, read_tensors):
        with pytest.raises(DamagedFile, match=r"/a is damaged: its content does not have the checksum that it carries; restore it"):
            read(tmp_path / "a")


@pytest.mark.parametrize("changed", [torch.ones(2), torch.zeros(2, 1), torch.zeros(2, dtype=torch.int32), None], ids=str)
def test_changed_tensors_are_noticed(tmp_path: Path, changed):
    write_tensors(tmp_path / "a", {"w": torch.zeros(2)}, {})
    save_file(
        {"w" if changed is not None else "v": torch.zeros(2) if changed is None else changed}, tmp_path / "a", read_metadata(tmp_path / "a")
    )
    with pytest.raises(DamagedFile, match="/a is damaged"):
        read_tensors(tmp_path / "a")


def test_every_damage_is_an_error_that_names_the_file_or_leaves_the_values(tmp_path: Path):
    file, expected = tmp_path / "a.safetensors", tensors()
    write_tensors(file, expected, {"note": "x" * 50})
    content = file.read_bytes()
    generator = torch.Generator().manual_seed(1)
    places = torch.randint(len(content), (400,), generator=generator).tolist()
    damages = [content[:place] for place in places[:50]] + [content + b"x", b"", content[8:]]
    for place in places[50:]:
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        damages.append(bytes(changed))
    noticed = 0
    for damaged in damages:
        file.unlink(missing_ok=True)
        file.write_bytes(damaged)
        try:
            found, metadata = read_tensors(file)
        except ConfigError as error:
            assert "a.safetensors" in str(error)
            noticed += 1
        else:  # in the name of the checksum itself, which is then none
            assert CHECKSUM_KEY not in metadata and all(torch.equal(found[name], value) for name, value in expected.items())
    assert noticed > len(damages) - 20


def test_files_of_other_programs_have_no_checksum_and_pass(tmp_path: Path):
    save_file({"w": torch.zeros(2)}, tmp_path / "a", {"note": "x"})
    assert read_tensors(tmp_path / "a")[1] == {"note": "x"}


def test_a_dtype_that_the_format_does_not_have_is_named(tmp_path: Path):
    with pytest.raises(TypeError, match="w is torch.complex128, which a safetensors file cannot hold"):
        write_tensors(tmp_path / "a", {"w": torch.zeros(2, dtype=torch.complex128)}, {})
    assert list(tmp_path.iterdir()) == []
