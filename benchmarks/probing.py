"""What probing the signal costs: one probing against one training step of the same model and batch, interleaved.

    python benchmarks/probing.py [--rounds 9]

Goal: a probing takes at most 1.5 training steps. The prediction beside it, which looks at no data, is timed apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torchvision
from _ratio import ratio, seconds
from torch import Tensor, nn

from modelfactory.signal_propagation.measure import measure
from modelfactory.signal_propagation.probe import signal


def mlp() -> tuple[nn.Module, Tensor]:
    layers = [layer for _ in range(10) for layer in (nn.Linear(1024, 1024), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(1024, 10)), torch.randn(256, 1024)


def resnet() -> tuple[nn.Module, Tensor]:
    return torchvision.models.resnet18(num_classes=10), torch.randn(16, 3, 64, 64)


def transformer() -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), torch.randn(16, 64, 256)


def training_step(model: nn.Module, x: Tensor) -> Callable[[], object]:
    """Forward, backward and an AdamW step; the loss is the mean square of the output."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    print(f"{'model':12s} {'probing':>10s} {'step':>10s} {'ratio':>7s} {'with prediction':>16s}")
    for make in (mlp, resnet, transformer):
        model, x = make()
        probe = lambda model=model, x=x: measure(model, x)  # noqa: E731
        own, other, share = ratio(probe, training_step(model, x), rounds)
        whole = min(seconds(lambda model=model, x=x: signal(model, x)) for _ in range(3))
        print(f"{make.__name__:12s} {own * 1e3:7.1f} ms {other * 1e3:7.1f} ms {share:7.2f} {whole * 1e3:13.1f} ms")


if __name__ == "__main__":
    main()
