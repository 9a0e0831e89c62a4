"""Several processes train what one process trains; where they cannot, it is said."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from torch import nn

import modelfactory as mf
from modelfactory.config.errors import ConfigError, Problems
from modelfactory.training.distributed import World
from modelfactory.training.setup import check_model, set_up
from modelfactory.training.status import read_result
from modelfactory.training.trainer import train_model
from modelfactory.training.training_spec import read_training, training_spec
from tests.training.rank_runs import QUIET, SGD, blobs, config, net, numbers, run_cases

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not torch.distributed.is_available() or sys.platform == "win32", reason="needs torch.distributed and fork")
SAME = (
    *("uneven", "a_last_batch_of_one", "accumulated_and_clipped", "class_weights_and_ignored_targets", "a_loss_that_is_a_sum"),
    *("branches_without_gradient", "synchronized_batch_norm", "synchronized_batch_norm_of_ignored_targets", "early_stopping"),
    *("calibrated", "chosen_by_itself", "thawed_later", "cached_features", "on_disk"),
)
# a sample of 320 whose two largest outputs are equal but for rounding, and less than one of the 33 or more of the blobs
_ROUNDED_SAMPLE = 0.004
OTHER = ("local_batch_norm", "dropout", "stopped_by_a_signal", "stopped_in_two", "refused_in_one_process")


class Group:
    """Cases run by processes that train together."""

    def __init__(self, where: Path, size: int, *names: str):
        self.where, self.size = where, size
        command = [sys.executable, "-m", "tests.training.rank_runs", str(where), f"{size}:{','.join(names)}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=900, env=os.environ | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stderr
        self.errors, self.ended = done.stderr, json.loads(done.stdout.splitlines()[-1])

    def found(self, name: str) -> list[dict[str, Any]]:
        """What the case gave in each of the processes that left anything."""
        files = [self.where / f"{name}.{self.size}.{rank}.json" for rank in range(self.size)]
        return [json.loads(file.read_text()) for file in files if file.is_file()]


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def together(request, tmp_path_factory):
    group = Group(tmp_path_factory.mktemp("ranks"), request.param, *SAME, *OTHER)
    assert group.ended["statuses"] == [0] * request.param, group.errors
    return group


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    where = tmp_path_factory.mktemp("alone")
    return run_cases([*SAME, "local_batch_norm", "dropout", "stopped_in_two"], where) | {"where": where}


def assert_close(row: list[float], expected: list[float]) -> None:
    """Epoch, step, losses and learning rate to float32 accuracy, and the accuracy to a tie."""
    assert row[:4] + row[5:] == pytest.approx(expected[:4] + expected[5:], rel=2e-4)
    assert abs(row[4] - expected[4]) < _ROUNDED_SAMPLE


@pytest.mark.parametrize("case", SAME)
def test_the_numbers_are_those_of_one_process(case, together, alone):
    """Losses, accuracies and weights to float32 accuracy, initial values exactly, in every process."""
    for found in together.found(case):
        assert found == together.found(case)[0]
        assert found["init_hash"] == alone[case]["init_hash"] and found["status"] == "completed"
        assert len(found["rows"]) == len(alone[case]["rows"])
        for row, expected in zip(found["rows"], alone[case]["rows"], strict=True):
            assert_close(row, expected)
        assert found["tensors"] == pytest.approx(alone[case]["tensors"], rel=2e-4, abs=1e-5)


def test_a_case_that_differs_is_seen(alone):
    """The comparison above can fail: another learning rate, or a sample less, is further away than it allows."""
    rows = alone["uneven"]["rows"]
    assert rows[-1] != pytest.approx(alone["dropout"]["rows"][-1], rel=2e-4)
    assert rows[-1] != pytest.approx(alone["local_batch_norm"]["rows"][-1], rel=2e-4)


def test_dropout_draws_a_stream_of_its_own_in_each_process(together, alone):
    first, *others = together.found("dropout")
    assert all(other == first for other in others)
    assert first["rows"][0] != pytest.approx(alone["dropout"]["rows"][0], rel=1e-3)


def test_local_batch_norm_keeps_the_statistics_of_the_first_process(together, alone):
    """All processes validate by the same statistics; they are not those of the whole batch."""
    first, *others = together.found("local_batch_norm")
    assert all(other == first for other in others)
    assert first["tensors"]["1.running_var"] != pytest.approx(alone["local_batch_norm"]["tensors"]["1.running_var"], rel=1e-3)


def test_what_one_process_finds_wrong_ends_all_of_them(together):
    assert [found["status"] for found in together.found("refused_in_one_process")] == ["failed"] * together.size
    assert all("ConfigError: data.batch_size: 0 is too small" in found["error"] for found in together.found("refused_in_one_process"))
    assert "(process 0 of" in together.found("refused_in_one_process")[1]["error"]


def test_a_run_has_one_directory_with_the_files_of_a_run_of_one_process(together, alone):
    folder, expected = together.where / f"second-{together.size}", alone["where"] / "second-1"
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in expected.iterdir())
    for name in ("ledger.csv", "config.yaml"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes()
    with (folder / "metrics.csv").open() as lines:
        assert [row["epoch"] for row in csv.DictReader(lines)] == ["1", "2", "3", "4"]
    record = read_result(folder) or {}
    assert record["status"] == "completed" and record["processes"] == together.size


def test_a_run_is_resumed_by_another_number_of_processes(together, alone):
    resumed = mf.train(config("trainer.max_epochs=4"), resume=together.where / f"first-{together.size}")
    for row, expected in zip(numbers(resumed)["rows"], alone["on_disk"]["rows"], strict=True):
        assert_close(row, expected)


def test_a_signal_to_one_process_stops_all_after_the_same_step_and_they_go_on_to_the_same_bits(together):
    for found in together.found("stopped_by_a_signal"):
        assert "said" in found, found
        assert found["said"].startswith("interrupted by SIGTERM") and found["step"] in (3, 4)
        assert found["resumed"]["rows"] == found["straight"]["rows"]
        assert found["resumed"]["tensors"] == found["straight"]["tensors"]


def test_what_several_processes_left_within_an_epoch_one_goes_on_with(together, alone, caplog):
    if together.size != 2:
        pytest.skip("once is enough")
    folder = together.where / "stopped-in-two"
    model = nn.Sequential(nn.Identity(), *net(seed=1))
    resumed = train_model(model, blobs(), training_spec(SGD, trainer={**QUIET, "max_epochs": 3, "resume": str(folder)}))
    for row, expected in zip(numbers(resumed)["rows"], alone["stopped_in_two"]["rows"], strict=True):
        assert_close(row, expected)
    assert "what dropout draws differs from here to the end of the epoch" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    ("case", "status", "reason"),
    [
        ("killed", "killed", "ended without a word, as one that is killed from outside or when memory runs out"),
        ("diverged", "diverged", "TrainingError: the loss is nan at step "),
        ("interrupted", "killed", "interrupted by SIGTERM"),
    ],
)
def test_a_process_that_ends_ends_the_run_with_its_reason(case, status, reason, size, tmp_path):
    group = Group(tmp_path, size, case)
    assert group.ended["seconds"] < 60  # of which most is starting
    record = read_result(tmp_path / f"{case}-{size}") or {}
    assert (record["status"], record["error"].startswith(f"RankFailed: process 1 of {size}")) == (status, True)
    assert reason in record["error"]
    assert not list(tmp_path.rglob("*.tmp"))


def refused(model: nn.Module, data: Any = None, size: int = 2, **trainer: Any) -> str:
    """What a training by several processes is refused with, before any of them waits for another."""
    data = blobs() if data is None else data
    with pytest.raises(ConfigError) as caught:
        run = set_up(model, data, training_spec(SGD, trainer={**QUIET, **trainer}), None, World(0, size))
        check_model(run, model, data)
    return str(caught.value)


class OwnNorm(nn.BatchNorm1d):
    def forward(self, input):
        return super().forward(input) * 2


class Dice(nn.Module):
    def forward(self, output, y):
        return 1 - (output.softmax(1)[range(len(y)), y].sum() / output.exp().sum()).sqrt()


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("data.batch_size: 16 samples cannot be divided among 17 processes", {"model": net(), "size": 17}),
        ("trainer.strategy: 9 training samples cannot be divided among 10 processes", {"model": net(), "data": blobs(9, 9), "size": 10}),
        ("trainer.device: 'cpu:0' is one device, and each of 2 processes has its own", {"model": net(), "device": "cpu:0"}),
        ("trainer.cache_features: 'disk' is written by one process", {"model": net(), "cache_features": "disk"}),
        ("the sparse gradient of '0' cannot be summed", {"model": nn.Sequential(nn.Embedding(3, 3, sparse=True))}),
        ("'1' is SyncBatchNorm; give BatchNorm1d, 2d or 3d, and trainer.sync_batchnorm=true", {"model": net(nn.SyncBatchNorm(12))}),
        ("'1' has no running statistics", {"model": net(nn.BatchNorm1d(12, track_running_stats=False))}),
        ("trainer.sync_batchnorm: '1' (OwnNorm) is not torch's own", {"model": net(OwnNorm(12)), "sync_batchnorm": True}),
        ("trainer.sync_batchnorm: true does not go with trainer.compile", {"model": net(), "sync_batchnorm": True, "compile": True}),
        ("data.batch_size: 16: 99 samples are 6 batches of 16 and one of 3, of which some of 2 processes have one",
         {"model": net(nn.BatchNorm1d(12)), "data": blobs(99)}),
        ("data.batch_size: 16: every batch has one sample for some of 9 processes, on which layer 1 (BatchNorm1d) cannot train",
         {"model": net(nn.BatchNorm1d(12)), "size": 9}),
        ("trainer.loss: the losses of the parts of a batch that 2 processes have do not add up: Dice is no mean over samples",
         {"model": net(), "loss": {"_target_": f"{__name__}.Dice"}}),
    ],
)  # fmt: skip
def test_what_does_not_go_with_several_processes_is_refused_by_name(words, keys, monkeypatch):
    monkeypatch.setenv("MODELFACTORY_TRUST", "tests")
    assert words in refused(**keys)


def test_sharded_training_is_refused_by_name():
    problems = Problems()
    read_training({"trainer": {"strategy": "fsdp", "device": "cpu"}}, problems)
    assert [str(problem) for problem in problems] == [
        "trainer.strategy: 'fsdp' is not supported: each process has the whole model; give auto or ddp"
    ]


def test_a_launcher_without_its_variables_is_a_config_error(monkeypatch, tmp_path):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="trainer.strategy: WORLD_SIZE is 2, and RANK, MASTER_ADDR, MASTER_PORT is not set; start with"):
        mf.train(mf.compose("trainer=debug", "trainer.progress=none"), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def torchrun(words: list[str], where: Path) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*launcher, *words], capture_output=True, text=True, cwd=where, timeout=600, env=env)


@pytest.mark.slow
def test_torchrun_trains_one_run(tmp_path):
    """In the directory that the first process names, which has the time in it, and says how it ended once."""
    words = ["model.width=8", "trainer.device=cpu", "trainer.signal=table", "trainer.max_epochs=2", "trainer.limit_batches=3"]
    done = torchrun([str(ROOT / "train.py"), *words], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: best epoch") == 1 and done.stdout.count("epoch 1/2") == 1
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert {"config.yaml", "metrics.csv", "result.json", "signal.csv", ".hydra"} <= {path.name for path in folder.iterdir()}
    assert (folder / "train.log").read_text().count("signal: gets through") == 1
    assert mf.load(folder) is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimizer.lr=-1"], "optimizer.lr: -1"),
        (["data.batch_size=1"], "data.batch_size: 1 samples cannot be divided among 2 processes"),
        (["-m", "seed=0,1"], "hydra.mode: a sweep is started by one process, and there are 2; start it without torchrun"),
    ],
)
def test_torchrun_tells_what_is_wrong_once_and_leaves_nothing(words, said, tmp_path):
    done = torchrun([str(ROOT / "train.py"), "trainer.device=cpu", *words], tmp_path)
    assert done.returncode != 0 and done.stderr.count(said) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
