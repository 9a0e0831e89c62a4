"""Build and initialise from a config, against the model constructed by hand and re-initialised layer by layer.

python benchmarks/build.py [rounds]
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torchvision
from _ratio import ratio
from torch import nn

import modelfactory as mf


def mlp_by_hand(depth: int, width: int) -> nn.Module:
    layers = OrderedDict()
    for index in range(depth):
        layers[str(index)] = nn.Sequential(OrderedDict(fc=nn.Linear(width, width), act=nn.ReLU()))
    return nn.Sequential(OrderedDict(hidden=nn.Sequential(layers), head=nn.Linear(width, 10)))


def reinitialised(model: nn.Module) -> nn.Module:
    """What people do: every layer again, over what its constructor drew."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            nn.init.kaiming_normal_(module.in_proj_weight, nonlinearity="relu")
    return model


def built_and_reinitialised(build: Callable[[], nn.Module]) -> nn.Module:
    return reinitialised(build())


def mlp_config(depth: int, width: int) -> dict:
    body = {"fc": {"_target_": "torch.nn.Linear", "out_features": width}, "act": {"_target_": "torch.nn.ReLU"}}
    layers = {"hidden": {"repeat": depth, "layers": body}, "head": {"_target_": "torch.nn.Linear", "out_features": 10}}
    return {"model": {"layers": layers}, "data": {"input_shape": [width]}, "init": "kaiming_normal", "seed": 0}


def torchvision_config(name: str, size: int) -> dict:
    model = {"_target_": f"torchvision.models.{name}"}
    return {"model": model, "data": {"input_shape": [3, size, size]}, "init": "kaiming_normal", "seed": 0}


CASES = {
    "MLP, 10 layers of width 512": (mlp_config(10, 512), lambda: mlp_by_hand(10, 512), 0.55),
    "MLP, 1,000 layers of width 64": (mlp_config(1000, 64), lambda: mlp_by_hand(1000, 64), 0.70),
    "torchvision resnet50": (torchvision_config("resnet50", 224), torchvision.models.resnet50, 0.30),
    "torchvision vit_l_16": (torchvision_config("vit_l_16", 224), torchvision.models.vit_l_16, 0.30),
}


def main(rounds: int = 9) -> None:
    print(f"{'':32}{'config s':>10}{'by hand s':>11}{'ratio':>8}{'goal':>7}")
    for name, (config, by_hand, goal) in CASES.items():
        ours, theirs = partial(mf.build, config), partial(built_and_reinitialised, by_hand)
        own, other, share = ratio(ours, theirs, rounds if "vit" not in name else 3)
        print(f"{name:32}{own:10.4f}{other:11.4f}{share:8.2f}{goal:7.2f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
