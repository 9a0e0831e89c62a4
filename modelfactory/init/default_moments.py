"""What torch.nn's authors wrote: mean and std of a parameter that keeps its layer's own init."""

from __future__ import annotations

import math

from torch import nn

from modelfactory.init.fans import torch_fans
from modelfactory.model.layers.containers import Residual
from modelfactory.model.layers.glue import PositionalEmbedding
from modelfactory.parameters.residual import NORMS

_UNKNOWN = (math.nan, math.nan)


def authored_moments(module: nn.Module, attr: str) -> tuple[float, float]:
    """Mean and std of `attr` as the module's class initialises it; NaN where it is not one of the known classes.

    Linear and Conv: U(-1/sqrt(n), 1/sqrt(n)) with torch's fan_in for weight and bias; recurrent layers the same with the
    hidden size; MultiheadAttention: xavier_uniform over its packed matrix, biases 0; Embedding: N(0, 1); norms: 1 and 0.

    Example:
        >>> authored_moments(nn.LayerNorm(4), "weight")
        (1.0, 0.0)
        >>> round(authored_moments(nn.Linear(12, 4), "weight")[1], 4)
        0.1667
    """
    parameter = getattr(module, attr)
    if isinstance(module, NORMS):
        return (1.0, 0.0) if attr == "weight" else (0.0, 0.0)
    if isinstance(module, nn.MultiheadAttention):
        return _attention(module, attr, tuple(parameter.shape))
    if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
        return 0.0, _of_uniform(torch_fans(module.weight.shape).fan_in)
    if isinstance(module, nn.Bilinear):
        return 0.0, _of_uniform(module.weight.shape[1])
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return 0.0, _of_uniform(module.hidden_size)
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return 0.0, 1.0
    if isinstance(module, nn.PReLU):
        return module.init, 0.0
    if isinstance(module, PositionalEmbedding):
        return 0.0, module.std
    if isinstance(module, Residual):
        return module.learn_scale, 0.0
    return _UNKNOWN


def _of_uniform(fan: float) -> float:
    """The std of U(-1/sqrt(fan), 1/sqrt(fan)); 0 without inputs, where torch sets the bias to 0."""
    return 1 / math.sqrt(3 * fan) if fan else 0.0


def _attention(module: nn.MultiheadAttention, attr: str, shape: tuple[int, ...]) -> tuple[float, float]:
    if attr == "in_proj_bias":
        return 0.0, 0.0
    if attr in ("bias_k", "bias_v"):  # xavier_normal over [1, 1, E]: torch's fans of that shape
        fans = torch_fans(shape)
        return 0.0, math.sqrt(2 / (fans.fan_in + fans.fan_out))
    return 0.0, math.sqrt(2 / sum(shape))
