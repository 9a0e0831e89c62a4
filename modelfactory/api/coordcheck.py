"""The coordinate check of muP (Yang et al. 2022): what some steps change in each layer's output, over widths and depths of a config,
and how the loss depends on the learning rate over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.api.run import build, check
from modelfactory.config.compose import as_given, has_path, to_plain, with_value
from modelfactory.config.errors import ConfigError, Problem, Problems
from modelfactory.data.batches import make_batches
from modelfactory.data.count_classes import count_classes
from modelfactory.data.dataset import Data
from modelfactory.data.spec import build_data
from modelfactory.parameters.roles import describe
from modelfactory.reporting.coordinates import Axis, CoordCheck, Rates
from modelfactory.signal_propagation.keeping import buffers_kept, random_state_of
from modelfactory.training.device import kept_random_state, seed_device, training_context
from modelfactory.training.loss import class_dim_of, make_loss, with_classes_at
from modelfactory.training.no_dynamo import eager_step
from modelfactory.training.optimizer import build_optimizer
from modelfactory.training.training_spec import read_training

WIDTHS, DEPTHS = (64, 128, 256, 512), (2, 4, 8, 16)
WIDTH_KEY, DEPTH_KEY, LR_KEY = "model.width", "model.depth", "optimizer.lr"
_PROBED = 128  # samples whose outputs are compared


@training_context()
def coordcheck(
    cfg: Any,
    *overrides: str,
    widths: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    lrs: Sequence[float] = (),
    steps: int = 5,
    lr_steps: int = 60,
    seeds: int = 2,
    width_key: str = WIDTH_KEY,
    depth_key: str = DEPTH_KEY,
) -> CoordCheck:
    """Measure over widths and depths how much a few optimizer steps change of each layer's output, and say whether it stays.

    Each model is built and trained by the config's own init, optimizer, loss and data, without its schedule. Where what steps change
    grows with the width, a learning rate that is right for one width is too large for another. Over depths the last block is
    compared (`blocks.-1`), which stands at the same place of each; of residual branches the sums, of which each term is smaller
    the more there are.

    Args:
        cfg: a config that is not resolved (`mf.compose`), a YAML file, or the first of `overrides`.
        widths, depths: at least two; () leaves them out, None is 64 to 512 and 2 to 16 where the config has the key.
        lrs: at least three; each width is trained at each of them, for the rate with the least loss.
        steps: of the optimizer, after which the outputs are compared.
        lr_steps: of the optimizer, over whose last quarter the training loss is the one that is compared.
        seeds: over which all is a mean.
        width_key, depth_key: what of the config is the width, and the depth.

    Raises:
        ConfigError: the config is wrong at one of the sizes, or has no such key.

    Example:
        >>> check = coordcheck("model=mlp", "init=mup", "optimizer=adam_mup", widths=(32, 64), steps=2, seeds=1)
        >>> [round(change, 1) >= 0 for change in check.axes[0].changes["head"]]
        [True, True]
    """
    config = as_given(cfg, overrides)
    named = {width_key: width_key != WIDTH_KEY, depth_key: depth_key != DEPTH_KEY}
    asked = _asked(config, {width_key: (widths, WIDTHS), depth_key: (depths, DEPTHS)}, named)
    if lrs and (len(set(lrs)) < 3 or min(lrs) <= 0):
        raise ConfigError([Problem("lrs", f"{list(lrs)} are not three or more learning rates > 0")])
    if min(steps, lr_steps, seeds) < 1:
        raise ConfigError([Problem("", f"steps, lr_steps and seeds are at least 1, not {steps}, {lr_steps} and {seeds}")])
    if lrs and width_key not in asked:
        raise ConfigError([Problem("lrs", "the loss is measured over widths, and there are none")])
    names = {width_key: "width", depth_key: "depth"}
    axes = tuple(_axis(config, names[key], key, sizes, steps, seeds) for key, sizes in asked.items())
    rates = _rates(config, width_key, asked[width_key], tuple(sorted(set(lrs))), lr_steps, seeds) if lrs else None
    return CoordCheck(axes, steps, seeds, rates)


def _axis(config: Any, name: str, key: str, sizes: tuple[int, ...], steps: int, seeds: int) -> Axis:
    """The changes of the layers that the models of all sizes have; over depths those of the last block."""
    of_depth = name == "depth"
    made = [with_value(config, key, size) for size in sizes]
    for one in made:
        check(one)
    found = [_mean([_changes(one, steps, seed, of_depth) for seed in range(seeds)]) for one in made]
    common = [layer for layer in found[0] if all(layer in other for other in found)]
    return Axis(name, key, sizes, {layer: tuple(one[layer] for one in found) for layer in common})


def _rates(config: Any, key: str, widths: tuple[int, ...], lrs: tuple[float, ...], steps: int, seeds: int) -> Rates:
    def loss(width: int, lr: float) -> float:
        return _loss(with_value(with_value(config, key, width), LR_KEY, lr), steps, seeds)

    return Rates(key, lrs, {width: tuple(loss(width, lr) for lr in lrs) for width in widths}, steps)


def _asked(
    config: Any, sizes: Mapping[str, tuple[Sequence[int] | None, Sequence[int]]], named: Mapping[str, bool]
) -> dict[str, tuple[int, ...]]:
    """The sizes to go through by their key; a key that the config does not have is an error where its sizes, or it itself, were given."""
    problems, found = Problems(), dict[str, tuple[int, ...]]()
    for key, (given, usual) in sizes.items():
        if given is not None and not given:
            continue
        if not has_path(config, key):
            if given is not None or named[key]:
                problems.add(key, "the config has no such key; name the one that is it: width_key= (--width-key), depth_key= (--depth-key)")
            continue
        chosen = tuple(sorted(set(usual if given is None else given)))
        if len(chosen) < 2 or chosen[0] < 1:
            problems.add(key, f"{list(chosen)} are not two or more sizes >= 1")
        found[key] = chosen
    if not found and not problems:
        keys = " and no ".join(sizes)
        problems.add("", f"the config has no {keys}; name what of it is the width: width_key= (--width-key)")
    problems.raise_if_any()
    return found


def _mean(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {layer: sum(one[layer] for one in found) / len(found) for layer in found[0]}


class _Training:
    """One model of a config on its data, that takes steps; always by the same batches and random numbers for a seed."""

    def __init__(self, config: Any, seed: int):
        plain = {**to_plain(config, count_classes), "seed": seed}
        problems = Problems()
        settings = read_training(plain, problems).whole()
        if settings is None:
            raise ConfigError(problems)
        self.data: Data = build_data(plain["data"], backbone=plain.get("backbone"))
        self.device, self.seed = settings.device, seed
        self.model: nn.Module = build(plain).to(self.device)
        self.optimizer = build_optimizer(settings.optimizer, self.model)
        loss = make_loss(settings.loss, self.data.task, problems)
        if loss is None:
            raise ConfigError(problems)
        self.loss = loss.to(self.device)

    def steps(self, count: int) -> Iterator[float]:
        """The training loss before each of so many steps."""
        data, step, taken, epoch = self.data, eager_step(self.optimizer), 0, 0
        batches = make_batches(data.train, data.batch_size, self.device, seed=self.seed, drop_last=len(data.train) >= data.batch_size)
        self.model.train()
        while taken < count:
            epoch += 1
            for x, y in batches.epoch(epoch):
                self.optimizer.zero_grad()
                output = self.model(x)
                loss = with_classes_at(self.loss, class_dim_of(output, x, y))(output, y)
                loss.backward()
                step()
                yield loss.item()
                taken += 1
                if taken == count:
                    return

    def outputs(self, of_depth: bool) -> dict[str, Tensor]:
        """What each layer that has a matrix gives on the first samples, by its name.

        Args:
            of_depth: whether models of other depths are compared: layers have the names of `at_the_end`, and sums stand for branches.
        """
        found: dict[str, Tensor] = {}

        def keeping(name: str) -> Callable[..., None]:
            def keep(module: nn.Module, inputs: Any, output: Any) -> None:
                made = output[0] if isinstance(output, tuple) else output
                if isinstance(made, Tensor):
                    found[name] = made.detach().clone()

            return keep

        watched = {name: module for name, module in self.model.named_modules() if _has_matrix(module)}
        if of_depth:
            infos = describe(self.model)
            inside = {info.module_name for info in infos if any(info.name in branch.inside for branch in info.model.branches)}
            sums = {name: module for name, module in self.model.named_modules() if getattr(type(module), "is_residual", False)}
            named = {at_the_end(self.model, name): module for name, module in (watched | sums).items() if name not in inside}
            watched = {name: module for name, module in named.items() if name is not None}
        handles = [module.register_forward_hook(keeping(name)) for name, module in watched.items()]
        x, _ = self.data.train.sample(min(len(self.data.train), _PROBED))
        try:
            with torch.no_grad(), buffers_kept(self.model), random_state_of(self.device, self.seed):
                self.model.train()(x.to(self.device))
        finally:
            for handle in handles:
                handle.remove()
        return found


def at_the_end(model: nn.Module, name: str) -> str | None:
    """The name of a module in the last of the parts of each chain of numbered ones, with -1 for its number; None in another.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.ModuleList(nn.Linear(2, 2) for _ in range(3)))
        >>> [at_the_end(model, name) for name in ("1.1", "1.2")]
        [None, '-1.-1']
    """
    parts, above = [], model
    for part in name.split("."):
        numbered = [key for key in above._modules if key.isdigit()]
        if part in numbered and part != numbered[-1]:
            return None
        parts.append("-1" if part in numbered else part)
        above = above.get_submodule(part)
    return ".".join(parts)


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter is not None and parameter.ndim > 1 for parameter in module._parameters.values())


@contextmanager
def _seeded(training: _Training) -> Iterator[None]:
    with kept_random_state(training.device):
        seed_device(training.seed, training.device)
        yield


def _changes(config: Any, steps: int, seed: int, of_depth: bool) -> dict[str, float]:
    """By layer, the root mean square of what so many steps change of its output."""
    training = _Training(config, seed)
    with _seeded(training):
        before = training.outputs(of_depth)
        for _ in training.steps(steps):
            pass
        after = training.outputs(of_depth)
    return {name: (after[name] - before[name]).float().square().mean().sqrt().item() for name in before}


def _loss(config: Any, steps: int, seeds: int) -> float:
    """The mean training loss over the last quarter of the steps, over seeds; infinite where it is not finite."""
    total = 0.0
    for seed in range(seeds):
        training = _Training(config, seed)
        with _seeded(training):
            losses = list(training.steps(steps))
        last = losses[-max(1, steps // 4) :]
        total += sum(last) / len(last)
    return total / seeds if math.isfinite(total) else math.inf
