"""Steps a second on digits: the loop of this package against the fastest by hand, and against other trainers.

python benchmarks/loop.py [rounds]

All train the same MLP (64-128-128-10, ReLU) with AdamW at 0.001 on the same 1,438 digits in batches of 64, for the same
number of epochs, without validation but for `ours`, whose loop always validates (359 more samples an epoch). Each contender
runs in a process of its own, since importing one of them changes the speed of the others; the processes of a round are
interleaved, and what is shown is the median over rounds. Imports and set-up are not timed; the first epoch warms up.

    by hand      slices of tensors in memory, fused AdamW, zero_grad(set_to_none), no look at the loss
    DataLoader   the same with torch.utils.data.DataLoader
    ours         modelfactory.trainer.train_model, in memory; `ours, files` with a run directory and its files every epoch
    fabric, accelerate, lightning   their set-up of model, optimizer and DataLoader, or their Trainer, without logging
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

EPOCHS, BATCH = 40, 64


def parts():
    import torch
    from torch import nn

    from modelfactory.data import build_data

    data = build_data({"_target_": "modelfactory.data.digits", "batch_size": BATCH})
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return data, model


def slices(x, y) -> Iterator[tuple]:
    import torch

    order = torch.randperm(len(x))
    for begin in range(0, len(x), BATCH):
        index = order[begin : begin + BATCH]
        yield x[index], y[index]


def loader(data):
    from torch.utils.data import DataLoader, TensorDataset

    return DataLoader(TensorDataset(data.train.x, data.train.y), batch_size=BATCH, shuffle=True)


def timed(epoch: Callable[[], int]) -> float:
    """Steps a second over EPOCHS epochs, after one that warms up."""
    epoch()
    begun, steps = time.perf_counter(), 0
    for _ in range(EPOCHS):
        steps += epoch()
    return steps / (time.perf_counter() - begun)


def plain_epoch(
    model, optimizer, batches: Callable[[], Iterator[tuple]], backward: Callable = lambda loss: loss.backward()
) -> int:
    from torch.nn import functional as F

    steps = 0
    for x, y in batches():
        loss = F.cross_entropy(model(x), y)
        backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
    return steps


def by_hand() -> float:
    import torch

    data, model = parts()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    return timed(lambda: plain_epoch(model, optimizer, lambda: slices(data.train.x, data.train.y)))


def dataloader() -> float:
    import torch

    data, model = parts()
    batches = loader(data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    return timed(lambda: plain_epoch(model, optimizer, lambda: iter(batches)))


def ours(folder: str | None = None) -> float:
    from modelfactory.trainer import train_model

    data, model = parts()
    optimizer = {"_target_": "torch.optim.AdamW", "lr": 1e-3, "weight_decay": 0.01}
    settings = {"max_epochs": EPOCHS + 1, "device": "cpu", "progress": "none"}
    result = train_model(model, data, optimizer=optimizer, trainer=settings, run_dir=folder)
    first, last = result.history[0], result.history[-1]
    return (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])


def ours_with_files() -> float:
    with tempfile.TemporaryDirectory() as folder:
        return ours(folder)


def fabric() -> float:
    import torch
    from lightning.fabric import Fabric

    data, model = parts()
    own = Fabric(accelerator="cpu", devices=1)
    model, optimizer = own.setup(model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True))
    batches = own.setup_dataloaders(loader(data))
    return timed(lambda: plain_epoch(model, optimizer, lambda: iter(batches), own.backward))


def accelerate() -> float:
    import torch
    from accelerate import Accelerator

    data, model = parts()
    own = Accelerator(cpu=True)
    model, optimizer, batches = own.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True), loader(data))
    return timed(lambda: plain_epoch(model, optimizer, lambda: iter(batches), own.backward))


def lightning() -> float:
    import logging
    import warnings

    import lightning as L
    import torch
    from torch.nn import functional as F

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data, model = parts()

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model
            self.begun, self.steps = 0.0, 0

        def training_step(self, batch, index):
            x, y = batch
            return F.cross_entropy(self.model(x), y)

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3, fused=True)

        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.begun, self.steps = time.perf_counter(), self.global_step

    own = Module()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_epochs=EPOCHS + 1, accelerator="cpu", devices=1, **quiet)
    trainer.fit(own, loader(data))
    return (trainer.global_step - own.steps) / (time.perf_counter() - own.begun)


CONTENDERS = {
    "by hand": by_hand,
    "DataLoader": dataloader,
    "ours": ours,
    "ours, files": ours_with_files,
    "fabric": fabric,
    "accelerate": accelerate,
    "lightning": lightning,
}


def run(name: str) -> float | None:
    """Steps a second of one contender in a process of its own; None where its library is not installed."""
    done = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True)
    if done.returncode:
        if "ModuleNotFoundError" in done.stderr:
            return None
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main(rounds: int = 5) -> None:
    speeds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for index in range(rounds):
        names = list(CONTENDERS) if index % 2 else list(CONTENDERS)[::-1]
        for name in names:
            speed = run(name)
            if speed is not None:
                speeds[name].append(speed)
    hand = statistics.median(speeds["by hand"])
    print(f"{'':14}{'steps/s':>9}{'of by hand':>12}")
    for name, found in speeds.items():
        if found:
            print(f"{name:14}{statistics.median(found):9.0f}{statistics.median(found) / hand:12.2f}")
        else:
            print(f"{name:14}{'not installed':>21}")
    print("goals: ours >= 0.95 of by hand", end="")
    if speeds["lightning"]:
        print(
            f", and >= 3 times lightning: {statistics.median(speeds['ours']) / statistics.median(speeds['lightning']):.1f} times",
            end="",
        )
    print()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(CONTENDERS[sys.argv[2]]()))
    else:
        main(*map(int, sys.argv[1:]))
