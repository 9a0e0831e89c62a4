"""The residual structure of a model, read off its modules: which layers lie in a branch, in which order, and what ends it.

Known are `modelfactory.Residual` (and any class that says `is_residual = True`), torch.nn's transformer layers, and the
residual blocks of torchvision and timm, by the names of their classes and children. What else is residual a config or a
class declares: see `Selector` and the `roles` beside a layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

from torch import nn

from modelfactory.config.schema import join

MATRICES = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_SHORTCUTS = frozenset({"shortcut", "downsample", "proj"})
_BESIDE = frozenset({"se", "cpb_mlp", "sr"})  # gates, position tables and reduced keys: beside the way, and no step of it
_GATING = frozenset({"SqueezeExcitation", "SqueezeExcite", "SEModule", "EcaModule", "GlobalResponseNorm"})
# For torch, torchvision and timm: a class, and its branches as the children that make each, in the order of forward;
# None: one branch of all children but the shortcut.
_Spec = tuple[tuple[str, ...], ...] | None
_ATTENTION_AND_MLP: _Spec = (("attn",), ("mlp",))
_BLOCKS: dict[str, dict[str, _Spec]] = {
    "torch": {
        "TransformerEncoderLayer": (("self_attn",), ("linear1", "linear2")),
        "TransformerDecoderLayer": (("self_attn",), ("multihead_attn",), ("linear1", "linear2")),
    },
    "torchvision": {
        **dict.fromkeys("BasicBlock Bottleneck MBConv FusedMBConv CNBlock ResidualBlock BottleneckBlock".split()),
        **dict.fromkeys("InvertedResidual InvertedResidualConfig _InvertedResidual".split()),
        "ResBottleneckBlock": (("f",),),
        "EncoderBlock": (("self_attention",), ("mlp",)),
        "SwinTransformerBlock": _ATTENTION_AND_MLP,
        "SwinTransformerBlockV2": (("attn", "norm1"), ("mlp", "norm2")),
        "PartitionAttentionLayer": (("attn_layer",), ("mlp_layer",)),
        "MultiscaleBlock": _ATTENTION_AND_MLP,
    },
    "timm": {
        **dict.fromkeys("BasicBlock Bottleneck PreActBasic PreActBottleneck ResNestBottleneck Bottle2neck".split()),
        **dict.fromkeys("ConvNeXtBlock NormFreeBlock InvertedResidual EdgeResidual DepthwiseSeparableConv".split()),
        **dict.fromkeys("UniversalInvertedResidual MbConvBlock SelectiveKernelBasic SelectiveKernelBottleneck".split()),
        "SpatialGatingBlock": (("mlp_channels",),),
    },
}
# timm writes its transformer blocks alike: a child that mixes tokens, one that mixes channels.
_TIMM_STEPS = ("attn", "token_mixer", "mlp_tokens", "linear_tokens", "local_mp", "mlp", "mlp_channels")
# A block that has one of these is residual only where it is true.
_CONDITIONS = ("use_res_connect", "apply_residual", "has_skip")


@dataclass(frozen=True, eq=False)
class Branch:
    """What is added to a signal that goes around it.

    Attributes:
        name: of the block that it is in, and the first child of it where the block has several branches.
        layers: the modules that own its matrices, in the order of forward; the last one writes to the sum.
        norm: the norm layer between the last one and the sum, None without one.
        in_decoder: whether it is one of a decoder that attends to an encoder.
        all: every branch of the model.
    """

    name: str
    layers: tuple[nn.Module, ...]
    norm: nn.Module | None
    in_decoder: bool
    all: list[Branch] = field(repr=False)

    @property
    def end(self) -> nn.Module:
        """The module whose weight, at 0, silences the branch: the norm that ends it, else its last layer."""
        return self.layers[-1] if self.norm is None else self.norm

    @property
    def depth(self) -> float:
        """How many layers of a transformer there are of this kind: 2 branches each, 3 in a decoder."""
        return sum(other.in_decoder == self.in_decoder for other in self.all) / (3 if self.in_decoder else 2)

    @property
    def other_depth(self) -> float:
        """How many layers of the other kind, encoder or decoder, there are."""
        return sum(other.in_decoder != self.in_decoder for other in self.all) / (2 if self.in_decoder else 3)


class Outline:
    """Where each layer of a model begins and ends: parameters counted in registration order, the end not included.

    Attributes:
        begins: each module's name, a parent before its children, with its first parameter.
        size: how many parameters there are.
        branches: the residual branches, in the order of their blocks.
    """

    def __init__(self) -> None:
        self.begins: list[tuple[str, int]] = []
        self.size = 0
        self.branches: list[Branch] = []

    @cached_property
    def spans(self) -> dict[str, tuple[int, int]]:
        """The first parameter of each layer, and the first behind it."""
        found: dict[str, tuple[int, int]] = {}
        inside: list[tuple[str, int]] = []
        for name, begin in [*self.begins, (None, self.size)]:
            while inside and inside[-1][0] and (name is None or not name.startswith(f"{inside[-1][0]}.")):
                layer, first = inside.pop()
                found[layer] = (first, begin)
            if name is not None:
                inside.append((name, begin))
        return {layer: found.get(layer, (0, self.size)) for layer, _ in self.begins}

    def find(self, name: str) -> list[str]:
        """The layers of this whole name, else those whose name ends so.

        Example:
            >>> from modelfactory.parameters.selector import describe
            >>> describe(nn.Sequential(nn.Sequential(nn.Linear(2, 3)), nn.Linear(3, 1)))[0].outline.find("0")
            ['0']
        """
        return [name] if name in self.spans else [layer for layer in self.spans if layer.endswith(f".{name}")]


def walk_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module under each of its names, a parent before its children: named_modules(remove_duplicate=False), quicker."""
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        name, module = stack.pop()
        yield name, module
        if module._modules:
            prefix = f"{name}." if name else ""
            stack.extend((prefix + child_name, child) for child_name, child in reversed(module._modules.items()) if child is not None)


