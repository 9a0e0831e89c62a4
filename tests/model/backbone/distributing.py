"""Trains one step of a model with a frozen backbone of pretrained weights, plain and distributed; run as a process of its own."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torchvision import models

import modelfactory as mf


def sharded(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(model.get_submodule("backbone"), mesh=mesh)
    fully_shard(model, mesh=mesh)  # in place
    return model


WAYS = {"ddp": DistributedDataParallel, "fsdp": sharded}


def step(model: nn.Module) -> None:
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)
    model.train()
    model(x).square().mean().backward()
    optimizer.step()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    whole = {name: getattr(value, "full_tensor", lambda value=value: value)() for name, value in model.state_dict().items()}
    return {name.removeprefix("module."): value for name, value in whole.items()}


def main(way: str, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    torch.manual_seed(0)
    torch.save(models.resnet18().state_dict(), folder / "weights.pt")
    words = (f"backbone.weights={folder}/weights.pt", "model=linear_head", "data=fake", "data.input_shape=[3,32,32]")
    model = mf.build(mf.compose("backbone=resnet18", *words, "freeze=backbone"))
    before, plain = copy.deepcopy(model.state_dict()), copy.deepcopy(model)
    distributed = WAYS[way](model)
    step(plain)
    step(distributed)
    after, wanted = state_of(distributed), plain.state_dict()
    dist.destroy_process_group()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    alike = list(after) == list(wanted) and all(torch.equal(after[name], wanted[name]) for name in wanted)
    print(*sorted(moved), "alike" if alike else "different")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
