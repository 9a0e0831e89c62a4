"""Steps a second on digits: the loop of this package against the fastest by hand, and against other trainers.

python benchmarks/loop.py [rounds] [threads]

Everyone trains the same plain MLP (64-128-128-10, ReLU, from one seed) with fused AdamW at 0.001 on the same 1,438
digits, shuffled anew each epoch, in 23 batches of up to 64; and validates after each epoch on the same 359 digits in
batches of 64: mean loss and accuracy. Steps are optimizer steps, seconds are wall time with validation, without imports
and set-up; the first epoch warms up and is not timed. No logger, checkpoint, bar or clipping anywhere but as said.

    by hand             slices of tensors in memory (one gather an epoch), zero_grad(set_to_none), no training loss read
    by hand, training   the same without validation: less work than all others do
    DataLoader          the same loop over torch.utils.data.DataLoader
    ours                `train_model`, which besides keeps each epoch's mean training loss and stops at a loss not finite
    ours, files         the same with a run directory: weights, checkpoint and metrics.csv written each epoch
    fabric, accelerate  the DataLoader loop with model, optimizer, loaders and backward() as these libraries set them up
    lightning           its Trainer over the same DataLoaders
    lightning, slices   its Trainer over the slices of `by hand`, which it takes as it takes any iterable

Each runs in a process of its own, since importing one library slows others (lightning.fabric every later optimizer step,
on a CUDA build without a GPU). Each round runs all of them, every other round in the opposite order; shown are the median
over rounds, the least and the most, the median of the rounds' own ratios to `by hand`, and the accuracy reached, by which
to see that all did train.

`threads` are torch's, for all alike: 1 unless given. Tensors this small gain nothing from a second one, and beside other
programs on the same cores waiting for it is most of the time.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from modelfactory.data import Split, build_data

EPOCHS, BATCH, LR = 100, 64, 1e-3
Batches = Iterable[tuple[Tensor, Tensor]]
Outcome = tuple[float, float]  # steps a second, accuracy after the last epoch


class Slices:
    """Batches of tensors in memory, gathered once an epoch."""

    def __init__(self, split: Split, shuffle: bool):
        self.split, self.shuffle = split, shuffle

    def __len__(self) -> int:
        return -(-len(self.split) // BATCH)

    def __iter__(self):
        x, y = self.split.x, self.split.y
        if self.shuffle:
            order = torch.randperm(len(y))
            x, y = x[order], y[order]
        return zip(x.split(BATCH), y.split(BATCH), strict=True)


def loader(split: Split, shuffle: bool) -> DataLoader:
    return DataLoader(TensorDataset(split.x, split.y), batch_size=BATCH, shuffle=shuffle)


def digits():
    return build_data({"_target_": "modelfactory.data.digits", "batch_size": BATCH})


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=LR, fused=True)


def trained(
    model: nn.Module, optimizer, train: Batches, val: Batches, backward: Callable = Tensor.backward, validates: bool = True
) -> Outcome:
    """The loop by hand, over whatever batches; the last accuracy is measured after the clock has stopped."""
    begun = steps = 0
    for epoch in range(EPOCHS + 1):
        if epoch == 1:
            begun, steps = time.perf_counter(), 0
        model.train()
        for x, y in train:
            backward(F.cross_entropy(model(x), y))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            steps += 1
        if validates:
            validated(model, val)
    speed = steps / (time.perf_counter() - begun)
    return speed, validated(model, val)[1]


def validated(model: nn.Module, batches: Batches) -> tuple[float, float]:
    model.eval()
    total, right, size = torch.zeros(()), torch.zeros(()), 0
    with torch.inference_mode():
        for x, y in batches:
            output = model(x)
            total += F.cross_entropy(output, y) * len(y)
            right += (output.argmax(1) == y).sum()
            size += len(y)
    return float(total) / size, float(right) / size


def by_hand(validates: bool = True) -> Outcome:
    data, model = digits(), mlp()
    return trained(model, adamw(model), Slices(data.train, True), Slices(data.val, False), validates=validates)


def dataloader() -> Outcome:
    data, model = digits(), mlp()
    return trained(model, adamw(model), loader(data.train, True), loader(data.val, False))


def ours(folder: str | None = None) -> Outcome:
    from modelfactory.training.trainer import train_model
    from modelfactory.training.training_spec import training_spec

    optimizer = {"_target_": "torch.optim.AdamW", "lr": LR}
    settings = {"max_epochs": EPOCHS + 1, "device": "cpu", "progress": "none"}
    history = train_model(mlp(), digits(), training_spec(optimizer, trainer=settings), run_dir=folder).history
    first, last = history[0], history[-1]
    return (last["step"] - first["step"]) / (last["seconds"] - first["seconds"]), last["val_accuracy"]


def ours_with_files() -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return ours(folder)


def fabric() -> Outcome:
    from lightning.fabric import Fabric

    data, own, model = digits(), Fabric(accelerator="cpu", devices=1), mlp()
    model, optimizer = own.setup(model, adamw(model))
    train, val = own.setup_dataloaders(loader(data.train, True), loader(data.val, False))
    return trained(model, optimizer, train, val, own.backward)


def accelerate() -> Outcome:
    from accelerate import Accelerator

    data, own, model = digits(), Accelerator(cpu=True), mlp()
    model, optimizer, train, val = own.prepare(model, adamw(model), loader(data.train, True), loader(data.val, False))
    return trained(model, optimizer, train, val, own.backward)


def lightning(batches: Callable[[Split, bool], Batches] = loader) -> Outcome:
    import logging
    import warnings

    from lightning.pytorch import LightningModule, Trainer

    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = mlp()
            self.begun = self.ended = self.accuracy = 0.0

        def configure_optimizers(self):
            return adamw(self)

        def training_step(self, batch, index):
            x, y = batch
            return F.cross_entropy(self.model(x), y)

        def validation_step(self, batch, index):
            x, y = batch
            output = self.model(x)
            self.total += F.cross_entropy(output, y) * len(y)
            self.right += (output.argmax(1) == y).sum()
            self.size += len(y)

        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.begun = time.perf_counter()

        def on_validation_epoch_start(self):
            self.total, self.right, self.size = torch.zeros(()), torch.zeros(()), 0

        def on_validation_epoch_end(self):
            self.loss, self.accuracy = float(self.total) / self.size, float(self.right) / self.size

        def on_train_end(self):
            self.ended = time.perf_counter()

    data, own = digits(), Module()
    bare = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=EPOCHS + 1, accelerator="cpu", devices=1, num_sanity_val_steps=0, **bare)
    trainer.fit(own, batches(data.train, True), batches(data.val, False))
    return trainer.global_step * EPOCHS / (EPOCHS + 1) / (own.ended - own.begun), own.accuracy


CONTENDERS: dict[str, tuple[Callable[[], Outcome], str | None]] = {
    "by hand": (by_hand, None),
    "by hand, training": (lambda: by_hand(validates=False), None),
    "DataLoader": (dataloader, None),
    "ours": (ours, None),
    "ours, files": (ours_with_files, None),
    "fabric": (fabric, "lightning"),
    "accelerate": (accelerate, "accelerate"),
    "lightning": (lightning, "lightning"),
    "lightning, slices": (lambda: lightning(Slices), "lightning"),
}


def run(name: str, threads: int) -> Outcome:
    """One contender in a process of its own."""
    settings = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, __file__, "--one", name], capture_output=True, text=True, env=settings)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def main(rounds: int = 7, threads: int = 1) -> None:
    here = [name for name, (_, library) in CONTENDERS.items() if library is None or find_spec(library)]
    found = [{name: run(name, threads) for name in (here if index % 2 else here[::-1])} for index in range(rounds)]
    print(f"{rounds} rounds, {threads} thread(s)")
    print(f"{'':19}{'steps/s':>9}{'least':>8}{'most':>8}{'/ by hand':>11}{'accuracy':>10}")
    for name in CONTENDERS:
        if name not in here:
            print(f"{name:19}{'not installed':>25}")
            continue
        speeds = [outcome[name][0] for outcome in found]
        accuracy = statistics.median(outcome[name][1] for outcome in found)
        speed, share = statistics.median(speeds), over(found, name, "by hand")
        print(f"{name:19}{speed:9.0f}{min(speeds):8.0f}{max(speeds):8.0f}{share:11.2f}{accuracy:10.3f}")
    print(f"ours / by hand {over(found, 'ours', 'by hand'):.2f} (goal >= 0.95)")
    if "lightning" in here:
        print(f"ours / lightning {over(found, 'ours', 'lightning'):.1f} (goal >= 3)")


def over(found: list[dict[str, Outcome]], one: str, other: str) -> float:
    """The median over rounds of the ratio of two contenders' speeds."""
    return statistics.median(outcome[one][0] / outcome[other][0] for outcome in found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(CONTENDERS[sys.argv[2]][0]()))
    else:
        main(*map(int, sys.argv[1:]))