def is_residual_class(kind: type) -> bool:
    """Whether modules of this class may hold branches.

    Example:
        >>> is_residual_class(nn.TransformerEncoderLayer), is_residual_class(nn.Sequential)
        (True, False)
    """
    return bool(getattr(kind, "is_residual", False)) or _block(kind) is not None


@cache
def _block(kind: type) -> tuple[str, _Spec] | None:
    """The library and the branches of a class that is known; ("timm", ()) for one to be looked at more closely."""
    for base in kind.__mro__:
        library = base.__module__.partition(".")[0]
        if base.__name__ in _BLOCKS.get(library, {}):
            return library, _BLOCKS[library][base.__name__]
    if kind.__module__.startswith("timm.") and kind.__name__.endswith("Block"):
        return "timm", ()
    return None


def branches_of(module: nn.Module, name: str, found: list[Branch]) -> None:
    """Appends to `found` the branches that this block itself holds (not those of blocks inside of it).

    Example:
        >>> found = []
        >>> branches_of(nn.TransformerEncoderLayer(8, 2), "encoder", found)
        >>> [(branch.name, type(branch.layers[-1]).__name__) for branch in found]
        [('encoder.self_attn', 'NonDynamicallyQuantizableLinear'), ('encoder.linear1', 'Linear')]
    """
    if getattr(type(module), "is_residual", False):
        _append([child for key, child in module._modules.items() if child is not None and key != "shortcut"], name, False, found)
        return
    known = _block(type(module))
    if known is None or any(getattr(module, condition, True) is False for condition in _CONDITIONS):
        return
    library, spec = known
    if spec == ():
        spec = _timm_steps(module)
    elif spec is None and library == "torchvision" and hasattr(module, "branch2"):  # ShuffleNet's: it concatenates
        return
    in_decoder = isinstance(module, nn.TransformerDecoderLayer)
    for children in (None,) if spec is None else spec:
        parts = _but_shortcut(module) if children is None else [module._modules.get(child) for child in children]
        own = name if children is None else join(name, children[0])
        _append([part for part in parts if part is not None], own, in_decoder, found)


