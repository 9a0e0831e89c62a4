"""Puts a backbone's weights into a model that is being built, and accounts for every tensor of both sides."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from modelfactory.config.errors import Problems, some_names
from modelfactory.config.schema import join
from modelfactory.init.choose import PRETRAINED
from modelfactory.init.fill import measure
from modelfactory.init.ledger import LedgerRow
from modelfactory.model.backbone.construct import arguments_of, names_of_whole, stem_of
from modelfactory.model.backbone.spec import BackboneSpec, read_backbone
from modelfactory.model.backbone.weights_source import find_place, open_place
from modelfactory.model.backbone_front import BACKBONE
from modelfactory.model.weights.files import Source
from modelfactory.model.weights.match import match_names, stem_for
from modelfactory.tracing.standing_in import hollow


@dataclass(frozen=True)
class Pretrained:
    """What of a model comes from a file of weights.

    Attributes:
        label: what the ledger calls the file.
        origin: name in the model -> name in the file, parameters and buffers.
        targets: name in the model -> the tensor there, of everything that a file of weights can hold.
        source: the file's tensors; None when it has not been fetched, and is taken to fit.
        dropped: how many tensors of the file are left out: of what was cut off, or as declared.
        stem: the weight of the first convolution where the file's is of another number of channels; how it is made to fit.
    """

    label: str
    origin: Mapping[str, str]
    targets: Mapping[str, Tensor] = field(repr=False)
    source: Source | None = field(default=None, repr=False)
    dropped: int = 0
    stem: tuple[str, str] | None = None

    def scheme(self, name: str) -> str:
        """Where the values of a parameter come from, as the ledger says it: FILE:TENSOR."""
        how = f" ({self.stem[1]})" if self.stem is not None and name == self.stem[0] else ""
        return f"{self.label}:{self.origin[name]}{how}"

    @property
    def schemes(self) -> dict[str, str]:
        return {name: self.scheme(name) for name in self.origin}

    def closed(self) -> Pretrained:
        """The same account, holding no memory of the file or of the model."""
        targets = {name: hollow(tensor) for name, tensor in self.targets.items()}
        source = None if self.source is None else Source(self.label, {})
        return replace(self, targets=targets, source=source)

    def __str__(self) -> str:
        loaded = [self.targets[name] for name in self.origin]
        bytes_all, bytes_loaded = (
            sum(tensor.numel() * tensor.element_size() for tensor in tensors) for tensors in (self.targets.values(), loaded)
        )
        share = 100 * bytes_loaded / max(1, bytes_all)
        left = f", {self.dropped} of its tensors left out" if self.dropped else ""
        when = "" if self.source is not None else " (not fetched yet)"
        return (
            f"backbone: {len(loaded)} of {len(self.targets)} tensors and {_mib(bytes_loaded)} of {_mib(bytes_all)} MiB ({share:.4g} %) "
            f"from {self.label}{when}{left}"
        )


def find_pretrained(model: nn.Module, spec: BackboneSpec | None, problems: Problems, *, fetch: bool) -> Pretrained | None:
    """Pairs a model's backbone with the tensors of its weights; None without weights, or after telling what is wrong.

    Args:
        model: with a child `backbone`; may be on the meta device.
        fetch: whether to fetch a file that is not here; otherwise all of it is taken to fit.
    """
    place = find_place(spec) if spec is not None else None
    if spec is None or place is None:
        return None
    whole = model.get_submodule(BACKBONE)
    inner = {name: tensor for name, tensor in whole.state_dict(keep_vars=True).items()}
    targets = {join(BACKBONE, name): tensor for name, tensor in inner.items()}
    if not fetch and not place.is_here and (place.url is not None or place.file is None):
        return Pretrained(place.label, {name: name.removeprefix(f"{BACKBONE}.") for name in targets}, targets)
    path = PRETRAINED
    source = open_place(spec, place, path, problems)
    if source is None:
        return None
    stem = stem_of(whole)
    found = len(problems)
    match = match_names(
        source,
        inner,
        path,
        problems,
        what=spec.called,
        allow=spec.allowance,
        rename=spec.rename,
        cut=names_of_whole(spec.name, arguments_of(spec)) if spec.name is not None else (),
        fits=(stem,) if stem is not None and spec.stem is not None else (),
        hints={stem: f"{BACKBONE}.stem: sum or repeat would make it fit"} if stem is not None and spec.stem is None else {},
    )
    _check_arguments(spec, source, problems)
    if len(problems) > found:
        return None
    adapted = None
    if stem is not None and stem in match.pairs and source.tensors[match.pairs[stem]].shape != inner[stem].shape:
        adapted = (join(BACKBONE, stem), str(spec.stem))
    origin = {join(BACKBONE, name): own for name, own in match.pairs.items()}
    return Pretrained(source.label, origin, targets, source, len(match.dropped), adapted)


def _check_arguments(spec: BackboneSpec, source: Source, problems: Problems) -> None:
    """Adds a problem where another run built the same backbone with arguments that are not said here: its weights may be
    of another function (`transform_input`), even where all shapes fit."""
    group = source.config.get(BACKBONE) if isinstance(source.config, Mapping) else None
    theirs = read_backbone(group, BACKBONE, Problems())
    if theirs is None or theirs.name is None or theirs.name != spec.name:
        return
    for name, value in arguments_of(theirs).items():
        if name not in arguments_of(spec):
            problems.add(
                f"{BACKBONE}.arguments.{name}", f"missing: {source.label} was trained with {value!r}; give that, or another"
            )


def load_pretrained(pretrained: Pretrained, names: Collection[str], problems: Problems) -> None:
    """Gives the tensors of these names their values: those of the file itself, mapped, wherever they are as the model has
    them. Writing to them later changes this process's copy of a page, and never the file. Adds a problem for what is not finite.
    """
    if pretrained.source is None:
        raise ValueError(f"{pretrained.label} has not been opened")
    taken: set[int] = set()
    done: set[int] = set()
    bad: list[str] = []
    for name in names:
        target = pretrained.targets[name]
        if target.is_meta or id(target) in done:  # tied: both names of the file are of one tensor
            continue
        values = pretrained.source.tensors[pretrained.origin[name]]
        if pretrained.stem is not None and name == pretrained.stem[0]:
            values = stem_for(values, target.shape[1], pretrained.stem[1])
        values = _own(values, target, taken)
        taken.add(values.untyped_storage().data_ptr())
        target.data = values
        done.add(id(target))
        if not _is_finite(values):
            bad.append(f"{pretrained.label}:{pretrained.origin[name]}")
    if bad:
        problems.add(PRETRAINED, f"{len(bad)} tensors hold values that are not finite: {some_names(bad, 5)}; take another file")


def _is_finite(values: Tensor) -> bool:
    """Whether every value is; their sum tells it of nearly every tensor, in a fraction of the time."""
    if values.is_meta or not (values.is_floating_point() or values.is_complex()):
        return True
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _own(values: Tensor, target: Tensor, taken: set[int]) -> Tensor:
    """The values as the target has them: its type and device, contiguous, in memory of their own, aligned."""
    values = values.to(target.device, target.dtype)
    apart = values.untyped_storage().data_ptr() not in taken and values.untyped_storage().nbytes() == values.nbytes
    aligned = values.is_meta or values.data_ptr() % values.element_size() == 0
    if apart and aligned and values.is_contiguous():
        return values
    return values.clone(memory_format=torch.contiguous_format)


def loaded_names(model: nn.Module, pretrained: Pretrained, drawn: Collection[str]) -> list[str]:
    """What is loaded of a file that is here: all but the parameters that a rule draws again, and the buffers of modules
    all of whose parameters are.

    Args:
        drawn: names of the parameters that a rule draws.
    """
    left = set(drawn)
    for module_name, module in model.named_modules():
        own = [join(module_name, name) for name, _ in module.named_parameters(recurse=False)]
        if own and left.issuperset(own):
            left.update(join(module_name, name) for name, _ in module.named_buffers(recurse=False))
    return [name for name in pretrained.origin if name not in left]


def buffer_rows(model: nn.Module, pretrained: Pretrained, names: Iterable[str], measured: bool) -> Iterable[LedgerRow]:
    """A row of the ledger for each buffer that is loaded."""
    buffers = dict(model.named_buffers())
    for name in names:
        if name not in buffers:
            continue
        buffer = buffers[name]
        mean, std = measure(buffer) if measured else (math.nan, math.nan)
        yield LedgerRow(
            name=name,
            shape="x".join(map(str, buffer.shape)) or "scalar",
            numel=buffer.numel(),
            dtype=str(buffer.dtype).removeprefix("torch."),
            module=type(model.get_submodule(name.rpartition(".")[0])).__name__,
            role="buffer",
            origin="pretrained",
            rule=PRETRAINED,
            scheme=pretrained.scheme(name),
            fan_in=None,
            fan_out=None,
            gain=None,
            expected_mean=None,
            expected_std=None,
            mean=mean,
            std=std,
            trainable=False,
            group="",
        )


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f}"
