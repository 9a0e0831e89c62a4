"""What the config library says of a wrong config, told in our way: the path, the value and what would do."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from modelfactory.config import target
from modelfactory.config.errors import Problem, Problems, did_you_mean, nearest
from modelfactory.config.schema import paths_of

NO_SUCH_KEY = "there is no such key"
NO_OPTION = re.compile(r"Could not (?:find|load) '([^']+)/([^'/]+)'")
_NO_FILE = re.compile(r"In '([^']+)': Could not (?:find|load) '([^'/]+)'")
_NO_CONFIG = re.compile(r"Cannot find primary config '([^']+)'")
_NO_KEY = re.compile(r"Could not (override|append|delete)[^']*'([^']+)'")
_RULES = {  # groups that pick parameters by rules, with an override that adds one
    "freeze": '+freeze.rules.mine={match: "conv1.*"}',
    "init": '+init.rules.mine={match: "conv1.*", scheme: zeros}',
}

_KINDS = {"data": "data", "optimizer": "optimizer", "scheduler": "scheduler", "loss": "loss", "activation": "activation"}  # of `_target_`
_GIVEN = {"params", "optimizer"}  # arguments that the training gives

_CALLED_ELSEWHERE = {  # what other programs call a key of ours
    "accelerator": "trainer.device",
    "accumulate_grad_batches": "trainer.accumulate",
    "amp": "trainer.precision",
    "arch": "model",
    "checkpoint": "trainer.resume",
    "ckpt_path": "trainer.resume",
    "criterion": "trainer.loss",
    "dataset": "data",
    "early_stopping": "trainer.patience",
    "epochs": "trainer.max_epochs",
    "grad_clip": "trainer.clip_norm",
    "gradient_clip_val": "trainer.clip_norm",
    "img_size": "data.input_shape",
    "image_size": "data.input_shape",
    "init_cfg": "init",
    "initializer": "init",
    "learning_rate": "optimizer.lr",
    "logger": "trainer.tracker",
    "lr_scheduler": "scheduler",
    "manual_seed": "seed",
    "num_epochs": "trainer.max_epochs",
    "optim": "optimizer",
    "pretrained": "backbone.weights",
    "random_seed": "seed",
    "root": "data.root",
    "wd": "optimizer.weight_decay",
}


def complaint(error: Exception, options_of: Callable[[str], Sequence[str]] = lambda group: ()) -> Problem:
    """An error of Hydra or OmegaConf as a problem of the config.

    Args:
        options_of: tells the configs of a group, where the error does not.

    Example:
        >>> error = ValueError("In 'config': Could not find 'model/mpl'\\nAvailable options in 'model':\\n\\tmlp\\n\\tcnn")
        >>> print(complaint(error))
        model: 'mpl' is not a config of model; did you mean 'mlp'?
    """
    if isinstance(error, RecursionError):
        return Problem("", "is nested too deeply, or names itself")
    text = str(error) or str(error.__cause__ or "")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if found := NO_OPTION.search(text):
        group, name = found.groups()
        listed = [line for line in lines[_index(lines, "Available options") + 1 :] if re.fullmatch(r"[\w\-]+", line)]
        choices = listed or list(options_of(group))
        hint = "" if nearest(name, choices) else _rules_hint(group)
        return Problem(group, f"{name!r} is not a config of {group}{did_you_mean(name, choices, limit=40)}{hint}")
    if found := _NO_CONFIG.search(text):
        return Problem("--config-name", f"there is no config {found[1]!r} in {_searched(lines) or 'the folders searched'}")
    if found := _NO_FILE.search(text):
        searched = _searched(lines) or "the folders searched"
        return Problem(f"{found[1]}.defaults", f"{found[2]!r} is named, and there is no such config in {searched}")
    if (found := _NO_KEY.search(text)) and not text.startswith("Could not append"):
        path = found[2].partition("@")[0]
        return Problem(path, f"{NO_SUCH_KEY}{_hint(error, path, found[1])}")
    if text.startswith("Config group override must be a string"):
        return Problem("", "a group is given null or a number; give the name of one of its configs, such as data=digits")
    path = str(getattr(error, "full_key", None) or getattr(error.__cause__, "full_key", None) or "")
    if lines and lines[0].startswith("Error when parsing index"):  # with all of the words, ours too
        del lines[0]
    return Problem(path, "; ".join(line for line in lines[:3] if "https://" not in line) or type(error).__name__)


def mapping_for_group(group: str, options: Sequence[str]) -> Problem:
    """The problem of a group that is given a mapping with a key that its config has not.

    Example:
        >>> print(mapping_for_group("optimizer", ["adam", "sgd"]))
        optimizer: is a group, and the mapping has a key that its config has not; give the name of a config of it (adam, sgd), or \
