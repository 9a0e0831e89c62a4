"""From the grammar of a config to a plain nn.Module."""

from modelfactory.definition import Definition
from modelfactory.model.blueprint import Chain, Draft, Leaf, assemble
from modelfactory.model.front import BACKBONE, put_in_front, read_front
from modelfactory.model.grammar import read_activation, read_model

__all__ = [
    "BACKBONE",
    "Chain",
    "Definition",
    "Draft",
    "Leaf",
    "assemble",
    "put_in_front",
    "read_activation",
    "read_front",
    "read_model",
]
