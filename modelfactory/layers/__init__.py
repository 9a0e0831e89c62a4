"""Containers and small layers that the grammar needs and torch.nn lacks, and the inference of sizes."""

from modelfactory.layers.containers import Parallel, Residual
from modelfactory.layers.glue import Item, Permute, PositionalEmbedding, Reduce, Select, SelfAttention

__all__ = ["Item", "Parallel", "Permute", "PositionalEmbedding", "Reduce", "Residual", "Select", "SelfAttention"]
