"""`_target_`: names that a config may use, resolved only inside what trusted Python allowed.

A name is checked twice: as it is written (it must begin with an allowed package, and every step of it must stay
there), and as the object it resolves to (which must be defined in an allowed package and be of the kind that the
place in the config asks for). `torch.nn.modules.module.torch.load` fails at its fourth step.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from modelfactory.config.beside import import_trusted
from modelfactory.config.errors import Problems, did_you_mean, first_line, nearest
from modelfactory.config.schema import check_value, join
from modelfactory.config.signature import parameters_of

_TRUSTED: set[str] = set()
_TRUSTED_VARIABLES: set[str] = set()
_ENVIRONMENT = "MODELFACTORY_TRUST"
_ENVIRONMENT_VARIABLES = "MODELFACTORY_TRUST_VARIABLES"
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_VARIABLE = re.compile(r"(?!\d)[\w*?]+")

# Where the names of each kind may lead. What `trust` added is allowed for every kind.
_ROOTS: dict[str, tuple[str, ...]] = {
    "layer": ("torch.nn", "torchvision.models", "torchvision.ops", "modelfactory"),
    "argument": ("torch.nn", "torchvision.models", "torchvision.ops", "modelfactory"),
    "loss": ("torch.nn", "modelfactory"),
    "activation": ("torch.nn", "modelfactory"),
    "optimizer": ("torch.optim", "modelfactory"),
    "scheduler": ("torch.optim.lr_scheduler",),
    "data": ("modelfactory.data",),
    "transform": ("torchvision.transforms.v2", "torchvision.transforms"),
    "scheme": (),
    "object": (),
}
# How an error calls the kind, and the base classes (by full name) one of which a class of this kind has.
_BASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "layer": ("module", ("torch.nn.modules.module.Module",)),
    "argument": ("module, and no class that is trusted", ("torch.nn.modules.module.Module",)),
    "loss": ("loss module", ("torch.nn.modules.module.Module",)),
    "activation": ("module", ("torch.nn.modules.module.Module",)),
    "optimizer": ("optimizer", ("torch.optim.optimizer.Optimizer",)),
    "scheduler": ("scheduler", ("torch.optim.lr_scheduler.LRScheduler",)),
    "transform": ("transform", ("torch.nn.modules.module.Module",)),
    "data": ("data set", ()),
    "scheme": ("scheme", ()),
    "object": ("class or function", ()),
}
_SIZES = frozenset(
    "in_features out_features in_channels out_channels num_features num_channels hidden_size input_size embed_dim num_heads "
    "num_layers kernel_size stride dilation groups num_groups num_embeddings embedding_dim d_model nhead dim_feedforward "
    "num_parameters upscale_factor in1_features in2_features proj_size num_classes".split()
)
_MAY_BE_ZERO = frozenset({"proj_size"})
_NEVER_SUGGESTED = sys.stdlib_module_names | {"torch", "torchvision", "modelfactory", "numpy"}
_CHOSEN_BY_THE_FACTORY = frozenset({"device", "dtype"})
_NEVER_OFFERED = _CHOSEN_BY_THE_FACTORY | {"params", "optimizer", "last_epoch", "tensor", "generator"}  # which the caller gives itself
_LIMITS: dict[str, Mapping[str, Any]] = {"dropout": {"min": 0, "max": 1}}  # what torch looks at in training only
_STACKED = frozenset({"num_layers", "num_encoder_layers", "num_decoder_layers"})  # of which each is constructed
MAX_STACKED = 10_000


def trust(*packages: str, variables: Iterable[str] = ()) -> None:
    """Lets configs name what is inside these importable packages, and set these environment variables, for this process.

    The environment variables `MODELFACTORY_TRUST=pkg_a,pkg_b` and `MODELFACTORY_TRUST_VARIABLES=NAME,MY_*` do the same. A config
    never can.

    Args:
        variables: names, or globs, that `hydra.job.env_set` may give besides those that it may give anyway.

    Raises:
        ValueError: a name that is not a package's, or no name of variables.

    Example:
        >>> trust("my_pkg", variables=["MY_CACHE"])
        >>> "my_pkg" in trusted(), "MY_CACHE" in trusted_variables()
        (True, True)
    """
    for package in packages:
        if not isinstance(package, str) or not _NAME.fullmatch(package):
            raise ValueError(f"{package!r} is not the name of a package")
    names = [variables] if isinstance(variables, str) else list(variables)
    for name in names:
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of an environment variable, nor a glob such as MY_*")
    _TRUSTED.update(packages)
    _TRUSTED_VARIABLES.update(names)


def trusted() -> tuple[str, ...]:
    """The packages that `trust` and the environment added, sorted."""
    return _with_environment(_TRUSTED, _ENVIRONMENT)


def trusted_variables() -> tuple[str, ...]:
    """Names and globs of the environment variables that `trust` and the environment added, sorted."""
    return _with_environment(_TRUSTED_VARIABLES, _ENVIRONMENT_VARIABLES)


def _with_environment(names: set[str], variable: str) -> tuple[str, ...]:
    from_environment = (name.strip() for name in os.environ.get(variable, "").split(","))
    return tuple(sorted(names.union(filter(None, from_environment))))


def split(mapping: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The `_target_` of a mapping, and its other entries.

    Example:
        >>> split({"_target_": "torch.nn.ReLU", "inplace": True})
        ('torch.nn.ReLU', {'inplace': True})
    """
    return mapping.get("_target_"), {name: value for name, value in mapping.items() if name != "_target_"}


