"""Which tensor of a file goes where in a model, with an account of all that does not."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from modelfactory.config.errors import Problems, did_you_mean, nearest
from modelfactory.config.schema import check_value, join
from modelfactory.model.weights.files import Source

_WRAPPERS = ("module.", "_orig_mod.")
_BACKBONE = "backbone."
_ALLOWED = ("missing", "unexpected", "reshape")
_SHOWN = 20  # tensors of a kind that an error lists
# Names of layers in files that torchvision published before it renamed them; its own loading does the same.
_OLDER = (
    (re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)"), lambda found: found[1] + found[2]),
    (re.compile(r"(.*\.mlp\.)linear_([12])(\.\w+)"), lambda found: f"{found[1]}{3 * (int(found[2]) - 1)}{found[3]}"),
)


@dataclass(frozen=True)
class Allowance:
    """What a partial load may leave: globs over names (of the model; for `unexpected`, of the file)."""

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshape: tuple[str, ...] = ()

    @classmethod
    def read(cls, value: Any, path: str, problems: Problems) -> Allowance:
        """The `allow` of a config, `{missing: [...], unexpected: [...], reshape: [...]}`.

        Example:
            >>> Allowance.read({"missing": ["layer4.*"]}, "backbone.allow", Problems()).missing
            ('layer4.*',)
        """
        value = {} if value is None else value
        if not isinstance(value, Mapping):
            problems.add(path, f"{value!r} is not a mapping; give missing, unexpected or reshape, each a list of globs")
            return cls()
        for name in value:
            if name not in _ALLOWED:
                problems.add(join(path, name), f"not a key of allow{did_you_mean(str(name), _ALLOWED)}")
        globs = {}
        for name in _ALLOWED:
            given = [] if value.get(name) is None else value[name]
            read = check_value([given] if isinstance(given, str) else given, list[str], join(path, name), problems)
            globs[name] = tuple(read) if isinstance(read, list) else ()
        return cls(**globs)


@dataclass(frozen=True)
class Match:
    """Which tensor of the source each name of the model gets.

    Attributes:
        pairs: name in the model -> name in the source.
        kept: names of the model that keep their own init, as allowed.
        dropped: names of the source that belong to what was cut off, or are allowed to be left.
    """

    pairs: Mapping[str, str]
    kept: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass
class _Account:
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def match_names(
    source: Source,
    wanted: Mapping[str, Tensor],
    path: str,
    problems: Problems,
    *,
    what: str = "the model",
    allow: Allowance = Allowance(),
    rename: Mapping[str, str] | None = None,
    cut: Collection[str] = (),
    fits: Collection[str] = (),
    hints: Mapping[str, str] = MappingProxyType({}),
) -> Match:
    """Pairs the names of a model with those of a source; all that does not go together is one problem, with shapes.

    Args:
        wanted: the model's parameters and buffers, by name; only their shapes and types are looked at.
        path: the config path of the weights; those of `rename` and `allow` are beside it.
        what: the model, in words.
        allow: what may be missing, left over or of another shape.
        rename: beginnings of names in the source -> what to put in their place.
        cut: names of the whole model, behind the place where it was cut: the source may have them.
        fits: names of the model whose size in the second dimension may differ, since the caller makes them fit.
        hints: name of the model -> what to do about another shape.

    Example:
        >>> problems = Problems()
        >>> source = Source("w.pt", {"module.fc.weight": torch.zeros(3, 2)})
        >>> dict(match_names(source, {"fc.weight": torch.empty(3, 2)}, "backbone.weights", problems).pairs)
        {'fc.weight': 'module.fc.weight'}
        >>> _ = match_names(source, {"fc.weight": torch.empty(4, 2)}, "backbone.weights", problems)
        >>> print(*problems)
        backbone.weights: w.pt does not fit the model
            of another shape (1): fc.weight is 3x2 in the file and 4x2 here
            backbone.allow declares what may differ: {missing: [...], unexpected: [...], reshape: [...]}
    """
    found = len(problems)
    beside = path.rpartition(".")[0]
    names, left = _mapped(source, set(wanted) | set(cut), rename or {}, path, problems)
    if len(problems) > found:
        return Match({})
    if not names.keys() & wanted.keys():
        problems.add(path, _nothing(source, wanted, what))
        return Match({})
    account, pairs, kept = _Account(), {}, []
    for name, tensor in wanted.items():
        own = names.get(name)
        if own is None:
            if name.endswith("num_batches_tracked") or _picked(name, allow.missing):
                kept.append(name)  # files from before torch counted batches have no count; training goes on from 0
            else:
                account.missing.append(f"{name} [{_shape(tensor.shape)}]")
            continue
        theirs = source.tensors[own]
        if theirs.is_floating_point() != tensor.is_floating_point():
            account.wrong.append(f"{name} is {_type(theirs)} in the file and {_type(tensor)} here")
        elif theirs.shape == tensor.shape or name in fits and _but_second(theirs.shape) == _but_second(tensor.shape):
            pairs[name] = own
        elif _picked(name, allow.reshape):
            kept.append(name)
        else:
            hint = f" ({hints[name]})" if name in hints and _but_second(theirs.shape) == _but_second(tensor.shape) else ""
            account.wrong.append(f"{name} is {_shape(theirs.shape)} in the file and {_shape(tensor.shape)} here{hint}")
    dropped = [own for name, own in names.items() if name not in wanted and (name in cut or _picked(own, allow.unexpected))]
    dropped += left
    unexpected = (own for name, own in names.items() if name not in wanted and own not in set(dropped))
    account.unexpected = [f"{own} [{_shape(source.tensors[own].shape)}]" for own in unexpected]
    _tell(account, source.label, what, path, beside, problems)
    if not pairs and len(problems) == found:
        problems.add(
            path, f"nothing of {source.label} would be loaded: all that {what} has in it may be of another shape; allow less"
        )
    return Match(pairs, tuple(kept), tuple(dropped))


def _tell(account: _Account, label: str, what: str, path: str, beside: str, problems: Problems) -> None:
    kinds = {"missing": account.missing, "unexpected": account.unexpected, "of another shape": account.wrong}
    lines = [f"    {kind} ({len(listed)}): {_some(listed)}" for kind, listed in kinds.items() if listed]
    if lines:
        hint = f"    {join(beside, 'allow')} declares what may differ: {{missing: [...], unexpected: [...], reshape: [...]}}"
        problems.add(path, "\n".join([f"{label} does not fit {what}", *lines, hint]))


def _nothing(source: Source, wanted: Mapping[str, Tensor], what: str) -> str:
    names = list(source.tensors)
    close = nearest(next(iter(wanted), ""), names)
    hint = f" {close!r} looks like {next(iter(wanted))!r}: rename maps beginnings of names." if close else ""
    return f"none of the {len(names)} tensors of {source.label} is of {what};{hint} It holds {_some(names, 3)}"


def _mapped(
    source: Source, known: set[str], rename: Mapping[str, str], path: str, problems: Problems
) -> tuple[dict[str, str], list[str]]:
    """Name in the model -> name in the source, by the declared renaming and then the usual prefixes; and names of a
    model that had a backbone, which are of what came after it."""
    names: dict[str, str] = {}
    left: list[str] = []
    unused = set(rename)
    plain: dict[str, str] = {}
    for own in source.tensors:
        old = next((old for old in rename if own.startswith(old)), None)
        unused.discard(old or "")
        plain[own] = _without(own if old is None else rename[old] + own[len(old) :], _WRAPPERS, known)
    of_backbone = any(name.startswith(_BACKBONE) for name in plain.values())
    for own, name in plain.items():
        bare = _known(_without(name, (*_WRAPPERS, _BACKBONE), known), known)
        if of_backbone and not name.startswith(_BACKBONE):
            left.append(own)
        elif bare in names:
            problems.add(path, f"both {names[bare]} and {own} of {source.label} would be {bare}; rename one of them")
        else:
            names[bare] = own
    for old in unused:
        where = join(join(path.rpartition(".")[0], "rename"), old)
        problems.add(where, f"no tensor of {source.label} begins with {old!r}; it holds {_some(list(source.tensors), 3)}")
    return names, left


def _without(name: str, prefixes: tuple[str, ...], known: set[str]) -> str:
    """A name without what wrappers put in front of it, as far as it is not known."""
    while name not in known:
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if prefix is None:
            break
        name = name[len(prefix) :]
    return name


def _known(name: str, known: set[str]) -> str:
    """The name that a layer has in place of an older one that torchvision published."""
    for pattern, newer in _OLDER:
        if name not in known and (found := pattern.fullmatch(name)) and newer(found) in known:
            return newer(found)
    return name


def stem_for(weight: Tensor, in_channels: int, how: str) -> Tensor:
    """The weights of a first convolution [out, 3, ...] for another number of input channels.

    `sum` gives every channel the sum over the old ones, over n: an image copied to n channels comes out as its grey
    picture did. `repeat` takes the old channels in turn, times 3/n. With one channel `sum`, and with more than three
    `repeat`, are what timm.models.adapt_input_conv does.

    Example:
        >>> stem_for(torch.ones(1, 3, 1, 1), 1, "sum").flatten().tolist()
        [3.0]
        >>> stem_for(torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1), 4, "repeat").flatten().tolist()
        [0.75, 1.5, 2.25, 0.75]
    """
    old = weight.shape[1]
    if how == "sum":
        return (weight.float().sum(1, keepdim=True) / in_channels).expand(-1, in_channels, *weight.shape[2:]).contiguous()
    repeated = weight.float().repeat(1, math.ceil(in_channels / old), *([1] * (weight.ndim - 2)))
    return (repeated[:, :in_channels] * (old / in_channels)).contiguous()


def _picked(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def _but_second(shape: torch.Size) -> torch.Size:
    return shape[:1] + shape[2:]


def _shape(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _some(listed: list[str], limit: int = _SHOWN) -> str:
    return ", ".join(listed[:limit]) + (f", and {len(listed) - limit} more" if len(listed) > limit else "")
