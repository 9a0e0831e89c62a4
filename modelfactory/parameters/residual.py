"""The residual branches of a model, and the outline of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

MATRICES = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, eq=False)
class Branch:
    """What is added to a signal that goes around it.

    Attributes:
        name: of the module that its weights lie in.
        weights: the names of its matrices, in the order of the run.
        inside: the names of all of its parameters, those of gates, norms and biases too.
        ends: those whose outputs are added to the signal.
        norm: the name of the scale of the norm between the ends and the sum, None without one.
        layers: how many matrices follow each other in it.
        in_decoder: whether it is one of a decoder that attends to an encoder.
        width: of the residual stream.
        all: every branch of the model.
        base_branches: where its container multiplies it by this over the number of branches; None where nothing does.
    """

    name: str
    weights: tuple[str, ...]
    inside: frozenset[str]
    ends: tuple[str, ...]
    norm: str | None
    layers: int
    in_decoder: bool
    width: int
    all: list[Branch] = field(repr=False)
    base_branches: float | None = None

    @property
    def undivided(self) -> float:
        """How many branches the weights have to divide by: all, or where the container does it, those at which it divides by 1."""
        return len(self.all) if self.base_branches is None else self.base_branches

    @property
    def silenced_by(self) -> tuple[str, ...]:
        """The parameters that, at 0, silence the branch: the scale of the norm that ends it, else its ends."""
        return self.ends if self.norm is None else (self.norm,)

    @property
    def depth(self) -> float:
        """How many layers of a transformer there are of this kind: 2 branches each, 3 in a decoder."""
        return sum(other.in_decoder == self.in_decoder for other in self.all) / (3 if self.in_decoder else 2)

    @property
    def layer(self) -> int:
        """Which layer of its kind it is in, counted from 0."""
        of_its_kind = [other for other in self.all if other.in_decoder == self.in_decoder]
        place = next(index for index, other in enumerate(of_its_kind) if other is self)
        return place // (3 if self.in_decoder else 2)

    @property
    def other_depth(self) -> float:
        """How many layers of the other kind, encoder or decoder, there are."""
        return sum(other.in_decoder != self.in_decoder for other in self.all) / (2 if self.in_decoder else 3)


class Outline:
    """Where each layer of a model begins and ends: parameters counted in registration order, the end not included.

    Attributes:
        begins: each module's name, a parent before its children, with its first parameter.
        size: how many parameters there are.
        stateful: modules that have buffers and, with all inside of them, no parameter, each with its name.
    """

    def __init__(self) -> None:
        self.begins: list[tuple[str, int]] = []
        self.size = 0
        self.stateful: list[tuple[str, nn.Module]] = []

    def is_between(self, name: str, before: str, after: str) -> bool:
        """Whether a layer is registered before one layer and after another, each the whole name or its end; "" sets no bound."""
        order = {layer: place for place, (layer, _) in enumerate(self.begins)}
        for bound, sign in ((before, 1), (after, -1)):
            found = self.find(bound) if bound else []
            if bound and len(found) != 1:
                return False
            outer, inner = (name, found[0]) if bound and sign > 0 else (found[0] if bound else "", name)
            if bound and (order[outer] >= order[inner] or f"{inner}.".startswith(f"{outer}.") or not outer):
                return False
        return True

    @cached_property
    def spans(self) -> dict[str, tuple[int, int]]:
        """The first parameter of each layer, and the first behind it."""
        found: dict[str, tuple[int, int]] = {}
        inside: list[tuple[str, int]] = []
        for name, begin in [*self.begins, (None, self.size)]:
            while inside and inside[-1][0] and (name is None or not name.startswith(f"{inside[-1][0]}.")):
                layer, first = inside.pop()
                found[layer] = (first, begin)
            if name is not None:
                inside.append((name, begin))
        return {layer: found.get(layer, (0, self.size)) for layer, _ in self.begins}

    def find(self, name: str) -> list[str]:
        """The layers of this whole name, else those whose name ends so.

        Example:
            >>> from modelfactory.parameters.roles import describe
            >>> describe(nn.Sequential(nn.Sequential(nn.Linear(2, 3)), nn.Linear(3, 1)))[0].outline.find("0")
            ['0']
        """
        return [name] if name in self.spans else [layer for layer in self.spans if layer.endswith(f".{name}")]


def walk_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module under each of its names, a parent before its children: named_modules(remove_duplicate=False), quicker."""
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        name, module = stack.pop()
        yield name, module
        if module._modules:
            prefix = f"{name}." if name else ""
            stack.extend((prefix + child_name, child) for child_name, child in reversed(module._modules.items()) if child is not None)
