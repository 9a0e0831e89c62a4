"""What of a model is known to stack: layers whose numbers under `torch.vmap` do not depend on how many models there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from modelfactory.config.errors import ConfigError, Problem
from modelfactory.model.layers.containers import Parallel, Residual
from modelfactory.model.layers.glue import Item, Permute, PositionalEmbedding, Reduce, Select

_CONTAINERS = (nn.Sequential, Residual, Parallel, nn.ModuleList, nn.ModuleDict)
_LAYERS = (
    *(nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Identity, nn.Flatten, nn.Unflatten),
    *(Item, Select, Permute, Reduce, PositionalEmbedding),
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid, nn.Mish),
    *(nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold),
)
_LOSSES = (nn.CrossEntropyLoss, nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss)


def stacks(module: nn.Module) -> bool:
    """Whether `torch.vmap` may run the forward pass of this very module, whose children are looked at by themselves.

    Example:
        >>> stacks(nn.Linear(2, 2)), stacks(nn.BatchNorm1d(2))
        (True, False)
    """
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return type(module) in (*_CONTAINERS, *_LAYERS) and not hooks and not getattr(module, "inplace", False)


def why_alone(model: nn.Module) -> str | None:
    """Why a model is trained alone: no layer of it has parameters that can be stacked, or some are tied; None: it stacks.

    Example:
        >>> why_alone(nn.Sequential(nn.Linear(2, 2))), why_alone(nn.Sequential(nn.Conv2d(1, 1, 1)))
        (None, 'no layer with parameters is one that stacks: 0 (Conv2d)')
    """
    if not stacks(model):
        return f"the model is a {type(model).__name__}, whose own forward pass may do anything"
    if len(list(model.parameters())) < len(list(model.named_parameters(remove_duplicate=False))):
        return "parameters are tied"
    if not stacked_names(model):
        names = [f"{name} ({type(module).__name__})" for name, module in looped(model) if next(module.parameters(), None) is not None]
        return f"no layer with parameters is one that stacks: {', '.join(names[:3])}"
    return None


def looped(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that each model computes by itself, with their names: layers that do not stack, and parts of nothing else
    that has parameters.
    """
    for name, child in model.named_children():
        if stacks(child) and (_has_stacked(child) or all(map(stacks, child.modules()))):
            yield from looped(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _has_stacked(module: nn.Module) -> bool:
    """Whether any parameter of a module that stacks is stacked: its own, or that of a part of it that stacks."""
    if not stacks(module):
        return False
    return next(module.parameters(recurse=False), None) is not None or any(map(_has_stacked, module.children()))


def stacked_names(model: nn.Module) -> list[str]:
    """The names of the parameters that are stacked.

    Example:
        >>> stacked_names(nn.Sequential(nn.Conv1d(2, 2, 1), nn.Flatten(), nn.Linear(4, 2, bias=False)))
        ['2.weight']
    """
    own = tuple(f"{name}." for name, _ in looped(model))
    return [name for name, _ in model.named_parameters() if not name.startswith(own)]


def check_alike(models: Sequence[nn.Module]) -> None:
    """Raise ConfigError for models that are not of one architecture, or cannot be stacked."""
    why = why_alone(models[0])
    if why is not None:
        raise ConfigError([Problem("sweep.batch", f"models cannot be stacked: {why}")])
    first = _shape_of(models[0])
    if any(_shape_of(model) != first for model in models[1:]):
        raise ConfigError([Problem("sweep.batch", "models of different architectures cannot be stacked")])


def _shape_of(model: nn.Module) -> tuple[object, ...]:
    modules = [(name, type(module), module.extra_repr(), stacks(module)) for name, module in model.named_modules()]
    return modules, [(name, tensor.shape, tensor.dtype) for name, tensor in model.state_dict(keep_vars=True).items()]


def loss_stacks(loss: nn.Module) -> bool:
    """Whether a loss is one of torch's that `torch.vmap` may run."""
    return type(loss) in _LOSSES


def same_loss(a: nn.Module, b: nn.Module) -> bool:
    """Whether two losses of torch compute the same.

    Example:
        >>> same_loss(nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1))
        False
    """
    if a is b:
        return True
    if type(a) is not type(b) or not loss_stacks(a):
        return False
    settings = [{name: value for name, value in vars(loss).items() if not name.startswith("_")} for loss in (a, b)]
    tensors = [dict(loss.named_buffers()) for loss in (a, b)]
    return settings[0] == settings[1] and tensors[0].keys() == tensors[1].keys() and _equal(*tensors)


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)
