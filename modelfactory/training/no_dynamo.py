"""Torch optimizers without the compiler: same steps, same state, without the second that importing it takes.

Two decorators of torch import `torch._dynamo`, and with it most of the compiler, the first time an optimizer is used,
for programs that may be compiled later:

- `torch._disable_dynamo` (around `add_param_group`, `zero_grad`, `state_dict` and `load_state_dict`) asks dynamo for a
  version of the function that is not traced, and keeps it in the function's attribute `__dynamo_disable`. A function
  that already has this attribute is called as it says. `without_dynamo` lends each of them itself, and takes it back,
  so that a later torch.compile meets what torch left.
- `_use_grad_for_differentiable` (around `step`) sets the gradient mode between two graph breaks, which mean something
  to a compiler only. `eager_step` calls the step inside of it, under `torch.no_grad()`.

Both do nothing where dynamo is imported already, as it is with torch.compile. Both look before they touch: in a torch
that is built otherwise, optimizers work as they do there. Seen in torch 2.14.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

# `torch.optim.optimizer` is a module to import and, in some releases, hidden behind a function of the same name
torch_optimizer = importlib.import_module("torch.optim.optimizer")
_LENT = "__dynamo_disable"
_DECORATED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def dynamo_is_imported() -> bool:
    """Whether this process has the compiler already, so that nothing is saved by going around it."""
    return "torch._dynamo" in sys.modules


@contextlib.contextmanager
def without_dynamo():
    """Lets optimizers be built, saved and loaded without importing torch._dynamo.

    Example:
        >>> with without_dynamo():
        ...     optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
    """
    lent: list[Any] = []
    if not dynamo_is_imported():
        for name in _DECORATED:
            inner = getattr(getattr(Optimizer, name, None), "__wrapped__", None)
            if inspect.isfunction(inner) and not hasattr(inner, _LENT):
                setattr(inner, _LENT, inner)
                lent.append(inner)
    try:
        yield
    finally:
        for inner in lent:
            if getattr(inner, _LENT, None) is inner:
                delattr(inner, _LENT)


def eager_step(optimizer: Optimizer) -> Callable[[], Any]:
    """A function that takes one step of `optimizer`: its own `step`, or the same without importing torch._dynamo.

    The optimizer itself is left as it is. Its own `step` is given back where torch._dynamo is imported already, where
    it is not torch's, has hooks, or is differentiable. A profiler sees its kernels, but not its "Optimizer.step" label.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> weight.sum().backward()
        >>> eager_step(optimizer)()
        >>> weight.tolist()
        [0.5, 0.5]
    """
    kind = type(optimizer)
    inner = inspect.unwrap(kind.step)
    hooked = any(
        getattr(owner, name, None)
        for owner, name in (
            (optimizer, "_optimizer_step_pre_hooks"),
            (optimizer, "_optimizer_step_post_hooks"),
            (torch_optimizer, "_global_optimizer_pre_hooks"),
            (torch_optimizer, "_global_optimizer_post_hooks"),
        )
    )
    torchs_own = kind.__module__.startswith("torch.optim.") and getattr(inner, "__module__", "").startswith("torch.optim.")
    differentiable = any(group.get("differentiable", False) for group in optimizer.param_groups)
    if dynamo_is_imported() or hooked or differentiable or not torchs_own or inner is kind.step:
        return optimizer.step

    def step() -> None:
        with torch.no_grad():
            inner(optimizer)

    return step


def eager_zero_grad(optimizer: Optimizer) -> Callable[[], None]:
    """A function that sets the gradient of every parameter of `optimizer`, at the time of this call, to None.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> weight.sum().backward()
        >>> eager_zero_grad(optimizer)()
        >>> weight.grad is None
        True
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def zero_grad() -> None:
        for parameter in parameters:
            parameter.grad = None

    return zero_grad
