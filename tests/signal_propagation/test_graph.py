"""What a model does to a signal, seen: functional, in-place and residual calls, and no hook left behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelfactory.signal_propagation.graph import trace


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.act(self.norm(self.conv(x)))
        kept += F.silu(self.norm(kept))
        return self.act(kept).mean((2, 3))


def test_every_call_of_a_forward_of_ones_own_is_seen():
    graph, _ = trace(Net(), torch.randn(2, 3, 5, 5))
    seen = [(node.op, node.layer, node.inputs) for node in graph]
    assert seen == [
        ("input", "", []),
        ("conv2d", "conv", [0]),
        ("batch_norm", "norm", [1]),
        ("activation", "act", [2]),
        ("batch_norm", "norm", [3]),
        ("activation", "", [4]),
        ("add", "", [3, 5]),
        ("activation", "act", [6]),
        ("mean", "", [7]),
    ]
    assert graph.outputs == (8,)


def test_on_the_meta_device_the_same_is_seen():
    with torch.device("meta"):
        model = Net()
    graph, output = trace(model, torch.empty(2, 3, 5, 5, device="meta"))
    assert [node.op for node in graph] == [node.op for node in trace(Net(), torch.randn(2, 3, 5, 5))[0]]
    assert output.is_meta


def test_nothing_is_left_behind_even_when_the_forward_fails():
    class Fails(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.conv(x)
            raise RuntimeError("no")

    for model in (Net(), Fails()):
        x = torch.randn(2, 3, 5, 5)
        try:
            _, output = trace(model, x)
            assert not hasattr(output, "_signal_node")
        except RuntimeError:
            pass
        assert not hasattr(x, "_signal_node")
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_module_that_hides_what_it_does_is_one_node():
    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(x.detach().numpy() * 2)

    graph, _ = trace(nn.Sequential(nn.Linear(3, 3), Opaque()), torch.randn(2, 3))
    assert (graph.nodes[-1].op, graph.nodes[-1].label, graph.nodes[-1].inputs) == ("module", "Opaque", [1])