def resolve(name: Any, path: str, problems: Problems, kind: str = "layer") -> Any | None:
    """The object that a `_target_` names, or None after saying in `problems` why it is refused.

    `path` is the config path of the `_target_` itself. `kind` is what the place asks for: layer, argument (of a layer), loss,
    activation, optimizer, scheduler, data, transform or scheme; or object, which is anything that is trusted.

    Example:
        >>> problems = Problems()
        >>> resolve("torch.nn.Rellu", "activation._target_", problems)
        >>> print(*problems)
        activation._target_: 'torch.nn.Rellu' is not a torch.nn module; did you mean 'torch.nn.ReLU'?
    """
    word = _BASES[kind][0]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        article = "an" if word[0] in "aeiou" else "a"
        problems.add(path, f"{name!r} is not the dotted name of {article} {word}, like {_example(kind)}")
        return None
    root = _root_of(name, kind)
    if root is None:
        problems.add(path, f"{name!r} is refused{_outside(name, kind)}")
        return None
    found = _walk(root, name, path, problems, kind)
    if found is None:
        return None
    home = getattr(found, "__module__", None) or ""
    if not _inside(home, (*_ROOTS[kind], *trusted())):
        problems.add(path, f"{name!r} is refused: it leads to {home}.{getattr(found, '__qualname__', '?')}, outside of what is allowed")
        return None
    if f"{home}.{getattr(found, '__qualname__', '')}" in _BASES[kind][1]:
        problems.add(path, f"{name!r} is what every {word} is made from, and does nothing itself; give one, like {_example(kind)}")
        return None
    if not _is_of_kind(found, kind):
        problems.add(path, f"{name!r} is not a {root} {word}{_nearest_name(root, name, kind)}")
        return None
    if inspect.isclass(found) and found.__name__.startswith("Lazy") and home.startswith("torch.nn"):
        problems.add(path, f"{name!r} is refused: sizes are inferred here; name the layer without Lazy")
        return None
    return found


