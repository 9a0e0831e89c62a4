"""Trainings by several processes, which `test_distributed.py` compares with those of one.

`python -m tests.training.rank_runs FOLDER SIZE:NAME,NAME...` runs the cases NAME in SIZE processes that train together, forks of one that
has imported what they need, and leaves a file a rank: for each case what it gave, or its error. It prints how the processes ended.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import modelfactory as mf
from modelfactory.config.compose import to_plain
from modelfactory.config.errors import ModelFactoryError
from modelfactory.data import Data, Split
from modelfactory.training.checkpoint import read_state
from modelfactory.training.distributed import World
from modelfactory.training.launch import open_world
from modelfactory.training.status import CHECKPOINT, status_of, told
from modelfactory.training.stopping import Terminated
from modelfactory.training.trainer import train_model
from modelfactory.training.training_spec import training_spec

SGD = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}
QUIET = {"device": "cpu", "progress": "none", "max_epochs": 2}


def blobs(train: int = 101, val: int = 37, ignored: bool = False) -> Data:
    """Three classes in 6 dimensions; of `ignored` ones half, the whole of the third batch of 16, and all that a last batch has."""
    source = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 6, generator=source)
    y = torch.randint(3, (train + val,), generator=source)
    x = centres[y] + torch.randn(len(y), 6, generator=source)
    if ignored:
        y = torch.where(torch.rand(len(y), generator=source) < 0.5, -100, y)
    return Data(Split(x[:train], y[:train]), Split(x[train:], y[train:]), "classification", 3, (6,), batch_size=16)


def net(*middle: nn.Module, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 12), *middle, nn.Tanh(), nn.Linear(12, 3))


class Twice(nn.Module):
    """A branch that only positive samples go through, so that there are processes in which it has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.rare, self.never = net(seed=1), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        rare = x[:, 0] > 1.5
        return self.body(x) + (rare[:, None] * self.rare(x) if bool(rare.any()) else 0)


def train(world: World, model: nn.Module, data: Data, **keys: Any) -> dict[str, Any]:
    """What a training gave: its rows of metrics without times, and the sums of the model's tensors."""
    training = training_spec(keys.pop("optimizer", SGD), keys.pop("scheduler", None), {**QUIET, **keys.pop("trainer", {})})
    result = train_model(model, data, training, world=world, **keys)
    return numbers(result)


def numbers(result: Any) -> dict[str, Any]:
    rows = [[value for name, value in row.items() if name != "seconds"] for row in result.history]
    tensors = {name: tensor.double().abs().sum().item() for name, tensor in result.model.state_dict().items()}
    return {"rows": rows, "tensors": tensors, "init_hash": result.init_hash, "status": result.status}


def uneven(world: World, where: Path) -> dict[str, Any]:
    return train(world, net(), blobs())


def a_last_batch_of_one(world: World, where: Path) -> dict[str, Any]:
    return train(world, net(), blobs(97, 33), trainer={"accumulate": 2})


def accumulated_and_clipped(world: World, where: Path) -> dict[str, Any]:
    return train(world, net(), blobs(), trainer={"accumulate": 3, "clip_norm": 0.1, "max_epochs": 3})


def class_weights_and_ignored_targets(world: World, where: Path) -> dict[str, Any]:
    loss = {"_target_": "torch.nn.CrossEntropyLoss", "weight": [0.2, 1.0, 3.0]}
    return train(world, net(), blobs(ignored=True), trainer={"loss": loss})


def a_loss_that_is_a_sum(world: World, where: Path) -> dict[str, Any]:
    loss = {"_target_": "torch.nn.CrossEntropyLoss", "reduction": "sum"}
    return train(world, net(), blobs(), trainer={"loss": loss}, optimizer=SGD | {"lr": 0.001})


def branches_without_gradient(world: World, where: Path) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Twice()
    return train(world, model, blobs(), optimizer=SGD | {"weight_decay": 0.1})


def synchronized_batch_norm(world: World, where: Path) -> dict[str, Any]:
    return train(world, net(nn.BatchNorm1d(12)), blobs(97, 33), trainer={"sync_batchnorm": True, "limit_batches": 6})


def synchronized_batch_norm_of_ignored_targets(world: World, where: Path) -> dict[str, Any]:
    return train(world, net(nn.BatchNorm1d(12, momentum=None)), blobs(98, ignored=True), trainer={"sync_batchnorm": True})


def local_batch_norm(world: World, where: Path) -> dict[str, Any]:
    return train(world, net(nn.BatchNorm1d(12)), blobs(96))


def dropout(world: World, where: Path) -> dict[str, Any]:
    return train(world, net(nn.Dropout(0.5)), blobs())


def early_stopping(world: World, where: Path) -> dict[str, Any]:
    plateau = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "patience": 0}
    return train(world, net(), blobs(), trainer={"max_epochs": 12, "patience": 1}, scheduler=plateau, optimizer=SGD | {"lr": 0.4})


def config(*words: str, layers: dict[str, Any] | None = None) -> dict[str, Any]:
    quiet = ("trainer.device=cpu", "trainer.progress=none", "trainer.signal=none", "optimizer=sgd", "optimizer.lr=0.05")
    plain = to_plain(mf.compose("model.width=8", "trainer.limit_batches=5", "trainer.max_epochs=2", *quiet, *words))
    return plain if layers is None else {**plain, "model": {"layers": layers}}


def calibrated(world: World, where: Path) -> dict[str, Any]:
    return numbers(mf.train(config("init=lsuv")))


