"""From the grammar of a config to a plain nn.Module."""

from modelfactory.definition import Definition
from modelfactory.model.blueprint import Chain, Draft, Leaf, assemble
from modelfactory.model.grammar import read_activation, read_model

__all__ = ["Chain", "Definition", "Draft", "Leaf", "assemble", "read_activation", "read_model"]
