"""Which activation really acts on a layer's input, and how large that input is.

Chains of known layers are followed module by module. A module with a forward of its own is run once on the meta
device, where no memory is taken and nothing is computed, and every call of torch in it is seen: activations
called as functions count as much as those that are modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from modelfactory.config.schema import join
from modelfactory.model.clone import shadow_of
from modelfactory.model.layers.containers import Parallel, Residual
from modelfactory.model.meta_shapes import known_result
from modelfactory.numerics.activation import ACTIVATIONS, is_activation

_MIXING = (nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Softmax2d, nn.GLU)
_FUNCTIONS = frozenset(ACTIVATIONS) | {f"{name}_" for name in ACTIVATIONS}
_SHAPING = frozenset(
    "view reshape flatten permute transpose t squeeze unsqueeze contiguous clone detach to chunk split unbind __getitem__ narrow select "
    "pad interpolate dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout max_pool1d max_pool2d max_pool3d _max_pool2d "
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d mean cat concat "
    "expand repeat roll pixel_shuffle movedim swapaxes moveaxis type float half bfloat16 boolean_dispatch fn unflatten".split()
)
_NORMALISING = frozenset("batch_norm layer_norm group_norm instance_norm rms_norm".split())


_META = torch.device("meta")


@dataclass(frozen=True)
class Acting:
    """What acts on the input of a parameter's layer.

    Attributes:
        activation: a module or an elementwise function; None when the input is linear or normalised.
        source: where it is, in words: a module's name, or what stands there instead of an activation.
        shape: the batched shape of the layer's input, None when not known.
        known: False when it could not be found out.
    """

    activation: Callable[[Tensor], Tensor] | None
    source: str
    shape: torch.Size | None = None
    known: bool = True


@dataclass(frozen=True)
class Applied:
    """An activation as it was called: the function and its other arguments."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x, *self.args, **dict(self.kwargs))


def find_acting(
    model: nn.Module, incoming: Mapping[str, torch.Size] | None = None, dtype: torch.dtype = torch.float32
) -> dict[int, Acting]:
    """For each parameter (by `id`) what acts on the input of its layer.

    Args:
        model: any module.
        incoming: batched input shapes by module name, "" for the model's own; without one, modules that have a
            forward of their own cannot be looked into and their parameters come out as not known.
        dtype: of the model's input.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(), nn.Linear(4, 2))
        >>> acting = find_acting(model)
        >>> acting[id(model[3].weight)].source, acting[id(model[0].weight)].source
        ('1 (Tanh)', 'the input')
    """
    walk = _Walk(dict(incoming or {}), dtype)
    walk.visit(model, "", Acting(None, "the input"))
    return walk.found


class _Walk:
    def __init__(self, incoming: dict[str, torch.Size], dtype: torch.dtype):
        self.found: dict[int, Acting] = {}
        self._incoming, self._dtype = incoming, dtype

    def visit(self, module: nn.Module, name: str, acting: Acting) -> Acting:
        """Notes what acts on the parameters of `module`; returns what acts on the input of what comes next."""
        forward = type(module).forward
        after = Acting(None, f"{name} ({type(module).__name__})")
        if forward is nn.Sequential.forward:
            for child_name, child in module._modules.items():
                acting = self.visit(child, join(name, child_name), acting)  # pyright: ignore[reportArgumentType]
            return acting
        if isinstance(module, Residual):
            branch = acting
            for child_name, child in module.named_children():
                if child_name == "shortcut":
                    self.visit(child, join(name, child_name), acting)
                else:
                    branch = self.visit(child, join(name, child_name), branch)
            self._note(module, name, after)
            return after
        if isinstance(module, Parallel):
            ends = [self.visit(child, join(name, child_name), acting) for child_name, child in module.named_children()]
            same = module.combine == "cat" and all(_same(end.activation, ends[0].activation) for end in ends)
            return ends[0] if same and ends[0].activation is not None else after
        return self._visit_leaf(module, name, acting, after)

    def _visit_leaf(self, module: nn.Module, name: str, acting: Acting, after: Acting) -> Acting:
        if not module._modules:
            if is_activation(module):
                self._note(module, name, acting)
                return Acting(module, f"{name} ({type(module).__name__})")
            if not module._parameters and not module._buffers:
                return after if isinstance(module, _MIXING) else acting
            if isinstance(module, nn.RNNBase):
                return self._visit_recurrent(module, name, acting, after)
            self._note(module, name, acting)
            return after
        if isinstance(module, nn.MultiheadAttention):
            self._note(module, name, acting)
            self._note(module.out_proj, join(name, "out_proj"), after)
            return after
        return self._look_into(module, name, acting, after)

    def _visit_recurrent(self, module: nn.RNNBase, name: str, acting: Acting, after: Acting) -> Acting:
        state = {"RNN_TANH": torch.tanh, "RNN_RELU": torch.relu}.get(module.mode)
        own = Acting(state, f"{name} (its own state)")
        for attr, parameter in module._parameters.items():
            if parameter is not None:
                first = attr.startswith(("weight_ih_l0", "bias_ih_l0"))
                self.found.setdefault(id(parameter), self._with_shape(acting, name) if first else own)
        return own if state is not None else after

    def _note(self, module: nn.Module, name: str, acting: Acting) -> None:
        for parameter in module._parameters.values():
            if parameter is not None:
                self.found.setdefault(id(parameter), self._with_shape(acting, name))

    def _with_shape(self, acting: Acting, name: str) -> Acting:
        return Acting(acting.activation, acting.source, self._incoming.get(name), acting.known)

    def _look_into(self, module: nn.Module, name: str, acting: Acting, after: Acting) -> Acting:
        shape = self._incoming.get(name)
        trace = None if shape is None else _trace(module, name, shape, self._dtype if name == "" else torch.float32, acting)
        for parameter_name, parameter in module.named_parameters():
            owner = join(name, parameter_name.rpartition(".")[0])
            unknown = Acting(None, f"not known: {owner} is inside of {type(module).__name__}", None, False)
            self.found.setdefault(id(parameter), (trace or {}).get(id(parameter), unknown))
        return after


