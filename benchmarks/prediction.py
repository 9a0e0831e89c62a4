"""How far the prediction of the signal is off: predicted against measured, row by row, over models as their authors made them.

    python benchmarks/prediction.py [--draws 3] [--only torchvision,timm,transformers,plain] [--match PART] [--write]

Each model is made anew for each draw, in training mode (dropout off), and looked at with one batch of standard normal inputs or random
ids. Measured is the root of the mean power over the draws. --write puts the table between the marks in docs/signal.md.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import modelfactory as mf
from modelfactory.signal_propagation.verdict import is_fatal

ROOT = Path(__file__).resolve().parents[1]
MARKS = "<!-- errors -->", "<!-- end of errors -->"
Made = tuple[nn.Module, Any]

TORCHVISION = (
    "alexnet vgg11 vgg11_bn vgg16_bn resnet18 resnet34 resnet50 resnext50_32x4d densenet121 squeezenet1_0 squeezenet1_1 mobilenet_v2 "
    "mobilenet_v3_small shufflenet_v2_x0_5 shufflenet_v2_x1_0 mnasnet0_5 efficientnet_b0 regnet_x_400mf regnet_y_400mf googlenet "
    "convnext_tiny swin_t"
).split()
TIMM = (
    "test_vit test_vit2 test_vit3 test_resnet test_efficientnet test_efficientnet_ln test_efficientnet_gn test_mambaout test_convnext "
    "test_convnext2 test_nfnet test_byobnet ghostnet_050 tinynet_e lcnet_050 repvit_m0_9 edgenext_xx_small mixer_s32_224 resmlp_12_224 "
    "semnasnet_050"
).split()


class Gpt(nn.Module):
    """Causal pre-norm blocks on random ids."""

    def __init__(self, width: int = 64, depth: int = 4):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(100, width), nn.Embedding(32, width)
        kind = {"activation": nn.functional.gelu, "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, **kind) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 100, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        for block in self.blocks:
            x = block(x, mask, is_causal=True)
        return self.head(self.norm(x))


class Graph(nn.Module):
    """Graph convolutions on a ring."""

    def __init__(self, nodes: int = 16, width: int = 64):
        super().__init__()
        ring = sum(torch.eye(nodes).roll(shift, 0) for shift in (-1, 0, 1)) / 3
        self.register_buffer("adjacency", ring)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(self.adjacency @ x))
        return x


class UNet(nn.Module):
    """Two scales, with a skip between."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(2 * width, width, 4, 2, 1))
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(2 * width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.cat([x, torch.relu(self.inner(x))], 1))


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class Last(nn.Module):
    """The last state of a recurrent layer."""

    def __init__(self, kind: type[nn.Module]):
        super().__init__()
        self.rnn, self.head = kind(32, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def mlp(activation: type[nn.Module], depth: int = 10, width: int = 256, norm: bool = False) -> nn.Module:
    parts = [(nn.Linear(width, width), *([nn.BatchNorm1d(width)] if norm else []), activation()) for _ in range(depth)]
    return nn.Sequential(*(layer for part in parts for layer in part), nn.Linear(width, 10))


def encoder(first: bool, depth: int) -> nn.Module:
    """Layers made one by one: nn.TransformerEncoder copies one, so that all of them begin with the same values."""
    layers = [nn.TransformerEncoderLayer(64, 4, 128, 0.0, batch_first=True, norm_first=first) for _ in range(depth)]
    return nn.Sequential(nn.Linear(16, 64), *layers, nn.Linear(64, 10))


def rows(count: int = 64, width: int = 256) -> Tensor:
    return torch.randn(count, width)


def dcgan(generator: bool) -> nn.Module:
    sizes = [(32, 64), (64, 32), (32, 16)]
    if generator:
        parts = [(nn.ConvTranspose2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in sizes]
        return nn.Sequential(*(layer for part in parts for layer in part), nn.Conv2d(16, 3, 3, padding=1), nn.Tanh())
    parts = [(nn.Conv2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.LeakyReLU(0.2)) for a, b in ((3, 32), (32, 64), (64, 64))]
    return nn.Sequential(*(layer for part in parts for layer in part), nn.Flatten(), nn.LazyLinear(1))


def image(count: int = 8, size: int = 64) -> Tensor:
    return torch.randn(count, 3, size, size)


ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.Sigmoid)
PLAIN: dict[str, Callable[[], Made]] = {
    **{f"mlp 10 x 256, {kind.__name__}": lambda kind=kind: (mlp(kind), rows()) for kind in ACTIVATIONS},
    "mlp with batch norm, ReLU": lambda: (mlp(nn.ReLU, norm=True), rows(128)),
    "pre-norm encoder, 4": lambda: (encoder(True, 4), torch.randn(16, 12, 16)),
    "pre-norm encoder, 24": lambda: (encoder(True, 24), torch.randn(8, 12, 16)),
    "post-norm encoder, 6": lambda: (encoder(False, 6), torch.randn(16, 12, 16)),
    "GPT-2-like, causal": lambda: (Gpt(), torch.randint(0, 100, (8, 32))),
    "graph convolution": lambda: (Graph(), torch.randn(32, 16, 64)),
    "U-Net": lambda: (UNet(), image(8, 16)),
    "SIREN": lambda: (nn.Sequential(*(layer for _ in range(5) for layer in (nn.Linear(256, 256), Sine()))), rows()),
    "GAN, generator": lambda: (dcgan(True), torch.randn(16, 32, 4, 4)),
    "GAN, discriminator": lambda: (dcgan(False), image(16, 32)),
    "LSTM": lambda: (Last(nn.LSTM), torch.randn(16, 10, 32)),
    "GRU": lambda: (Last(nn.GRU), torch.randn(16, 10, 32)),
}


def from_torchvision(name: str) -> Made:
    import torchvision

    extra = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    return torchvision.models.get_model(name, weights=None, **extra), image()


def from_timm(name: str) -> Made:
    import timm

    model = timm.create_model(name, pretrained=False)
    return model, image(8, model.default_cfg["input_size"][1])


def from_transformers(name: str) -> Made:
    sys.path.insert(0, str(ROOT))
    from tests.tracing.small_transformers import KNOWN

    return KNOWN[name].make()


def groups(wanted: list[str]) -> Iterator[tuple[str, str, Callable[[], Made]]]:
    """The models of the groups that are wanted: group, name, and what makes it."""
    if "plain" in wanted:
        yield from (("plain torch", name, make) for name, make in PLAIN.items())
    if "torchvision" in wanted:
        yield from (("torchvision", name, lambda name=name: from_torchvision(name)) for name in TORCHVISION)
    if "timm" in wanted:
        yield from (("timm", name, lambda name=name: from_timm(name)) for name in TIMM)
    if "transformers" in wanted:
        sys.path.insert(0, str(ROOT))
        from tests.tracing.small_transformers import KNOWN

        yield from (("transformers", name, lambda name=name: from_transformers(name)) for name in KNOWN)


def look(make: Callable[[], Made], draws: int) -> list[str]:
    """The cells of a model's row: calls, predicted forward and backward, and of their errors the median and shares within bounds."""
    powers: dict[int, list[list[float]]] = {}
    fatal = unexpected = calls = 0
    for seed in range(draws):
        torch.manual_seed(seed)
        model, x = make()
        for module in model.train().modules():
            if isinstance(module, (nn.Dropout, nn.MultiheadAttention)):
                setattr(module, "p" if isinstance(module, nn.Dropout) else "dropout", 0.0)
        table = mf.signal(model, x, seed=seed)
        calls, fatal = len(table), fatal + is_fatal(table)
        unexpected += sum(row.verdict == "unexpected" for row in table)
        for index, row in enumerate(table):
            one = (row.predicted.forward, row.measured.forward, row.predicted.gradient, row.measured.gradient)
            powers.setdefault(index, []).append([value**2 for value in one])
    mean = [[math.sqrt(sum(column) / len(column)) for column in zip(*found, strict=True)] for found in powers.values()]
    forward = errors([(p, m) for p, m, _, _ in mean])
    backward = errors([(p, m) for _, _, p, m in mean])
    verdicts = f"{fatal} fatal, {unexpected} unexpected" if fatal or unexpected else "none"
    return [str(calls), *told(forward, 0.1), *told(backward, 0.2), verdicts]


def errors(pairs: list[tuple[float, float]]) -> list[float]:
    """Relative errors of what was both predicted and measured."""
    return sorted(abs(p / m - 1) for p, m in pairs if math.isfinite(p) and math.isfinite(m) and m > 0)


def told(found: list[float], bound: float) -> list[str]:
    if not found:
        return ["0", "", "", ""]
    within = sum(error <= bound for error in found) / len(found)
    return [str(len(found)), f"{found[len(found) // 2]:.1%}", f"{within:.0%}", f"{found[-1]:.0%}"]


HEAD = (
    "| model | calls | forward predicted | median error | within 10% | largest | gradient predicted | median error | within 20% | "
    "largest | verdicts |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--match", default="", help="models whose names have this part")
    parser.add_argument("--only", default="plain,torchvision,timm,transformers")
    parser.add_argument("--write", action="store_true", help="put the table into docs/signal.md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = [HEAD]
    print(HEAD)
    for group, name, make in groups(given.only.split(",")):
        if given.match not in name:
            continue
        try:
            cells = look(make, given.draws)
        except Exception as error:  # a model that its library cannot make here is told, and the others go on
            cells = [f"{type(error).__name__}: {str(error).splitlines()[0][:60]}", *[""] * 9]
        lines.append(f"| {group}: {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    if given.write:
        page = ROOT / "docs" / "signal.md"
        between = f"{MARKS[0]}\n" + "\n".join(lines) + f"\n{MARKS[1]}"
        text = re.sub(f"{MARKS[0]}.*?{MARKS[1]}", lambda _: between, page.read_text(), flags=re.DOTALL)
        page.write_text(text)


if __name__ == "__main__":
    main()
