"""Weights that a layer computes from its parameters: weight norm, spectral norm, orthogonal matrices.

Writing to such a `weight` changes nothing that lasts. A value is put in through the parameters from which it is computed:
with weight norm the computed weight is then that value, with spectral norm it is the value over its largest singular
value, and an orthogonal weight is the orthogonal matrix next to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from modelfactory.config.schema import join

_ITERATIONS = 15  # of the power method, as torch does when it makes a spectral norm
_KNOWN = (parametrizations._WeightNorm, parametrizations._SpectralNorm, parametrizations._Orthogonal)


@dataclass(frozen=True, eq=False)
class Computed:
    """What a parameter is there to compute.

    Attributes:
        name: the full name of the computed tensor, such as fc.weight.
        attr: its name in the layer.
        leads: whether the parameter has the computed tensor's shape, so that it stands for it; the others follow.
        kept: whether the parameter holds the value that was put in, so that its statistics are the scheme's.
        put: gives the computed tensor a value, as far as it can have it, by way of all its parameters.
    """

    name: str
    attr: str
    leads: bool
    kept: bool
    put: Callable[[Tensor], None]


def is_computing(module: nn.Module) -> bool:
    """Whether a module's parameters may be what a weight is computed from.

    Example:
        >>> is_computing(nn.Linear(2, 2)), is_computing(parametrizations.weight_norm(nn.Linear(2, 2)).parametrizations.weight)
        (False, True)
    """
    return bool(module._forward_pre_hooks) or isinstance(module, ParametrizationList)


def computed_by(
    module: nn.Module, module_name: str, attr: str, owners: Mapping[str, nn.Module]
) -> tuple[nn.Module, str, Computed] | None:
    """The layer that computes a weight from parameter `attr` of `module`, its name, and what it computes; None of any other.

    Args:
        owners: modules with parametrizations, by name.

    Example:
        >>> layer = parametrizations.weight_norm(nn.Linear(2, 3))
        >>> _, name, computed = computed_by(layer.parametrizations.weight, "fc.parametrizations.weight", "original1", {"fc": layer})
        >>> name, computed.name, computed.leads
        ('fc', 'fc.weight', True)
    """
    if isinstance(module, ParametrizationList):
        above, _, tensor_name = module_name.rpartition(".")
        owner_name = above.rpartition(".")[0]
        owner, steps = owners.get(owner_name), list(module)
        if owner is None or len(steps) != 1 or not isinstance(steps[0], _KNOWN) or not _can_be_given(steps[0]):
            return None
        leads = attr in ("original", "original1")
        kept = leads and not isinstance(steps[0], parametrizations._Orthogonal)
        return owner, owner_name, Computed(join(owner_name, tensor_name), tensor_name, leads, kept, partial(_put, module))
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and attr in (f"{hook.name}_g", f"{hook.name}_v"):
            leads = attr.endswith("_v")
            return module, module_name, Computed(join(module_name, hook.name), hook.name, leads, leads, partial(_put_norm, module, hook))
        if isinstance(hook, SpectralNorm) and attr == f"{hook.name}_orig":
            return module, module_name, Computed(join(module_name, hook.name), hook.name, True, True, partial(_put_spectral, module, hook))
    return None


def _can_be_given(step: nn.Module) -> bool:
    """Whether torch can go back from a weight: not to the free matrix of an exponential or a Cayley map without a base."""
    if not isinstance(step, parametrizations._Orthogonal):
        return True
    return step.orthogonal_map == parametrizations._OrthMaps.householder or hasattr(step, "base")


def _put(parametrization: ParametrizationList, value: Tensor) -> None:
    original: Any = getattr(parametrization, "original", None)
    original = parametrization.original0 if original is None else original
    parametrization.right_inverse(value.to(original.device, original.dtype))
    for step in parametrization:
        if isinstance(step, parametrizations._SpectralNorm) and original.ndim > 1:
            with torch.no_grad():
                step._power_method(step._reshape_weight_to_matrix(original), _ITERATIONS)


def _put_norm(module: nn.Module, hook: WeightNorm, value: Tensor) -> None:
    scale, direction = (module._parameters[f"{hook.name}_{letter}"] for letter in "gv")
    with torch.no_grad():
        direction.copy_(value)  # pyright: ignore[reportOptionalMemberAccess]
        scale.copy_(torch.norm_except_dim(direction, 2, hook.dim))  # pyright: ignore
        setattr(module, hook.name, hook.compute_weight(module))


def _put_spectral(module: nn.Module, hook: SpectralNorm, value: Tensor) -> None:
    """The parameter, and the vectors by which its largest singular value is estimated, which are those of its old value."""
    weight: Any = module._parameters[f"{hook.name}_orig"]
    u, v = (getattr(module, f"{hook.name}_{letter}") for letter in "uv")
    with torch.no_grad():
        weight.copy_(value)
        matrix = hook.reshape_weight_to_matrix(weight)
        for _ in range(_ITERATIONS):
            v.copy_(nn.functional.normalize(matrix.T @ u, dim=0, eps=hook.eps))
            u.copy_(nn.functional.normalize(matrix @ v, dim=0, eps=hook.eps))
        setattr(module, hook.name, weight / torch.dot(u, matrix @ v))