def check_arguments(
    target: Callable[..., Any],
    arguments: Mapping[str, Any],
    path: str,
    problems: Problems,
    inferred: Iterable[str] = (),
    limits: Mapping[str, Mapping[str, Any]] = types.MappingProxyType({}),
    also: Iterable[str] = (),
) -> dict[str, Any] | None:
    """The arguments in the types the signature of `target` asks for, or None after saying what is wrong.

    Checks unknown and missing names, simple types, sizes below 1 and numbers that are not finite. The names in
    `inferred` are filled in later and may be missing; `limits` are ranges by name; `also` are other keys that the place
    has, to be suggested. Nested values that are no plain data are left alone.

    Example:
        >>> import torch
        >>> problems = Problems()
        >>> check_arguments(torch.nn.Linear, {"out_feature": 3, "in_features": 4}, "model.layers.fc", problems)
        >>> print(*problems, sep="\\n")
        model.layers.fc.out_feature: not an argument of Linear; did you mean 'out_features'?
        model.layers.fc.out_features: missing; Linear needs it
    """
    found = len(problems)
    parameters, takes_any = parameters_of(target)
    who = getattr(target, "__name__", str(target))
    checked = {}
    for name, value in arguments.items():
        where = join(path, name)
        if name in parameters and name not in _CHOSEN_BY_THE_FACTORY:
            checked[name] = _check_one(name, value, parameters[name][1], where, problems, limits.get(name))
        elif name in _CHOSEN_BY_THE_FACTORY:
            problems.add(where, f"{value!r} is refused: trainer.device and trainer.precision choose for the whole model")
        elif str(name).startswith("_"):
            problems.add(where, "not a key here; give arguments by name, beside _target_")
        elif takes_any:
            checked[name] = value
        else:
            choices = [*(key for key in parameters if key not in _NEVER_OFFERED), *also]
            problems.add(where, f"not an argument of {who}{did_you_mean(str(name), choices) or ', which takes none'}")
    for name, (required, _) in parameters.items():
        if required and name not in arguments and name not in inferred:
            problems.add(join(path, name), f"missing; {who} needs it")
    return checked if len(problems) == found else None


def _check_one(name: str, value: Any, hint: Any, where: str, problems: Problems, limits: Mapping[str, Any] | None) -> Any:
    hint = float if hint is None and name in _LIMITS else hint
    value = _listed(value, hint)
    before = len(problems)
    if hint is not None and not _has_modules(value):
        value = check_value(value, hint, where, problems, limits or _LIMITS.get(name, {}))
    if len(problems) == before and name in _SIZES:
        least = 0 if name in _MAY_BE_ZERO else 1
        for size in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(size, (int, float)) and not isinstance(size, bool) and size < least:
                problems.add(where, f"{value!r} is too small; give a whole number >= {least}")
                break
    if name in _STACKED and isinstance(value, int) and value > MAX_STACKED:
        problems.add(where, f"{value} is too large; give a whole number <= {MAX_STACKED}")
    return value


def _listed(value: Any, hint: Any) -> Any:
    """A YAML list as the tuple that torch takes, unless the signature asks for a list."""
    if not isinstance(value, list) or any(isinstance(item, Mapping) for item in value):
        return value
    origins = {typing.get_origin(option) or option for option in typing.get_args(hint) or (hint,)}
    return value if list in origins or typing.get_origin(hint) is list else tuple(value)


def _has_modules(value: Any) -> bool:
    """Whether the value is, or holds, something other than plain data of a config."""
    if isinstance(value, (list, tuple)):
        return any(map(_has_modules, value))
    if isinstance(value, Mapping):
        return any(map(_has_modules, value.values()))
    return not (value is None or isinstance(value, (bool, int, float, str)))


def _root_of(name: str, kind: str) -> str | None:
    """The longest allowed package that holds `name`."""
    holding = [root for root in (*_ROOTS[kind], *trusted()) if name.startswith(root + ".")]
    return max(holding, key=len, default=None)


def _inside(module: str, roots: Iterable[str]) -> bool:
    return any(module == root or module.startswith(root + ".") for root in roots)


