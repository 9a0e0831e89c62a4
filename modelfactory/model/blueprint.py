"""A model that is fully decided but not yet built: every class resolved, every size filled in."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from modelfactory.config.errors import ConfigError, Problem, did_you_mean, first_line
from modelfactory.config.schema import join
from modelfactory.model.clone import mould_of, shadow_of
from modelfactory.model.deferred_construction import construction
from modelfactory.model.deferred_init import Recording
from modelfactory.parameters.declared import BLOCKS, FANS, ROLES_OF
from modelfactory.parameters.layer_rules import Definition
from modelfactory.parameters.written import Written

# Constructors of torch.nn whose parameters are filled by `reset_parameters` and nothing else: it is left out.
QUIET = frozenset(
    {nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d}
    | {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Embedding, nn.EmbeddingBag}
    | {nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.RNN, nn.LSTM, nn.GRU}
)
# Packages none of whose modules draws anything unless it has parameters or buffers.
_NEVER_DRAWING = frozenset({"torch", "torchvision", "modelfactory"})


@dataclass(frozen=True)
class Leaf:
    """One module: its class (or builder function) and its arguments.

    Attributes:
        incoming: the batched shape that it is given, None when not known or not a tensor.
        has_state: whether it has parameters or buffers.
    """

    definition: Definition
    target: Callable[..., nn.Module]
    arguments: Mapping[str, Any]
    incoming: torch.Size | None = None
    has_state: bool = True


@dataclass(frozen=True)
class Chain:
    """A container of named children: nn.Sequential, Residual or Parallel."""

    definition: Definition
    container: type[nn.Module]
    children: tuple[tuple[str, Node], ...]
    options: Mapping[str, Any] = field(default_factory=dict)


Node = Leaf | Chain


@dataclass(frozen=True)
class Draft:
    """A module as constructed: its parameters have memory but no values yet.

    Attributes:
        module: the plain nn.Module.
        recordings: by module name, what the constructors of its parts would have drawn.
        definitions: by module name, what the config says beside it.
        written: by the name of a parameter or buffer, what the constructor of a module of one's own, or of a library, wrote to it.
    """

    module: nn.Module
    recordings: dict[str, Recording]
    definitions: dict[str, Definition]
    written: Mapping[str, Written] = field(default_factory=dict)


def assemble(node: Node, seed: int, is_whole: bool = True) -> Draft:
    """Constructs a blueprint on the current default device, without any initialisation.

    Args:
        is_whole: whether this is a whole model; of a part of one, what is tied to the rest is left as it is.

    Raises:
        ConfigError: a layer refuses its arguments, or a parameter cannot be the one that it is tied to.

    Example:
        >>> leaf = Leaf(Definition("model.fc"), nn.Linear, {"in_features": 2, "out_features": 3})
        >>> draft = assemble(Chain(Definition("model"), nn.Sequential, (("fc", leaf),)), seed=0)
        >>> list(draft.module.state_dict())
        ['fc.weight', 'fc.bias']
    """
    recordings: dict[str, Recording] = {}
    written: dict[str, Written] = {}
    module = _construct(node, seed, "", recordings, written)
    said = list(_defined(node, lambda definition: definition.says_something))
    if is_whole:
        for name, definition in _defined(node, lambda definition: bool(definition.tie)):
            for inner, other in definition.tie.items():
                _tie(module, join(name, inner), other, join(definition.path, f"tie.{inner}"))
                written.pop(join(name, inner), None)
    return Draft(module, recordings, dict(said), written)


def _defined(node: Node, says: Callable[[Definition], bool]) -> Iterator[tuple[str, Definition]]:
    """The definitions of a blueprint that say something, by module name."""
    return ((name, part.definition) for name, part in walk(node) if says(part.definition)) if _any_says(node, says) else iter(())


def _any_says(node: Node, says: Callable[[Definition], bool]) -> bool:
    """Whether anything in this blueprint has such a definition; a repeated part is looked at once."""
    below = {id(child): child for _, child in node.children}.values() if isinstance(node, Chain) else ()
    return says(node.definition) or any(_any_says(child, says) for child in below)


def _tie(model: nn.Module, name: str, other: str, path: str) -> None:
    """Makes parameter `name` the very one that is called `other`."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    wrong = None
    if name not in parameters:
        wrong = f"the layer has no parameter {name.rpartition('.')[2]!r}"
    elif other not in parameters:
        wrong = f"{other!r} is no parameter of this model{did_you_mean(other, parameters)}"
    elif parameters[name] is parameters[other]:
        wrong = f"{other!r} is this parameter itself; name the one to tie it to"
    elif parameters[name].shape != parameters[other].shape:
        shapes = [list(parameters[each].shape) for each in (other, name)]
        wrong = f"{other} is {shapes[0]} and {name} {shapes[1]}: only equal shapes can be one parameter"
    if wrong is not None:
        raise ConfigError([Problem(path, wrong)])
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, parameters[other])


def walk(node: Node, name: str = "") -> Iterator[tuple[str, Node]]:
    """Every node with the name of the module that it becomes."""
    yield name, node
    if isinstance(node, Chain):
        for child_name, child in node.children:
            yield from walk(child, join(name, child_name))


def _construct(node: Node, seed: int, name: str, recordings: dict[str, Recording], written: dict[str, Written]) -> nn.Module:
    build = _construct_leaf if isinstance(node, Leaf) else _construct_chain
    module = build(node, seed, name, recordings, written)  # pyright: ignore[reportArgumentType]
    given = node.definition
    for what, declared in ((ROLES_OF, given.roles), (BLOCKS, given.blocks), (FANS, given.fans)):
        if declared:  # a plain attribute, by which `describe` knows them whoever asks
            module.__dict__[what] = dict(declared)
    return module


