"""Compare a model with the checkpoint that it was loaded from: what was not loaded, what was drawn again, what is left over."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from modelfactory.auditing.finding import Finding
from modelfactory.config.errors import ConfigError, Problems, did_you_mean, nearest
from modelfactory.model.weights.files import open_weights

_PREFIXES = ("", "module.", "model.", "_orig_mod.", "backbone.", "net.")
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, by the names that a model has for them.

    Attributes:
        label: what messages call the file.
        tensors: by the model's names.
        prefix: what the file's names begin with and the model's do not.
    """

    label: str
    tensors: Mapping[str, Tensor]
    prefix: str = ""


def read_checkpoint(model: nn.Module, file: str | os.PathLike[str]) -> Checkpoint:
    """The tensors of a `.safetensors`, `.pt` or `.pth` file or of a run's directory; runs no code from it.

    Raises:
        ConfigError: there is no such file, or it is no file of weights.
    """
    problems = Problems()
    source = open_weights(os.fspath(file), "checkpoint", problems)
    problems.raise_if_any()
    if source is None:
        raise ConfigError(problems)
    own = set(model.state_dict())
    prefix = max(_PREFIXES, key=lambda prefix: sum(name.startswith(prefix) and name[len(prefix) :] in own for name in source.tensors))
    tensors = {name[len(prefix) :] if name.startswith(prefix) else name: tensor for name, tensor in source.tensors.items()}
    return Checkpoint(source.label, tensors, prefix)


def load_fitting(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put into a model what of a checkpoint has a name and a shape of its own; the rest stays as it was drawn."""
    state = model.state_dict()
    fitting = {name: given for name, given in checkpoint.tensors.items() if name in state and state[name].shape == given.shape}
    model.load_state_dict(fitting, strict=False)


def loaded_names(model: nn.Module, checkpoint: Checkpoint) -> frozenset[str]:
    """The names of what has the values of the checkpoint, each tied tensor under all of its names."""
    same: set[int] = set()
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        given = checkpoint.tensors.get(name)
        if given is not None and _is_same(tensor, given):
            same.add(id(tensor))
    return frozenset(name for name, tensor in state.items() if id(tensor) in same)


def find_not_loaded(model: nn.Module, checkpoint: Checkpoint, loaded: frozenset[str]) -> Iterator[Finding]:
    """What of a model the checkpoint does not have, or has with other values, and what of the checkpoint no model takes."""
    state = model.state_dict(keep_vars=True)
    named: dict[int, list[str]] = {}
    for name, tensor in state.items():
        named.setdefault(id(tensor), []).append(name)
    load = "model.load_state_dict(...)" + (f" without the prefix {checkpoint.prefix!r}" if checkpoint.prefix else "")
    if not loaded and checkpoint.tensors.keys() & state.keys():
        message = f"no parameter of the model has the values of {checkpoint.label}: it was never loaded, or all was drawn again after it"
        yield Finding(next(iter(state)), "not_loaded", "error", message, f"{load} before the audit")
        return
    for names in named.values():
        name = names[0]
        if name in loaded or name.endswith(_COUNTER):
            continue
        given = next((checkpoint.tensors[one] for one in names if one in checkpoint.tensors), None)
        if given is None:
            yield _absent(name, checkpoint)
        elif given.shape != state[name].shape:
            message = f"it is {list(state[name].shape)} here and {list(given.shape)} in {checkpoint.label}, so it was not loaded"
            yield Finding(
                name, "not_loaded", "error", message, "give both one shape; a load with strict=False or a filter by shape hides this"
            )
        else:
            share = (state[name].detach().cpu().float() != given.float()).float().mean().item()
            message = f"{share:.0%} of its values are not those of {checkpoint.label}: it was drawn again after the load, or not loaded"
            yield Finding(name, "drawn_again", "error", message, f"{load} after everything that draws")
    left = [name for name in checkpoint.tensors if name not in state and not name.endswith(_COUNTER)]
    for name in left:
        close = did_you_mean(name, state) if nearest(name, state) else ""
        message = f"{checkpoint.label} has it, and the model has nothing of that name{close}"
        yield Finding(name, "unused_in_checkpoint", "warn", message, "rename it, or leave it out of the file")


def _absent(name: str, checkpoint: Checkpoint) -> Finding:
    close = nearest(name, checkpoint.tensors)
    message = f"{checkpoint.label} has no such tensor, so it has the values that it was drawn with" + (f"; it has {close}" if close else "")
    return Finding(name, "not_loaded", "warn", message, "rename it in the file, or initialise it by a rule: mf.initialize(model, ...)")


def _is_same(tensor: Tensor, given: Tensor) -> bool:
    if tensor.shape != given.shape or tensor.is_meta:
        return False
    own = tensor.detach().cpu()
    given = given.to(own.dtype)
    same = own == given
    if own.is_floating_point():
        same |= own.isnan() & given.isnan()
    return bool(same.all())
