"""Many small models at once on an accelerator, against one after another.

python benchmarks/sweep_gpu.py [device] [epochs] [models...]      (the accelerator, 5 epochs, 64 256 1024)

Models of one architecture with seeds of their own on digits, Adam, batches of 64: as one stack by the trainer of a sweep, against
the same trainer on a few of them one after another, whose time is that of each. Seconds a model, and how many times faster.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

import modelfactory as mf
from modelfactory.training.together import train_together
from modelfactory.training.trainer import train_model, training
from modelfactory.training.training_spec import training_spec

MODELS = {"mlp, width 128": ("model=mlp", "model.width=128"), "cnn, width 8": ("model=cnn", "model.width=8")}
ALONE = 4  # models that are trained one after another


def main(device: str, epochs: int, counts: Sequence[int]) -> None:
    settings = training_spec(
        optimizer={"_target_": "torch.optim.Adam", "lr": 1e-3},
        trainer={"max_epochs": epochs, "device": device, "progress": "none"},
    )
    data = mf.build_data(mf.compose("data.batch_size=64"))
    print(f"{'model':16}{'at once':>8}{'s a model':>11}{'one by one':>12}{'times faster':>14}", flush=True)
    for title, words in MODELS.items():
        config = mf.compose(*words)

        def built(count: int, config: Any = config) -> list[torch.nn.Module]:
            return [mf.build({**config, "seed": seed}) for seed in range(count)]

        def one_by_one(models: Sequence[torch.nn.Module]) -> None:
            for seed, model in enumerate(models):
                train_model(model, data, settings, seed=seed)

        def together(models: Sequence[torch.nn.Module]) -> None:
            for result in train_together([training(model, data, settings, seed=seed, quiet=True) for seed, model in enumerate(models)]):
                if isinstance(result, Exception):
                    raise result

        one_by_one(built(1)), together(built(2))  # the device, its kernels and what is imported are ready
        alone = _seconds(one_by_one, built(ALONE), device) / ALONE
        for count in counts:
            took = _seconds(together, built(count), device) / count
            print(f"{title:16}{count:8}{took:11.4f}{alone:12.4f}{alone / took:14.1f}", flush=True)


def _seconds(work: Callable[[list[torch.nn.Module]], None], models: list[torch.nn.Module], device: str) -> float:
    begun = time.perf_counter()
    work(models)
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - begun


if __name__ == "__main__":
    given = sys.argv[1:]
    chosen = given[0] if given else str(torch.accelerator.current_accelerator() or "cpu")
    main(chosen, int(given[1]) if len(given) > 1 else 5, [int(count) for count in given[2:]] or [64, 256, 1024])