def declared_branch(module: nn.Module, name: str, found: list[Branch]) -> None:
    """Appends the branch that a module is declared to be: all of it but its shortcut."""
    _append(_but_shortcut(module) if module._modules else [module], name, False, found)


def _but_shortcut(module: nn.Module) -> list[nn.Module]:
    children = module._modules.items()
    return [child for name, child in children if child is not None and name not in _SHORTCUTS and name not in _BESIDE]


def _timm_steps(module: nn.Module) -> _Spec:
    """The branches of one of timm's blocks, each with the norm behind it where norms come behind (Swin v2)."""
    order = [child for child, part in module._modules.items() if part is not None]
    steps = [child for child in order if child in _TIMM_STEPS]
    if not steps:
        return ()
    norm_after = not any(child.startswith("norm") for child in order[: order.index(steps[0])])
    spec = []
    for index, step in enumerate(steps):
        end = order.index(steps[index + 1]) if index + 1 < len(steps) else len(order)
        behind = [child for child in order[order.index(step) + 1 : end] if child.startswith("norm")]
        spec.append((step, *(behind[:1] if norm_after else ())))
    return tuple(spec)


def _append(parts: Sequence[nn.Module], name: str, in_decoder: bool, found: list[Branch]) -> None:
    layers: list[nn.Module] = []
    norm: nn.Module | None = None
    for module in _steps(parts):
        if isinstance(module, (*MATRICES, nn.MultiheadAttention)):
            layers.append(module)
            norm = None
        elif is_norm(type(module)) and layers:
            norm = module
    if layers and not isinstance(layers[-1], nn.MultiheadAttention):
        found.append(Branch(name, tuple(layers), norm, in_decoder, found))


def _steps(parts: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The modules that a signal passes, as far as the order of registration tells; gates beside the way left out."""
    for part in parts:
        if type(part).__name__ in _GATING:
            continue
        yield part
        yield from _steps(child for name, child in part._modules.items() if child is not None and name not in _BESIDE)


@cache
def is_norm(kind: type) -> bool:
    """Whether modules of this class normalise: torch.nn's norms, and classes with Norm in their name.

    Example:
        >>> is_norm(nn.LayerNorm), is_norm(nn.Linear)
        (True, False)
    """
    return issubclass(kind, NORMS) or "norm" in kind.__name__.lower() and not issubclass(kind, MATRICES)


_GATES = {
    nn.LSTM: ("input", "forget", "cell", "output"),
    nn.LSTMCell: ("input", "forget", "cell", "output"),
    nn.GRU: ("reset", "update", "new"),
    nn.GRUCell: ("reset", "update", "new"),
}
_RECURRENT = re.compile(r"(weight|bias)_(ih|hh)(_l\d+)?(_reverse)?")
_QKV = {"qkv": ("query", "key", "value"), "kv": ("key", "value"), "in_proj": ("query", "key", "value")}
PACKED_NAMES = frozenset(_QKV)
"""Names of a Linear that packs projections, if its width agrees."""


def packed_blocks(module: nn.Module, attr: str, module_name: str = "") -> tuple[str, ...]:
    """The names of the blocks that a parameter packs along its first axis, in order; () for a parameter that is one.

    Those of torch.nn.MultiheadAttention, of LSTM and GRU, and of a Linear whose name says it (`qkv`, `kv`) and whose width agrees.

    Example:
        >>> packed_blocks(nn.LSTM(2, 3), "bias_hh_l0")
        ('input', 'forget', 'cell', 'output')
        >>> packed_blocks(nn.Linear(8, 24), "weight", "blocks.0.attn.qkv")
        ('query', 'key', 'value')
    """
    if isinstance(module, nn.MultiheadAttention):
        return _QKV["in_proj"] if attr in ("in_proj_weight", "in_proj_bias") else ()
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        names = next((names for kind, names in _GATES.items() if isinstance(module, kind)), ())
        return names if _RECURRENT.fullmatch(attr) else ()
    if isinstance(module, nn.Linear):
        names = _QKV.get(module_name.rpartition(".")[2], ())
        return names if names and module.out_features == len(names) * module.in_features else ()
    return ()
