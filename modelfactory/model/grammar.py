"""Reads `model:` of a config into a blueprint: names resolved, arguments checked, sizes inferred.

Everything that is wrong is gathered with its config path; after a layer that is wrong the next ones are still
checked, as far as they can be without knowing what comes in.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from modelfactory.config.errors import Problems, did_you_mean, first_line, nearest
from modelfactory.config.schema import check_value, join
from modelfactory.config.target import check_arguments, resolve
from modelfactory.model.arguments import check_dimensions, with_batch_first, without_weights
from modelfactory.model.blueprint import Chain, Leaf, Node
from modelfactory.model.branch_scale import divide_branches, read_scale
from modelfactory.model.infer import BROKEN, UNKNOWN, Incoming, Inference, shape_of, why_no_part
from modelfactory.model.layers.containers import Parallel, Residual
from modelfactory.model.layers.glue import Item, SelfAttention
from modelfactory.model.layers.sizes import shape_text
from modelfactory.model.repeats import MAX_LAYERS, count_layers
from modelfactory.parameters.declared import read_blocks, read_fans, read_tie
from modelfactory.parameters.layer_rules import Definition
from modelfactory.parameters.roles import read_roles

MODEL_KEYS = ("_target_", "layers", "repeat", "init", "freeze", "roles", "blocks", "fans", "tie", "output")
_ATTRIBUTES = frozenset(vars(nn.Module()))
_CONTAINERS = {Residual: ("scale",), Parallel: ("combine", "dim"), nn.Sequential: ()}


def read_model(config: Any, incoming: Incoming | None, problems: Problems, path: str = "model") -> Node | None:
    """The blueprint of a model, or None after adding all that is wrong to `problems`.

    Args:
        config: the mapping under `model`: `layers` in the grammar, or a `_target_` of one's own.
        incoming: an example input on the meta device, batch first; None when no input shape is known.

    Example:
        >>> problems = Problems()
        >>> layers = {"fc": {"_target_": "torch.nn.Linear", "out_features": 3}}
        >>> read_model({"layers": layers}, torch.empty(2, 5, device="meta"), problems).children[0][1].arguments
        {'out_features': 3, 'in_features': 5}
    """
    if not isinstance(config, Mapping):
        problems.add(path, f"{config!r} is not a model; give layers, or _target_")
        return None
    if "layers" not in config and "_target_" not in config:
        problems.add(path, f"has neither layers nor _target_{_misspelt(config)}")
        return None
    if "_target_" not in config:
        config = _without_variables(config, path, problems)
    if config.get("output") is not None:
        problems.add(join(path, "output"), f"{config['output']!r} picks nothing here: it goes beside a layer, inside layers")
    node, _ = _Reader(problems, path).read(config, path, UNKNOWN if incoming is None else incoming)
    return None if node is None else divide_branches(node)


def read_layers(layers: Any, incoming: Incoming, problems: Problems, path: str) -> tuple[Node | None, Incoming]:
    """The blueprint of a chain of layers and what leaves it, or None after adding all that is wrong to `problems`."""
    node, leaving = _Reader(problems, "").read({"layers": layers}, path, incoming)
    return None if node is None else divide_branches(node), leaving


def read_activation(config: Any, problems: Problems, path: str = "activation") -> None:
    """Adds to `problems` what is wrong with the activation that layers take over by ${activation}.

    Example:
        >>> problems = Problems()
        >>> read_activation({"_target_": "torch.nn.ELU", "alhpa": 2.0}, problems)
        >>> print(*problems)
        activation.alhpa: not an argument of ELU; did you mean 'alpha'?
    """
    _Reader(problems, "").read(config, path, BROKEN)


def _without_variables(config: Mapping[str, Any], path: str, problems: Problems) -> dict[str, Any]:
    """The keys of the grammar. Others are the config's own figures (`depth: 10`), there for ${model.depth} to use."""
    for name, value in config.items():
        close = nearest(str(name), MODEL_KEYS)
        if name not in MODEL_KEYS and (close is not None or isinstance(value, (Mapping, list))):
            problems.add(join(path, name), f"not a key of a model{did_you_mean(str(name), MODEL_KEYS)}")
    return {name: value for name, value in config.items() if name in MODEL_KEYS}


def _misspelt(config: Mapping[str, Any]) -> str:
    close = next((word for key in config for word in [nearest(str(key), ("layers", "_target_"))] if word), None)
    return f"; did you mean {close!r}?" if close else "; give one of them"


