"""Whether a config of dicts and lists can be walked through at all, and the names that are in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.config.schema import join

MAX_DEPTH = 50  # mappings and lists inside of each other: what OmegaConf can save, which takes 13 calls for each
MAX_REPEATED = 100_000  # values that a config may hold once more, where it holds the same dict or list several times
_WRITTEN = {False: "off, no and false", True: "on, yes and true", None: "null and ~"}


@dataclass
class _Open:
    """A dict or list that is being looked at: where it is in the one around it, what is left of it, and the values so far."""

    value: Any
    key: Any
    items: Iterator[tuple[Any, Any]]
    size: int = 1


def check_nesting(config: Any, is_whole: Callable[[Any], bool] = lambda value: False) -> None:
    """Looks at each dict and list of a config once, however deep, and however often it is in there.

    Args:
        is_whole: tells of a mapping or list that it is not to be looked into.

    Raises:
        ConfigError: one of them is inside of itself, or the same ones stand in so many places that the config has more than
            `MAX_REPEATED` values more than were written.

    Example:
        >>> layers = {}
        >>> layers["again"] = layers
        >>> check_nesting({"model": {"layers": layers}})
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: model.layers.again: is model.layers itself, so the config has no end
    """
    sizes: dict[int, int] = {}
    repeated = 0
    stack = [_Open(config, "", _items(config))]
    places = {id(config): 0}  # in the stack
    while stack:
        here = stack[-1]
        for key, value in here.items:
            if not isinstance(value, (Mapping, list, tuple)) or is_whole(value):
                here.size += 1
            elif id(value) in places:
                above = _path(stack[: places[id(value)] + 1]) or "the config"
                raise ConfigError([Problem(_path(stack, key), f"is {above} itself, so the config has no end")])
            elif id(value) in sizes:
                here.size, repeated = here.size + sizes[id(value)], repeated + sizes[id(value)]
                if repeated > MAX_REPEATED:
                    what = f"the same dicts and lists stand in so many places that they hold more than {MAX_REPEATED:,} values twice"
                    raise ConfigError([Problem(_path(stack, key), what)])
            else:
                places[id(value)] = len(stack)
                stack.append(_Open(value, key, _items(value)))
                break
        else:
            stack.pop()
            sizes[id(here.value)] = here.size
            del places[id(here.value)]
            if stack:
                stack[-1].size += here.size


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    return iter(value.items()) if isinstance(value, Mapping) else enumerate(value)


def _path(stack: list[_Open], *last: Any) -> str:
    """The path of the innermost of the open ones, or of what is at `last` in it."""
    path = ""
    for around, key in zip(stack, [*(inner.key for inner in stack[1:]), *last], strict=False):
        path = join(path, key) if isinstance(around.value, Mapping) else f"{path}[{key}]"
    return path


def check_depth(config: Any) -> None:
    """Raises ConfigError where more than `MAX_DEPTH` mappings and lists are inside of each other.

    Example:
        >>> deep = []
        >>> for _ in range(MAX_DEPTH):
        ...     deep = [deep]
        >>> check_depth({"trainer": {}, "data": deep})
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: data: more than 50 mappings and lists are inside of each other
    """
    level: list[tuple[Any, Any]] = [(None, config)]  # each with the key of the config that it is under
    for depth in range(MAX_DEPTH + 1):
        below = [(key if depth else own, item) for key, value in level for own, item in _items(value)]
        level = list({id(item): (key, item) for key, item in below if isinstance(item, (Mapping, list, tuple))}.values())
        if not level:
            return
    raise ConfigError([Problem(str(level[0][0]), f"more than {MAX_DEPTH} mappings and lists are inside of each other")])


def with_text_names(config: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """The config with texts for the names of layers, rules and groups, where YAML or Python has numbers for them.

    A boolean or null is a problem: what was written is not known any more. What has no such names is not copied.

    Example:
        >>> problems = Problems()
        >>> with_text_names({"model": {"layers": {0: {}, "out": {}}}}, problems)
        {'model': {'layers': {'0': {}, 'out': {}}}}
        >>> _ = with_text_names({"model": {"layers": {False: {}}}}, problems)
        >>> print(*problems)
        model.layers: False is no name: YAML reads off, no and false as it; put the name in quotes, such as 'off'
    """
    named = dict(config)
    for group in ("model", "backbone"):
        if group in named:
            named[group] = _with_named_layers(named[group], group, problems)
    for group, key in (("init", "rules"), ("freeze", "rules"), ("optimizer", "groups")):
        if isinstance(named.get(group), Mapping) and key in named[group]:
            rules = _by_text(named[group][key], join(group, key), problems)
            if rules is not named[group][key]:
                named[group] = {**named[group], key: rules}
    return named


def _with_named_layers(model: Any, path: str, problems: Problems) -> Any:
    """A model, or a layer, with texts for the names of what is in it; arguments of classes are left alone.

    From the inside out: a layer is copied where a name in it, or below, is no text.
    """
    found = list(_containers(model, path))
    changed: dict[int, Any] = {}
    for config, where in reversed(found):
        layers = _by_text(config.get("layers"), join(where, "layers"), problems)
        if isinstance(layers, Mapping) and any(id(layer) in changed for layer in layers.values()):
            layers = {name: changed.get(id(layer), layer) for name, layer in layers.items()}
        shortcut = config.get("shortcut")
        new = {"layers": layers} if layers is not config.get("layers") else {}
        new |= {"shortcut": changed[id(shortcut)]} if id(shortcut) in changed else {}
        if new:
            changed[id(config)] = {**config, **new}
    return changed.get(id(model), model)


def _containers(model: Any, path: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Every layer that has layers, each after the one that it is in."""
    waiting = [(model, path)]
    while waiting:
        config, where = waiting.pop()
        if not isinstance(config, Mapping) or not ("layers" in config or "shortcut" in config):
            continue
        yield config, where
        waiting.append((config.get("shortcut"), join(where, "shortcut")))
        layers = config.get("layers")
        if isinstance(layers, Mapping):
            waiting.extend((layer, join(join(where, "layers"), name)) for name, layer in layers.items())


def _by_text(names: Any, path: str, problems: Problems) -> Any:
    if not isinstance(names, Mapping) or all(isinstance(name, str) for name in names):
        return names
    by_text: dict[Any, Any] = {}
    for name, item in names.items():
        if name is None or isinstance(name, bool):
            quoted = _WRITTEN[name].partition(",")[0].partition(" ")[0]
            problems.add(path, f"{name} is no name: YAML reads {_WRITTEN[name]} as it; put the name in quotes, such as {quoted!r}")
            continue
        name = str(name) if isinstance(name, (int, float)) else name
        if name in by_text:
            what = "modules" if path.endswith("layers") else path.rpartition(".")[2]
            problems.add(join(path, name), f"{name!r} names two {what}; choose another name")
        by_text[name] = item
    return by_text