def _construct_chain(node: Chain, seed: int, name: str, recordings: dict[str, Recording], written: dict[str, Written]) -> nn.Module:
    children: OrderedDict[str, nn.Module] = OrderedDict()
    last, mould = None, None
    for place, (child_name, child) in enumerate(node.children):
        if child is last and mould is not None:
            children[child_name] = mould.copy(_without_values)
            continue
        children[child_name] = module = _construct(child, seed, join(name, child_name), recordings, written)
        is_repeated = place + 1 < len(node.children) and node.children[place + 1][1] is child
        mould = mould_of(module) if is_repeated and child is not last and _is_copyable(child) else None
        last = child
    return node.container(children, **node.options)


def _construct_leaf(leaf: Leaf, seed: int, name: str, recordings: dict[str, Recording], written: dict[str, Written]) -> nn.Module:
    if leaf.target in QUIET:
        module = _quiet(leaf.target)(**leaf.arguments)
        module.__class__ = leaf.target  # pyright: ignore[reportAttributeAccessIssue]
        return module
    if not leaf.has_state and leaf.target.__module__.partition(".")[0] in _NEVER_DRAWING:
        return construct_leaf(leaf)
    with construction(seed, name) as recording:
        module = construct_leaf(leaf, recording)
        recording.settle(module, seed, name)
    recordings[name] = recording
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for inner, each in recording.history.of(tensors).items():
        copy_of = join(name, each.copy_of) if each.copy_of else ""
        written[join(name, inner)] = replace(each, copy_of=copy_of, put_off=recording.has_put_off(tensors[inner]))
    return module


def construct_leaf(leaf: Leaf, recording: Recording | None = None) -> nn.Module:
    """Calls a leaf's class or builder. On the meta device a constructor that needs values, such as the drop rates of
    `torch.linspace(...).tolist()`, is called on the CPU, and the module taken to the meta device.

    Args:
        recording: of what the constructor writes, where that is to be known.

    Raises:
        ConfigError: it refuses its arguments, or gives something other than a module.
    """
    path, name = leaf.definition.path, getattr(leaf.target, "__name__", str(leaf.target))
    try:
        try:
            module = leaf.target(**construct_arguments(leaf.arguments))
        except (NotImplementedError, RuntimeError):
            if torch.get_default_device().type != "meta":
                raise
            with torch.device("cpu"):
                made = leaf.target(**construct_arguments(leaf.arguments))
                module, _ = shadow_of(made)
            if recording is not None:
                for held in (nn.Module.parameters, nn.Module.buffers):
                    for original, double in zip(held(made), held(module), strict=True):
                        recording.history.carry(original, double)
    except ConfigError:
        raise
    except Exception as error:  # whatever a constructor raises is about its arguments, and told with their path
        raise ConfigError([Problem(path, f"{name} refuses its arguments: {first_line(error)}")]) from error
    if isinstance(module, nn.Module):
        _check_sized(module, path, name)
    else:
        raise ConfigError([Problem(join(path, "_target_"), f"{name} gives a {type(module).__name__}, not an nn.Module")])
    return module


def _check_sized(module: nn.Module, path: str, name: str) -> None:
    """Raises a ConfigError that names the layers of a module of one's own whose size is left to its first batch."""
    tensors = itertools.chain(module.named_parameters(), module.named_buffers())
    layers = dict.fromkeys(full.rpartition(".")[0] for full, tensor in tensors if is_lazy(tensor))
    if layers:
        which = ", ".join(f"{layer or name} ({type(module.get_submodule(layer)).__name__})" for layer in layers)
        what = "whose size comes with its first batch, so that nothing can be drawn before; give it the size, by the class without Lazy"
        raise ConfigError([Problem(path, f"{name} has {which}, {what}")])


def _is_copyable(node: Node) -> bool:
    """Whether a repeat of this node can copy the module before it, which is several times faster than constructing it.

    Only where nothing but parameters without values, plain settings and other such modules is in it.
    """
    if isinstance(node, Chain):
        return node.container is nn.Sequential and all(_is_copyable(child) for _, child in node.children)
    if node.target in QUIET:
        return not issubclass(node.target, nn.RNNBase)  # pyright: ignore[reportArgumentType]
    plain = all(isinstance(value, (bool, int, float, str, type(None))) for value in node.arguments.values())
    return not node.has_state and plain and node.target.__module__.startswith("torch.nn.modules")


def _without_values(tensor: torch.Tensor) -> torch.Tensor:
    """Memory for a copy's parameter, or a buffer like the one copied."""
    return nn.Parameter(torch.empty_like(tensor)) if isinstance(tensor, nn.Parameter) else tensor.clone()


def construct_arguments(value: Any) -> Any:
    """Arguments with the modules that they name constructed."""
    if isinstance(value, Leaf):
        if value.arguments.get("_partial_"):
            given = {name: item for name, item in value.arguments.items() if name != "_partial_"}
            return partial(value.target, **construct_arguments(given))
        return value.target(**construct_arguments(value.arguments))
    if isinstance(value, dict):
        return {name: construct_arguments(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(construct_arguments, value))
    return value


@cache
def _quiet(layer: Any) -> Any:
    """A subclass of `layer` that skips its initialisation; an instance is given the class `layer` afterwards."""
    return type(layer.__name__, (layer,), {"reset_parameters": lambda self: None})