def _trace(module: nn.Module, name: str, shape: torch.Size, dtype: torch.dtype, acting: Acting) -> dict[int, Acting]:
    """What acts on each parameter of `module`, seen by running it on the meta device; {} when it cannot run there."""
    shadow, original = shadow_of(module)
    shadow.train()  # auxiliary heads have a forward in training only
    example = torch.empty(shape, dtype=dtype, device="meta")
    example._acting = acting  # pyright: ignore[reportAttributeAccessIssue]
    owners = {id(p): n.rpartition(".")[0] for n, p in shadow.named_parameters()}
    tracing = _Tracing({key: join(name, owner) for key, owner in owners.items()})
    for (inner, own), double in zip(module.named_modules(), shadow.modules(), strict=True):
        if not own._modules and is_activation(own):
            double.register_forward_hook(_tagging(Acting(own, f"{join(name, inner)} ({type(own).__name__})")))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), tracing:
            shadow(example)
    except Exception:  # a forward that needs values (data-dependent control flow) cannot be followed: nothing is known of it
        return {}
    return {original[key]: found for key, found in tracing.found.items() if key in original}


def _tagging(acting: Acting) -> Callable[[nn.Module, Any, Any], None]:
    """A hook by which what leaves a module is known to have come through this activation."""

    def tag(_module: nn.Module, _inputs: Any, output: Any) -> None:
        for tensor in _tensors(output):
            tensor._acting = acting  # pyright: ignore[reportAttributeAccessIssue]

    return tag


def _same(one: Any, other: Any) -> bool:
    """Whether two activations are one function: the same call, or modules of one class with the same settings."""
    if isinstance(one, nn.Module) and type(one) is type(other):
        return one.extra_repr() == other.extra_repr()
    return one == other


class _Tracing(TorchFunctionMode):
    """Follows which activation each tensor came through, by a tag on the tensor."""

    def __init__(self, owners: dict[int, str]):
        super().__init__()
        self._owners = owners
        self._alone: set[int] = set()  # parameters that have not met a signal yet
        self.found: dict[int, Acting] = {}

    def _sources(self, tensor: Tensor) -> tuple[int, ...]:
        """The parameters that a tensor is, or is computed from without anything else."""
        return (id(tensor),) if id(tensor) in self._owners else getattr(tensor, "_weights", ())

    def _owner(self, tensor: Tensor) -> str:
        return self._owners[self._sources(tensor)[0]].removesuffix(".weight").removesuffix(".parametrizations")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__", "size", "dim", "numel", "is_floating_point", "requires_grad_", "stride"):
            return func(*args, **kwargs)
        parameters: list[Tensor] = []
        signals: list[Tensor] = []
        for tensor in _tensors((args, kwargs) if kwargs else args):
            (parameters if self._sources(tensor) else signals).append(tensor)
        tags = [getattr(tensor, "_acting", None) for tensor in signals]
        acting = next((tag for tag in tags if tag is not None), None)
        for parameter in parameters:
            before = acting or Acting(None, "a constant")  # a buffer, or nothing but the parameter
            here = Acting(before.activation, before.source, signals[0].shape if signals else None, before.known)
            if func is F.multi_head_attention_forward and parameter is _attention_out(args, kwargs):
                here = Acting(None, f"{self._owner(parameter)} (attention)")
            for key in self._sources(parameter):
                if signals and key in self._alone:
                    self._alone.discard(key)
                    self.found[key] = here
                elif key not in self.found:
                    self.found[key] = here
                    self._alone.update(() if signals else (key,))
        output = known_result(func, args, kwargs)
        if output is None:
            with _META:  # around these calls alone: as a mode it would see each of the others once more
                output = func(*args, **kwargs)
        if parameters and not signals:  # what is computed of parameters alone, such as a normed weight, stands for them
            sources = tuple(dict.fromkeys(key for parameter in parameters for key in self._sources(parameter)))
            for tensor in _tensors(output):
                tensor._weights = sources  # pyright: ignore[reportAttributeAccessIssue]
        tag = self._after(func, name, args, kwargs, parameters, acting, tags)
        for tensor in _tensors(output):
            if id(tensor) not in self._owners:
                tensor._acting = tag  # pyright: ignore[reportAttributeAccessIssue]
        return output

    def _after(
        self, func: Any, name: str, args: Any, kwargs: Any, parameters: Any, acting: Acting | None, tags: list[Any]
    ) -> Acting:
        if name in _FUNCTIONS:
            rest = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
            plain = all(not isinstance(value, Tensor) for value in (*args[1:], *rest.values()))
            if plain:
                applied = Applied(func, tuple(args[1:]), tuple(sorted(rest.items())))
                return Acting(applied, f"{name.rstrip('_')} (function)")
        if parameters:
            return Acting(None, self._owner(parameters[0]))
        if name in _NORMALISING or acting is None:
            return Acting(None, name)
        known = [tag for tag in tags if tag is not None]
        if name in _SHAPING and all(_same(tag.activation, acting.activation) for tag in known):
            return acting
        return Acting(None, f"{name} (function)")


def _attention_out(args: Any, kwargs: Any) -> Any:
    """The weight of the output projection among the arguments of multi_head_attention_forward."""
    return kwargs.get("out_proj_weight", args[11] if len(args) > 11 else None)


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in _tensors(item)]
    return [tensor for item in value.values() for tensor in _tensors(item)] if isinstance(value, dict) else []