def _walk(root: str, name: str, path: str, problems: Problems, kind: str) -> Any | None:
    """The object at the end of `name`, stepping through modules of `root` only."""
    allowed = (*_ROOTS[kind], *trusted())
    try:
        holder: Any = import_trusted(root)
    except ModuleNotFoundError as error:
        problems.add(path, f"{name!r} cannot be imported: {error}")
        return None
    for step in name[len(root) + 1 :].split("."):
        if not isinstance(holder, types.ModuleType) or step.startswith("_"):
            problems.add(path, f"{name!r} is refused at {step!r}: only public names of modules are allowed")
            return None
        try:
            found = getattr(holder, step, None)
        except Exception as error:  # whatever a package raises that loads this name when it is asked for
            problems.add(path, f"{name!r} cannot be imported: {type(error).__name__}: {first_line(error)}")
            return None
        if found is None and getattr(holder, "__path__", None) is not None:
            found = _import_below(holder.__name__, step)
        if found is None:
            problems.add(path, f"{name!r} is not a {root} {_BASES[kind][0]}{_nearest_name(root, name, kind)}")
            return None
        if isinstance(found, types.ModuleType) and not _inside(found.__name__, allowed):
            problems.add(path, f"{name!r} is refused: its step {step!r} leaves {root} for the module {found.__name__}")
            return None
        holder = found
    return holder


def _import_below(package: str, step: str) -> types.ModuleType | None:
    full = f"{package}.{step}"
    try:
        return importlib.import_module(full)
    except ModuleNotFoundError as error:
        if error.name != full:
            raise
        return None


def _is_of_kind(found: Any, kind: str) -> bool:
    bases = _BASES[kind][1]
    if kind == "argument":  # a module, or whatever a trusted package makes for its own modules, such as their settings
        return _is_of_kind(found, "layer") or callable(found) and _inside(found.__module__ or "", trusted())
    if inspect.isclass(found):
        if kind == "loss" and (found.__module__ or "").startswith("torch.nn"):
            bases = ("torch.nn.modules.loss._Loss",)
        return not bases or any(f"{base.__module__}.{base.__qualname__}" in bases for base in found.__mro__[1:])
    if not inspect.isroutine(found):
        return False
    if kind == "layer" and (found.__module__ or "").startswith("torchvision.models"):
        from torchvision.models import list_models

        return found.__name__ in list_models()
    return kind in ("data", "scheme", "object") or (kind in ("layer", "activation", "loss") and _inside(found.__module__ or "", trusted()))


def _nearest_name(root: str, name: str, kind: str) -> str:
    choices = [*_names_in(root, kind), *_names_in(name.rpartition(".")[0], kind)]
    by_last = {choice.rpartition(".")[2]: choice for choice in reversed(choices)}
    close = nearest(name.rpartition(".")[2], by_last)
    return f"; did you mean {by_last[close]!r}?" if close else did_you_mean(name, choices)


def _names_in(module_name: str, kind: str) -> list[str]:
    """The public names of an allowed, imported module that would do for this kind."""
    if not _inside(module_name, (*_ROOTS[kind], *trusted())):
        return []
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError:
        return []
    loaded = vars(module)  # a name that the package loads when it is asked for is offered without loading it
    return [
        f"{module_name}.{name}"
        for name in dir(module)
        if not name.startswith("_") and (name not in loaded or _is_of_kind(loaded[name], kind))
    ]


def _outside(name: str, kind: str) -> str:
    roots = (*_ROOTS[kind], *trusted())
    package = name.split(".")[0]
    short = _names_in(roots[0], kind) if roots and package in (name, "nn", "optim", "lr_scheduler", "torch") else []
    by_last = {choice.rpartition(".")[2]: choice for choice in short}
    close = nearest(name.rpartition(".")[2], by_last) if package != "torch" else None
    close = name.rpartition(".")[2] if name.rpartition(".")[2] in by_last else close
    if close is not None:
        return f": give the full name; did you mean {by_last[close]!r}?"
    allowed = f": only {', '.join(roots)} may be named here" if roots else ": only trusted packages may be named here"
    if package in _NEVER_SUGGESTED:
        return allowed
    return f'{allowed}; to allow it, say modelfactory.trust("{package}") in Python or set {_ENVIRONMENT}={package}'


def _example(kind: str) -> str:
    return {
        "layer": "torch.nn.Linear",
        "loss": "torch.nn.CrossEntropyLoss",
        "activation": "torch.nn.ReLU",
        "optimizer": "torch.optim.AdamW",
        "scheduler": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "data": "modelfactory.data.digits",
        "transform": "torchvision.transforms.v2.Resize",
        "scheme": "my_pkg.my_scheme_",
        "object": "my_pkg.MyCallback",
    }[kind]