def chosen_by_itself(world: World, where: Path) -> dict[str, Any]:
    return numbers(mf.train(config("init=auto", "model=cnn", "trainer.sync_batchnorm=true")))


def thawed_later(world: World, where: Path) -> dict[str, Any]:
    return numbers(mf.train(config("+freeze.rules.body={before: head, until: {epoch: 2}}"), where / f"thawed-{world.size}"))


def cached_features(world: World, where: Path) -> dict[str, Any]:
    return numbers(mf.train(config("+freeze.rules.body={before: head}", "trainer.cache_features=memory", "trainer.max_epochs=3")))


def on_disk(world: World, where: Path) -> dict[str, Any]:
    """A run directory, one that is resumed from it, and what resuming gives."""
    first = where / f"first-{world.size}"
    mf.train(config(), first)
    return numbers(mf.train(config("trainer.max_epochs=4"), where / f"second-{world.size}", resume=first))


def resumed_elsewhere(world: World, where: Path) -> dict[str, Any]:
    """Goes on with the run that two processes left."""
    return numbers(mf.train(config("trainer.max_epochs=4"), where / f"by-{world.size}", resume=where / "first-2"))


def refused_in_one_process(world: World, where: Path) -> dict[str, Any]:
    return numbers(mf.train(config(f"data.batch_size={64 if world.rank else 0}")))


class Ends(nn.Module):
    """Passes its input on, and ends the process of rank 1 in its third forward of a training, or gives NaN there."""

    def __init__(self, world: World, how: str):
        super().__init__()
        self.world, self.how, self.calls = world, how, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        if self.world.rank == 1 and self.calls == 3 and self.training:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "asked":
                os.kill(os.getpid(), signal.SIGTERM)
                return x
            if self.how == "interrupted":
                raise KeyboardInterrupt("interrupted by SIGTERM")
            return x * torch.nan if self.how == "diverged" else x
        return x


def _ending(how: str) -> Callable[[World, Path], dict[str, Any]]:
    def case(world: World, where: Path) -> dict[str, Any]:
        return train(world, net(Ends(world, how)), blobs(), run_dir=where / f"{how}-{world.size}")

    return case


def _stopped(world: World, folder: Path, model: nn.Module, data: Data) -> str:
    """How a training ended whose second process is asked to end as it makes its third step."""
    try:
        train(world, model, data, run_dir=folder, trainer={"max_epochs": 3})
    except Terminated as error:
        return str(error)
    return "it was not stopped"


def stopped_by_a_signal(world: World, where: Path) -> dict[str, Any]:
    """A training that was stopped within an epoch and resumed, beside one that was not."""
    def model(how: str, seed: int = 0) -> nn.Module:
        return net(Ends(world, how), nn.Dropout(0.3), nn.BatchNorm1d(12), seed=seed)

    folder, keys = where / f"stopped-{world.size}", {"max_epochs": 3}
    data = blobs(112)  # no batch of which a process has one sample, on which batch norm cannot train
    straight = train(world, model("-"), data, trainer=keys)
    said = _stopped(replace(world, training=world.training + 1000), folder, model("asked"), data)
    step = read_state(folder / CHECKPOINT)["within"]["step"]
    resumed = train(world, model("-", seed=1), data, trainer=keys | {"resume": str(folder)}, run_dir=folder)
    return {"straight": straight, "resumed": resumed, "said": said, "step": step}


def stopped_in_two(world: World, where: Path) -> dict[str, Any]:
    """The same without what differs in another number of processes, left where it was stopped."""
    if world.size == 1:
        return train(world, net(), blobs(), trainer={"max_epochs": 3})
    model = nn.Sequential(Ends(world, "asked"), *net())
    return {"said": _stopped(replace(world, training=world.training + 2000), where / "stopped-in-two", model, blobs())}


CASES: dict[str, Callable[[World, Path], dict[str, Any]]] = {
    case.__name__: case
    for case in (
        *(uneven, a_last_batch_of_one, accumulated_and_clipped, class_weights_and_ignored_targets, a_loss_that_is_a_sum),
        *(branches_without_gradient, synchronized_batch_norm, synchronized_batch_norm_of_ignored_targets, local_batch_norm),
        *(dropout, early_stopping, calibrated, chosen_by_itself, thawed_later, cached_features, on_disk, resumed_elsewhere),
        *(refused_in_one_process, stopped_by_a_signal, stopped_in_two),
    )
}
CASES |= {how: _ending(how) for how in ("killed", "diverged", "interrupted")}


def run_cases(names: list[str], where: Path) -> dict[str, Any]:
    """What each case gave, or how it failed, in the processes that there are."""
    found: dict[str, Any] = {}
    with open_world() as world:
        for name in names:
            try:
                found[name] = CASES[name](world, where)
            except (ModelFactoryError, KeyboardInterrupt) as error:
                found[name] = {"error": told(error), "status": status_of(error)}
    return found


def _child(rank: int, size: int, port: int, names: list[str], where: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    found = run_cases(names, where)
    for name, value in found.items():
        Path(where, f"{name}.{size}.{rank}.json").write_text(json.dumps(value))


def _run_group(size: int, names: list[str], where: Path) -> list[int]:
    """Forks the processes of a group and waits for them; their exit statuses, in the order of ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _child(rank, size, port, names, where)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main(folder: str, *groups: str) -> None:
    torch.set_num_threads(1)
    for group in groups:
        size, _, names = group.partition(":")
        began = time.monotonic()
        statuses = _run_group(int(size), names.split(","), Path(folder))
        print(json.dumps({"group": group, "statuses": statuses, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