class _Reader:
    """Walks the config with what comes into each layer; `read` gives a node and what leaves it."""

    def __init__(self, problems: Problems, root: str):
        self.problems, self.root = problems, root
        self.infer = Inference(problems)

    def read(self, config: Any, path: str, incoming: Incoming) -> tuple[Node | None, Incoming]:
        if not isinstance(config, Mapping):
            self.problems.add(path, f"{config!r} is not a layer; give a mapping with _target_, or with layers")
            return None, BROKEN
        if config.get("repeat") is not None:
            return self._repeat(config, path, incoming)
        definition = self._definition(config, path)
        if "_target_" not in config:
            if "layers" not in config:
                self.problems.add(path, f"has neither _target_ nor layers{_misspelt(config)}")
                return None, BROKEN
            return self._chain(config, path, incoming, definition, nn.Sequential)
        target = resolve(config["_target_"], join(path, "_target_"), self.problems)
        if target is None:
            return None, BROKEN
        if target in _CONTAINERS:
            return self._chain(config, path, incoming, definition, target)
        return self._leaf(config, path, incoming, definition, target)

    def _definition(self, config: Mapping[str, Any], path: str) -> Definition:
        init, freeze = config.get("init"), config.get("freeze")
        if isinstance(init, str):
            init = {"weight": init}
        if init is not None and not isinstance(init, Mapping):
            self.problems.add(join(path, "init"), f"{init!r} is not a mapping; give parameter: scheme, like {{weight: zeros}}")
            init = None
        check_value(freeze, bool | None, join(path, "freeze"), self.problems)
        roles = read_roles(config.get("roles"), join(path, "roles"), self.problems)
        own = "layers" in config and isinstance(config.get("blocks"), int)  # a number that the config's layers use
        given = None if own else config.get("blocks")
        blocks = read_blocks(given, join(path, "blocks"), self.problems)
        fans = read_fans(config.get("fans"), join(path, "fans"), self.problems)
        tie = read_tie(config.get("tie"), join(path, "tie"), self.problems)
        return Definition(path, dict(init or {}), freeze, roles, blocks, fans, tie)

    def _repeat(self, config: Mapping[str, Any], path: str, incoming: Incoming) -> tuple[Node | None, Incoming]:
        found = len(self.problems)
        times = check_value(config["repeat"], int, join(path, "repeat"), self.problems, {"min": 1})
        if len(self.problems) > found:
            return None, BROKEN
        if config.get("output") is not None and "layers" not in config:
            self.problems.add(join(path, "output"), "cannot stand beside repeat; write layers: {name: {..., output: ...}} under it")
            return None, BROKEN
        # beside layers, they are of the whole block (0.fc.weight); beside a class, of each of its copies (weight)
        lifted = () if "_target_" in config else ("init", "freeze", "roles", "blocks", "fans")
        definition = self._definition({key: config[key] for key in lifted if key in config}, path)
        body = {key: value for key, value in config.items() if key not in ("repeat", *lifted)}
        if (made := count_layers(config)) > MAX_LAYERS:
            self.problems.add(join(path, "repeat"), f"{times:,} makes {made:,} layers; at most {MAX_LAYERS:,} are made of one repeat")
            times = 1  # so that what is wrong with them is told too
        children: list[tuple[str, Node]] = []
        node: Node | None = None
        shape_in = None
        for index in range(times):
            if node is None or shape_of(incoming) != shape_in or shape_in is None:
                shape_in = shape_of(incoming)
                node, incoming = self.read(body, path, incoming)
                if node is None:
                    return None, BROKEN
            children.append((str(index), node))
        return Chain(definition, nn.Sequential, tuple(children)), incoming

    def _chain(
        self, config: Mapping[str, Any], path: str, incoming: Incoming, definition: Definition, container: type[nn.Module]
    ) -> tuple[Node | None, Incoming]:
        found = len(self.problems)
        layers = config.get("layers")
        where = join(path, "layers")
        if not isinstance(layers, Mapping) or not layers:
            what = "is missing" if layers is None else "is empty" if not layers else f"is {layers!r}, not a mapping"
            self.problems.add(where, f"{what}; give at least one name: {{_target_: ...}}")
            return None, BROKEN
        self._check_keys(config, path, (*MODEL_KEYS, *_CONTAINERS[container], *(("shortcut",) if container is Residual else ())))
        if container is Residual and config.get("shortcut") is not None:
            layers = {**layers, "shortcut": config["shortcut"]}
        children: list[tuple[str, Node]] = []
        leaving: dict[str, Incoming] = {}
        flowing = incoming
        for name, layer in layers.items():
            if layer is None:  # a layer of the config that a command line took out
                continue
            name = str(name)
            below = join(path if name == "shortcut" and "shortcut" in config else where, name)
            self._check_name(name, container, below)
            if name in leaving or any(name == taken for taken, _ in children):
                self.problems.add(below, f"{name!r} names two modules; choose another name")
            apart = container is Parallel or (container is Residual and name == "shortcut")
            node, out = self.read(layer, below, incoming if apart else flowing)
            leaving[name] = out
            flowing = flowing if apart else out
            if node is not None:
                children.append((name, node))
                if isinstance(layer, Mapping) and layer.get("output") is not None:
                    item, out = self._output(layer["output"], below, out)
                    leaving[name] = out
                    flowing = flowing if apart else out
                    if item is not None and not apart:
                        children.append((f"{name}_output", item))
                    elif item is not None:
                        children[-1] = (name, Chain(Definition(below), nn.Sequential, ((name, node), ("output", item))))
        options: dict[str, Any] = {}
        if not children and len(self.problems) == found or container is Residual and not set(leaving) - {"shortcut"}:
            self.problems.add(where, "holds no layer that is not null; give at least one name: {_target_: ...}")
        if container is Residual:
            branch = [child for child_name, child in children if child_name != "shortcut"]
            options, flowing = self._residual(config, path, incoming, (flowing, branch), leaving.get("shortcut", incoming))
        elif container is Parallel:
            options, flowing = self._parallel(config, path, leaving)
        broken = len(self.problems) > found
        return (None, BROKEN) if broken else (Chain(definition, container, tuple(children), options), flowing)

    def _output(self, part: Any, path: str, incoming: Incoming) -> tuple[Leaf | None, Incoming]:
        """The part of a tuple, or of an object by its name, that goes on, and a layer that takes it."""
        where = join(path, "output")
        found = len(self.problems)
        if not isinstance(part, str):
            check_value(part, int, where, self.problems)
        if len(self.problems) == found and (wrong := why_no_part(incoming, part)):
            self.problems.add(where, wrong)
        if len(self.problems) > found:
            return None, BROKEN
        leaf = Leaf(Definition(path), Item, {"index": part}, None, has_state=False)
        return leaf, incoming if incoming is UNKNOWN or incoming is BROKEN else Item(part)(incoming)

    def _residual(
        self, config: Mapping[str, Any], path: str, incoming: Incoming, ending: tuple[Incoming, list[Node]], shortcut: Incoming
    ) -> tuple[dict[str, Any], Incoming]:
        branch, nodes = ending
        options = read_scale(config.get("scale"), join(path, "scale"), branch, nodes, self.problems)
        for name, out in (("branch", branch), ("shortcut", shortcut)):
            if isinstance(out, tuple) and out is not incoming:
                self._add_tuple(path, name, out)
                return options, BROKEN
        shape_out, shape_by = shape_of(branch), shape_of(shortcut)
        if shape_out is not None and shape_by is not None and shape_out != shape_by:
            other = "the shortcut" if shortcut is not incoming else "what comes in"
            self.problems.add(
                path,
                f"the branch gives {shape_text(shape_out)}, {other} {shape_text(shape_by)}: they cannot be added; "
                "give a shortcut that ends in the branch's shape",
            )
            return options, BROKEN
        return options, branch if shape_by is not None or shortcut is UNKNOWN else shortcut

    def _parallel(self, config: Mapping[str, Any], path: str, leaving: dict[str, Incoming]) -> tuple[dict[str, Any], Incoming]:
        options = {key: config[key] for key in ("combine", "dim") if key in config}
        checked = check_arguments(Parallel, options, path, self.problems, inferred={"layers"})
        if checked is None:
            return options, BROKEN
        if options.get("combine", "cat") == "cat" and options.get("dim") == 0:
            self.problems.add(join(path, "dim"), "0 is the batch, whose samples stay apart; give 1 or more, or -1")
            return options, BROKEN
        for name, out in leaving.items():
            if isinstance(out, tuple):
                self._add_tuple(path, f"branch {name!r}", out)
                return options, BROKEN
        tensors = [out for out in leaving.values() if isinstance(out, torch.Tensor)]
        if len(tensors) < len(leaving):
            return options, BROKEN if BROKEN in leaving.values() else UNKNOWN
        try:
            dim = options.get("dim", 1)
            out = torch.cat(tensors, dim) if options.get("combine", "cat") == "cat" else sum(tensors[1:], tensors[0])
        except (RuntimeError, IndexError) as error:
            shapes = ", ".join(f"{name} {shape_text(tensor.shape)}" for name, tensor in zip(leaving, tensors, strict=True))
            self.problems.add(
                path, f"the branches cannot be combined by {options.get('combine', 'cat')}: {shapes} ({first_line(error)})"
            )
            return options, BROKEN
        return options, out

    def _add_tuple(self, path: str, what: str, parts: tuple[Any, ...]) -> None:
        self.problems.add(
            path, f"the {what} gives a tuple of {len(parts)}; say which part goes on with output: 0 beside its last layer"
        )

    def _leaf(
        self, config: Mapping[str, Any], path: str, incoming: Incoming, definition: Definition, target: Any
    ) -> tuple[Node | None, Incoming]:
        found = len(self.problems)
        if target is nn.MultiheadAttention:
            target = SelfAttention
        for key in ("layers",):
            if key in config:
                self.problems.add(
                    join(path, key), f"{config['_target_']} takes no layers; only a chain, Residual and Parallel do"
                )
        given = {str(name): value for name, value in config.items() if name not in MODEL_KEYS}
        arguments = {name: self._argument(value, join(path, name)) for name, value in given.items()}
        arguments = with_batch_first(target, without_weights(target, arguments, path, self.problems), path, self.problems)
        sized = self.infer.sizes(target, arguments, path, incoming)
        left_open = self.infer.left_open(target, incoming)
        checked = check_arguments(target, {**arguments, **sized}, path, self.problems, left_open, also=MODEL_KEYS[3:])
        check_dimensions(target, checked or {}, path, self.problems)
        if checked is None or len(self.problems) > found:
            return None, BROKEN
        leaf = Leaf(definition, target, checked, shape_of(incoming))
        if path == self.root:  # nothing comes after a whole model, so what leaves it need not be known
            return leaf, UNKNOWN
        traits = self.infer.run(leaf, path, incoming)
        if traits is None:
            return None, BROKEN
        return replace(leaf, has_state=traits.has_state), traits.outgoing

    def _argument(self, value: Any, path: str) -> Any:
        """An argument of a layer; a mapping with `_target_` in it is a module, or an object of a trusted package such as the settings
        that its model takes (or, with `_partial_`, makes one)."""
        if isinstance(value, (list, tuple)):
            return type(value)(self._argument(item, f"{path}[{index}]") for index, item in enumerate(value))
        if not isinstance(value, Mapping) or "_target_" not in value:
            return value
        target = resolve(value["_target_"], join(path, "_target_"), self.problems, kind="argument")
        given = {
            str(name): self._argument(item, join(path, name))
            for name, item in value.items()
            if name not in ("_target_", "_partial_")
        }
        if target is None:
            return None
        given = with_batch_first(target, without_weights(target, given, path, self.problems), path, self.problems)
        partly = check_value(value.get("_partial_", False), bool, join(path, "_partial_"), self.problems)
        checked = check_arguments(target, given, path, self.problems, inferred=_all_arguments(target) if partly else ())
        return Leaf(Definition(path), target, {**(checked or {}), **({"_partial_": True} if partly else {})})

    def _check_keys(self, config: Mapping[str, Any], path: str, allowed: tuple[str, ...]) -> None:
        for name in config:
            if name not in allowed:
                self.problems.add(join(path, name), f"not a key here{did_you_mean(str(name), allowed)}")

    def _check_name(self, name: str, container: type[nn.Module], path: str) -> None:
        if not name or "." in name:
            self.problems.add(path, f"{name!r} cannot name a module: it is empty or has a dot")
        elif hasattr(container, name) or name in _ATTRIBUTES or name in _CONTAINERS[container]:
            self.problems.add(
                path, f"{name!r} cannot name a module: {container.__name__} has an attribute of that name; choose another"
            )


def _all_arguments(target: Any) -> set[str]:
    return set(inspect.signature(target).parameters)
