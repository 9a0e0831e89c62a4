"""Weights from a URL, by a server on this machine: kept in torch's cache, whole, and with their hash checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from modelfactory.config.errors import Problems
from modelfactory.model.weights.download import check_hash, fetch, place_of
from tests.model.weights.serving import Server, hashed, serving


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    with serving() as running:
        yield running


def told(url: str) -> tuple[Path | None, str]:
    problems = Problems()
    return fetch(url, "backbone.weights", problems), "\n".join(map(str, problems))


def test_a_file_with_a_hash_in_its_name_is_kept_where_torch_hub_keeps_it_and_fetched_once(server: Server):
    content = b"weights" * 1000
    url = server.url(hashed(content), content)
    first, second = told(url)[0], told(url)[0]
    assert first == second == Path(torch.hub.get_dir(), "checkpoints", hashed(content)) and server.asked == 1
    assert first is not None and first.read_bytes() == content and [file.name for file in first.parent.iterdir()] == [first.name]


def test_files_of_one_name_and_no_hash_are_kept_apart_by_url(server: Server):
    one, other = told(server.url("a/w.pth", b"one"))[0], told(server.url("b/w.pth", b"other"))[0]
    assert one is not None and other is not None and (one.read_bytes(), other.read_bytes()) == (b"one", b"other")


def test_a_download_that_is_not_what_its_name_says_leaves_nothing(server: Server):
    url = server.url(hashed(b"good"), b"evil")
    file, problem = told(url)
    assert file is None and "its SHA-256 begins with" in problem and hashlib.sha256(b"good").hexdigest()[:8] in problem
    assert list(place_of(url).parent.iterdir()) == []


def test_a_download_that_ends_early_leaves_nothing(server: Server):
    url = server.url("w.pth", b"x" * 1000)
    server.cut = 400
    file, problem = told(url)
    assert file is None and "cannot be fetched: " in problem and "put the file at" in problem
    assert list(place_of(url).parent.iterdir()) == []
    server.cut = None
    assert told(url)[0] is not None


def test_what_is_not_there_and_what_is_not_http_is_told(server: Server):
    assert "cannot be fetched: HTTP Error 404" in told(server.url("w.pth", b"")[:-5] + "none.pth")[1]
    assert "cannot be fetched: <urlopen error" in told("http://127.0.0.1:9/w.pth")[1]
    assert "is refused: only http and https are fetched" in told("file:///etc/passwd")[1]


def test_a_file_in_the_cache_is_checked_against_its_name_each_time_it_changes(server: Server):
    content = b"weights" * 1000
    file, problems = told(server.url(hashed(content), content))[0], Problems()
    assert file is not None and check_hash(file, None, "backbone.weights", problems)
    file.write_bytes(content[:-1] + b"!")
    assert not check_hash(file, None, "backbone.weights", problems)
    assert "remove it and fetch it again" in str(list(problems)[0])


def test_a_declared_hash_is_checked_of_any_file(tmp_path: Path):
    file, problems = tmp_path / "w.pt", Problems()
    file.write_bytes(b"content")
    right = hashlib.sha256(b"content").hexdigest()
    assert check_hash(file, right, "backbone.weights", problems) and check_hash(
        file, right[:8].upper(), "backbone.weights", problems
    )
    assert not check_hash(file, "0" * 64, "backbone.weights", problems) and len(problems) == 1
