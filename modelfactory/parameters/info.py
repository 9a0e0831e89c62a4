"""One parameter of a model: its names, its owner, and what it is there for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from torch import nn

from modelfactory.parameters.parametrized import Computed
from modelfactory.parameters.residual import Branch, Outline
from modelfactory.parameters.written import Written, is_authored
from modelfactory.tracing.activations import TracedActivation
from modelfactory.tracing.fans import TracedFans
from modelfactory.tracing.packed import Part

if TYPE_CHECKING:
    from modelfactory.parameters.facts import Facts


@dataclass(frozen=True)
class ParamFacts:
    """What is known of one parameter.

    Attributes:
        roles: what it is there for, the most telling role first.
        parts: the matrices that it packs, where it packs several.
        packed: the names of those; a number for one that has none.
        branch: the residual branch of which it is a matrix, a bias, or the norm at the end.
        fans: of each product of matrices that takes it.
        axes: those that a declaration says are summed over and come out; None where none does.
        activation: what acts on the input of its layer.
        met: whether the run that was looked at used it.
    """

    roles: tuple[str, ...]
    parts: tuple[Part, ...] = ()
    packed: tuple[str, ...] = ()
    branch: Branch | None = None
    fans: tuple[TracedFans, ...] = ()
    axes: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    activation: TracedActivation | None = None
    met: bool = False


@dataclass(frozen=True)
class ParamInfo:
    """A parameter of a model: its names (more than one when it is tied), its owner and what it is there for.

    Attributes:
        names: every full name under which the model holds it; `name` is the first.
        parameter: the tensor itself.
        module: the module that owns it, `module_name` that module's full name ("" for the model itself).
        attr: its name inside `module`.
        index: its place among the model's parameters, in registration order.
        outline: the layers of the model.
        model: what is known of the model's parameters, found out when it is first asked for.
        computed: of a parameter from which a layer computes its weight, that weight; module, attr and roles are the weight's then.
        padding: the row that is for padding and stays 0, of an embedding's weight, by whichever of its names the embedding has it.
        block: of a packed parameter, which of its matrices is meant alone.
    """

    names: tuple[str, ...]
    parameter: nn.Parameter
    module: nn.Module
    module_name: str
    attr: str
    index: int
    outline: Outline = field(repr=False, compare=False)
    model: Facts = field(repr=False, compare=False)
    computed: Computed | None = field(default=None, repr=False, compare=False)
    padding: int | None = None
    block: int | None = None

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

    @property
    def written(self) -> Written | None:
        """What constructors wrote to it; None where they were not watched."""
        return self.model.written.get(self.names[0])

    @property
    def facts(self) -> ParamFacts:
        return self.model.of(self.index)

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """What it is there for, the most telling role first; of one matrix of a packed parameter, what that is there for."""
        facts = self.facts
        roles = facts.roles
        if self.block is not None:
            own = [block_role(name) for name in facts.packed]
            roles = (*(role for role in roles if role not in own), *([own[self.block]] if own[self.block] else []))
        by_hand = "authored" not in roles and is_authored(self.parameter, roles, self.written)
        return (*roles, "authored") if by_hand else roles

    @property
    def packed(self) -> tuple[str, ...]:
        """The names of the matrices that it packs (query, key, value; input, forget, ...)."""
        return self.facts.packed

    @property
    def parts(self) -> tuple[Part, ...]:
        """The matrices that it packs, or the one that is meant."""
        parts = self.facts.parts
        return parts if self.block is None else (parts[self.block],)

    @property
    def branch(self) -> Branch | None:
        """The residual branch that it belongs to."""
        return self.facts.branch

    def blocks(self) -> list[ParamInfo]:
        """Itself, once for each matrix that it packs, with that matrix's roles.

        Example:
            >>> from modelfactory.parameters.roles import describe
            >>> [block.roles for block in describe(nn.MultiheadAttention(4, 2))[0].blocks()]
            [('weight', 'stem', 'query'), ('weight', 'stem', 'key'), ('weight', 'stem', 'value')]
        """
        return [replace(self, block=place) for place in range(len(self.packed))]


_PLAIN = frozenset({"query", "key", "value", "gate", "up"})


def block_role(name: str) -> str:
    """The role of a block of a packed parameter, by the block's name; "" of one that has only a number."""
    return name if name in _PLAIN else "" if name.isdigit() else f"{name}_gate"