single keys, such as optimizer.KEY=VALUE
    """
    own = ""
    if group == "model":
        own = "for a class of your own, write model=own model._target_=my_pkg.MyNet +model.ARGUMENT=VALUE; else "
    what = "is a group, and the mapping has a key that its config has not"
    single = f"or single keys, such as {group}.KEY=VALUE"
    return Problem(group, f"{what}; {own}give the name of a config of it ({_names(options)}), {single}{_rules_hint(group)}")


def list_for_group(group: str, value: Any, options: Sequence[str]) -> Problem:
    """The problem of a group that is given a list in which there is more than names of its configs.

    Example:
        >>> print(list_for_group("freeze", [1], ["none", "staged"]))
        freeze: [1] is no name of a config, and freeze is a group; give one (none, staged); a rule of your own goes to freeze.rules: \
'+freeze.rules.mine={match: "conv1.*"}'
    """
    what = f"{value!r} is no name of a config, and {group} is a group"
    return Problem(group, f"{what}; give one ({_names(options)}){_rules_hint(group)}")


def _names(options: Sequence[str]) -> str:
    return ", ".join(options[:12]) + (", ..." if len(options) > 12 else "")


def _rules_hint(group: str) -> str:
    return f"; a rule of your own goes to {group}.rules: '{_RULES[group]}'" if group in _RULES else ""


def _index(lines: list[str], start: str) -> int:
    return next((index for index, line in enumerate(lines) if line.startswith(start)), len(lines))


def _searched(lines: list[str]) -> str:
    """The folders in Hydra's listing of its search path, without its own."""
    paths = [line.partition("path=")[2] for line in lines if "path=" in line]
    return ", ".join(path.removeprefix("file://") for path in paths if path not in ("pkg://hydra.conf", "structured://"))


def _hint(error: Exception, path: str, wanted: str) -> str:
    """The key that was meant: of this name somewhere else in the config, or near it where the path leads nowhere, if that is known.

    Args:
        wanted: what the override was to do with the key: override or delete.
    """
    parent: Any = getattr(error.__cause__, "parent_node", None)
    choices = [str(key) for key in parent if key != "hydra"] if hasattr(parent, "keys") else []
    wrong = str(getattr(error.__cause__, "key", None) or path.rpartition(".")[2])
    whole = _keys(parent._get_root()) if choices else {}
    if wanted == "override" and wrong in _arguments_of(parent):
        return f" in the config; +{path}=... adds it"
    if path.startswith("backbone.") and choices == ["name", "weights"]:
        return " of a config without a backbone; choose one, such as backbone=resnet18"
    known = _CALLED_ELSEWHERE.get(wrong)
    elsewhere = [known] if known and _has(whole, known) else paths_of(wrong, whole)
    if elsewhere:
        return f"; did you mean {' or '.join(map(repr, elsewhere))}?"
    meant = _CALLED_ELSEWHERE.get(nearest(wrong, _CALLED_ELSEWHERE) or "", "")
    if meant and (wrong in _CALLED_ELSEWHERE or not nearest(wrong, [*choices, *_names_in(whole)])) and _has(whole, meant):
        return f"; did you mean {meant!r}?"
    if nearest(wrong, choices):
        return did_you_mean(wrong, choices)
    near = nearest(wrong, _names_in(whole))
    if near is not None and wrong not in whole:
        return f"; did you mean {' or '.join(map(repr, paths_of(near, whole)))}?"
    add = f"; to add a key, write +{path}=..." if wanted == "override" and "." in path else ""
    return (did_you_mean(wrong, choices) if choices else "") + add


def _arguments_of(node: Any) -> Collection[str]:
    """The arguments of the class or function that a node of a config names by `_target_`, as far as it may be looked at."""
    if not hasattr(node, "keys") or "_target_" not in node:
        return ()
    name, kind = node._get_node("_target_")._value(), _KINDS.get(str(node._key()))
    if kind is None or not isinstance(name, str):
        return ()
    found = target.resolve(name, "", Problems(), kind=kind)
    return () if found is None else target.parameters_of(found)[0].keys() - _GIVEN


def _has(keys: Mapping[str, Any], path: str) -> bool:
    node: Any = keys
    for name in path.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return False
        node = node[name]
    return True


def _keys(node: Any) -> dict[str, Any]:
    """The keys of a node of the config, and of those below, without values."""
    if not hasattr(node, "_get_node") or not hasattr(node, "keys") or node._is_none() or node._is_missing() or node._is_interpolation():
        return {}
    return {str(key): _keys(node._get_node(key)) or None for key in node.keys() if str(key) != "hydra"}


def _names_in(keys: Mapping[str, Any]) -> list[str]:
    below = [name for value in keys.values() if isinstance(value, Mapping) for name in _names_in(value)]
    return [*keys, *below]
