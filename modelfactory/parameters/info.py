"""One parameter of a model: its names, its owner, and what it is there for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import nn

from modelfactory.parameters.parametrized import Computed
from modelfactory.parameters.residual import Branch, Outline


@dataclass(frozen=True)
class ParamInfo:
    """A parameter of a model: its names (more than one when it is tied), its owner and what it is there for.

    Attributes:
        names: every full name under which the model holds it; `name` is the first.
        parameter: the tensor itself.
        module: the module that owns it, `module_name` that module's full name ("" for the model itself).
        attr: its name inside `module`.
        roles: what it is there for, the most telling role first.
        packed: the names of the blocks that it packs along its first axis (query, key, value; input, forget, ...).
        branch: the residual branch of which its module is a layer or the norm at the end.
        computed: of a parameter from which a layer computes its weight, that weight; module, attr and roles are the weight's then.
        padding: the row that is for padding and stays 0, of an embedding's weight, by whichever of its names the embedding has it.
        index: its place among the model's parameters, in registration order.
        outline: the layers of the model.
    """

    names: tuple[str, ...]
    parameter: nn.Parameter
    module: nn.Module
    module_name: str
    attr: str
    roles: tuple[str, ...]
    index: int
    outline: Outline = field(repr=False, compare=False)
    packed: tuple[str, ...] = ()
    branch: Branch | None = field(default=None, repr=False, compare=False)
    computed: Computed | None = field(default=None, repr=False, compare=False)
    padding: int | None = None

    @property
    def key(self) -> str:
        """The name that its values are drawn by: the computed weight's, so that it is drawn as a plain layer's would be."""
        return self.names[0] if self.computed is None else self.computed.name

    @property
    def known_as(self) -> tuple[str, ...]:
        """Its names, and that of the weight that is computed from it."""
        return self.names if self.computed is None else (*self.names, self.computed.name)

    @property
    def follows(self) -> bool:
        """Whether another parameter stands for the weight that is computed from both."""
        return self.computed is not None and not self.computed.leads

    @property
    def name(self) -> str:
        return self.names[0]

    def blocks(self) -> list[ParamInfo]:
        """Itself, once for each block that it packs, with that block's roles.

        Example:
            >>> from modelfactory.parameters.roles import describe
            >>> [block.roles for block in describe(nn.MultiheadAttention(4, 2))[0].blocks()]
            [('weight', 'hidden', 'query'), ('weight', 'hidden', 'key'), ('weight', 'hidden', 'value')]
        """
        own = [block_role(name) for name in self.packed]
        shared = tuple(role for role in self.roles if role not in own)
        return [replace(self, roles=(*shared, role)) for role in own]


def block_role(name: str) -> str:
    """The role of a block of a packed parameter, by the block's name."""
    return name if name in ("query", "key", "value") else f"{name}_gate"
