"""An epoch of the head on features that are kept, against one through the frozen backbone: ResNet-18, 64 x 64 images, CPU.

python benchmarks/features.py [rounds]
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections import OrderedDict

import torch
import torchvision
from torch import nn

import modelfactory as mf
from modelfactory.data import Data, Split
from modelfactory.training.trainer import train_model
from modelfactory.training.training_spec import training_spec

SAMPLES, SIDE, CLASSES = 256, 64, 10
EPOCHS = 20  # of the fast one, for one of the slow one


def make_data() -> Data:
    source = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 3, SIDE, SIDE, generator=source)
    y = torch.randint(CLASSES, (SAMPLES,), generator=source)
    return Data(Split(x, y), Split(x[:64], y[:64]), "classification", CLASSES, (3, SIDE, SIDE), batch_size=64)


def make_model() -> nn.Module:
    body = torchvision.models.resnet18()
    body.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    model = nn.Sequential(OrderedDict(backbone=body, fc=nn.Linear(512, 256), act=nn.ReLU(), head=nn.Linear(256, CLASSES)))
    mf.freeze(model, ["backbone.*"])
    return model


def epoch_seconds(model: nn.Module, data: Data, epochs: int, cached: bool) -> tuple[float, float]:
    """The median wall time of an epoch, validation included, and the time before the first one."""
    begun = [time.perf_counter()]
    trainer = {"max_epochs": epochs + 1, "device": "cpu", "progress": "none", "cache_features": cached}
    train_model(model, data, training_spec(trainer=trainer), before_epoch=lambda _: begun.append(time.perf_counter()))
    lengths = [later - earlier for earlier, later in itertools.pairwise(begun)]
    return statistics.median(lengths[1:]), lengths[0]


def main(rounds: int = 5) -> None:
    data, model = make_data(), make_model()
    shares = []
    for index in range(rounds + 1):
        slow, _ = epoch_seconds(model, data, 1, False)
        fast, before = epoch_seconds(model, data, EPOCHS, True)
        if index:  # the first round warms up
            shares.append((slow, fast, slow / fast, before / slow))
    slow, fast, times, before = (statistics.median(values) for values in zip(*shares, strict=True))
    print(f"resnet18, {SAMPLES} images of {SIDE} x {SIDE}, {torch.get_num_threads()} threads: seconds an epoch, validation included")
    print(f"through the backbone {slow:.3f}   on kept features {fast:.4f}   {times:.0f} times faster (goal: 10)")
    print(f"computing the features, once, with the setup: {before:.2f} of an epoch through the backbone")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
