"""The training loop, read from top to bottom: `train_model`."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelfactory.config.errors import TrainingError
from modelfactory.data.dataset import PART_NAMES, Data
from modelfactory.training.device import deterministic, kept_random_state, scaled_step
from modelfactory.training.distributed import ALONE, World
from modelfactory.training.feature_cache import check_features, with_features
from modelfactory.training.loss import Correct, LossSum, scores_of_tokens
from modelfactory.training.no_dynamo import eager_step, eager_zero_grad
from modelfactory.training.nonfinite import not_finite
from modelfactory.training.pace import Pace
from modelfactory.training.progress import Progress
from modelfactory.training.requests import Evaluation, Gradients, Request, Step, alone
from modelfactory.training.result import SCORES, SKIPPED, Recorded, Result
from modelfactory.training.resume import RunFiles
from modelfactory.training.saving import SaveTimes
from modelfactory.training.setup import Run, check_model, set_up
from modelfactory.training.spec import MONITORS
from modelfactory.training.stopping import Stop, Terminated, stoppable
from modelfactory.training.sync_batchnorm import synchronized
from modelfactory.training.trackers import open_tracker
from modelfactory.training.training_spec import TrainingSpec
from modelfactory.training.update_ratio import UpdateWatch
from modelfactory.training.within_epoch import Place, resume_within, seed_epoch, state_within

log = logging.getLogger(__name__)
__all__ = ["Result", "train_model", "training"]


def training(
    model: nn.Module,
    data: Data,
    settings: TrainingSpec,
    *,
    seed: int = 0,
    run_dir: str | Path | None = None,
    config: Any = None,
    begin: Callable[[Result, Any], Iterable[str]] | None = None,
    before_epoch: Callable[[int], Any] | None = None,
    thawed_later: Mapping[str, int] | None = None,
    init_hash: str | None = None,
    world: World = ALONE,
    quiet: bool = False,
    pace: Pace | None = None,
) -> Generator[Request, Any, Result]:
    """Trains `model` in place on `data`, as one of many or alone; on the same device the same call gives the same numbers.

    `train_model(...)` is the same as a function. As a generator it yields what it asks for (`modelfactory.training.requests`), so
    that several trainings can be answered together. Global random state is left as it was: dropout and the like draw from generators
    seeded by (seed, epoch).

    Args:
        settings: the groups `optimizer`, `scheduler` and `trainer` of a config, read.
        run_dir: where metrics.csv, result.json, model.safetensors (the best epoch's) and checkpoint/ (the last
            epoch's) go; None: nothing is written.
        config: plain data that model.safetensors carries, and whose hash result.json carries.
        begin: called once, before the first epoch, when the run directory is open, with the result so far and the config as it
            is recorded; what it returns joins the warnings.
        before_epoch: called with each epoch's number, from 1, before it begins; the place for staged unfreezing.
        thawed_later: names of parameters that are frozen at first, which the optimizer has to know of, with the epoch in
            which `before_epoch` thaws each.
        init_hash: a hash of the model's initial values, which result.json carries.
        world: the processes that call this together, each with the same model and data; the first one writes, shows and calls `begin`.
        quiet: whether nothing is shown of its progress, whatever the trainer says.
        pace: at which it writes its files, where it takes turns with others; None: those of each epoch when it is done.

    Raises:
        ConfigError: settings that do not go with the model or the data; nothing is written then.
        TrainingError: a loss that is not finite, with the first layer whose output was not.
        RankFailed: another process failed.
        Terminated: a signal asked it to end, and the step that it was at is saved.

    Example:
        >>> from modelfactory.data import build_data
        >>> from modelfactory.training.training_spec import training_spec
        >>> data = build_data({"_target_": "modelfactory.data.digits"})
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> result = train_model(model, data, training_spec(trainer={"max_epochs": 3, "device": "cpu", "progress": "none"}))
        >>> result.status, result.final["step"], result.best["val_accuracy"] > 0.5
        ('completed', 69, True)
    """
    with world.agreed():
        run = set_up(model, data, settings, thawed_later, world)
    spec, device, schedule, scaler = run.spec, run.device, run.schedule, run.scaler
    step, zero_grad = eager_step(run.optimizer), eager_zero_grad(run.optimizer)
    folder = Path(run_dir) if run_dir is not None and world.is_first else None
    result = Result(run_dir=folder, model=model, init_hash=init_hash, processes=world.size)
    files = RunFiles(result.run_dir, config, {"seed": seed, **settings.given}, pace)
    steps = done = stale = 0  # optimizer steps, whole epochs, epochs since the best one
    within: Any = None  # of an epoch that is done in part
    with kept_random_state(device), deterministic(spec.deterministic):
        with world.agreed():
            run = check_model(run, model, data)
            for warning in run.warnings:
                log.warning(warning)
            if spec.resume is None:
                result.warnings.extend((*data.warnings, *run.warnings))
            parts = check_features(run, model, data, thawed_later, result.run_dir) if spec.cached is not None else None
            if spec.resume is not None:
                run, stale = files.resume(Path(spec.resume), run, model, result)
                steps, done, within = result.final.get("step", 0), result.final.get("epoch", 0), files.within
        # steps that were not skipped, as the schedule counts them: earlier epochs may have had other batches
        updates = schedule.steps or steps - sum(row.get(SKIPPED, 0) for row in result.history)
        watch = UpdateWatch(model, run.optimizer, steps)
        watched_step = watch.around(step)
        began = time.perf_counter() - result.seconds
        begun = within["step"] if within else steps
        tracker = open_tracker(spec.tracker, result.run_dir, files.config, begun)
        looks = 1 if device.type == "cpu" else spec.check_every
        times = SaveTimes(spec.saving.every, world, looks)
        style, together = spec.progress if world.is_first and not quiet else "none", contextlib.ExitStack()
        with (
            stoppable(world, looks) as stop,
            Recorded(result, files.config),
            world.guarded(),
            tracker as track,
            Progress(style, spec.max_epochs, run.max_steps, begun) as progress,
            together,
        ):
            files.open(result)
            together.callback(files.write)
            if begin is not None and world.is_first:
                result.warnings.extend(warning for warning in begin(result, files.config) if warning not in result.warnings)
            if parts is not None and done < spec.max_epochs:
                run = with_features(run, model, parts, data, result.run_dir)
            world.copy_from_first((*model.parameters(), *model.buffers()))
            if spec.sync_batchnorm and world.size > 1:
                together.enter_context(synchronized(model, world))
            for epoch in range(done + 1, spec.max_epochs + 1):
                if steps >= run.max_steps or (spec.patience is not None and stale >= spec.patience):
                    break
                if before_epoch is not None:
                    result.warnings.extend(warning for warning in before_epoch(epoch) or () if warning not in result.warnings)
                seed_epoch(seed, epoch, run)
                model.train()
                losses = LossSum(device, is_sum=run.mean.is_sum)
                seen = {"batches": 0, "samples": 0, "of": run.train_batches}
                lr, x, y, skipped, updates_before = schedule.lr, None, None, 0, updates
                may_be_empty = run.mean.may_be_empty or losses.reads_each  # on the CPU a look costs nothing
                zero_grad()  # what the caller, or a step of before, left there
                if within is not None:
                    place = resume_within(within, run, seed, seen, losses, watch)
                    steps, updates, skipped, lr, within = place.step, updates + place.updates, place.skipped, place.lr, None

                left = run.train_batches - seen["batches"] if steps < run.max_steps else 0
                for batches in _grouped(run.train.epoch(epoch, seen["batches"]), left, spec.accumulate):
                    weights = [run.mean.weight(y) for _, y in batches]
                    whole = world.totals(weights, device)  # of each batch, of which this process has a part
                    total = None if run.mean.is_sum or len(batches) == world.size == 1 else sum(whole)
                    updated = False
                    for (x, y), weight, in_all in zip(batches, weights, whole, strict=True):
                        if may_be_empty and not float(in_all):
                            continue  # every target is ignored: there is nothing to learn from
                        updated = True
                        if not len(y) or (may_be_empty and not float(weight)):
                            if spec.sync_batchnorm:
                                _take_part(run, x)
                            continue
                        # of the mean over all samples of the step, the last one too
                        loss = yield Gradients(run, x, y, None if total is None else weight / total)
                        if not losses.add(loss, weight):
                            raise not_finite(run.trained, x, loss, step=steps + 1, epoch=epoch, y=y, autocast=run.autocast)
                    if updated:
                        world.sum_gradients(run.parameters)
                    if updated and spec.clip_norm is not None:
                        if scaler is not None:
                            scaler.unscale_(run.optimizer)
                        nn.utils.clip_grad_norm_(run.parameters, spec.clip_norm)
                    if updated and scaler is None and watch.is_over:
                        yield Step(run, step)
                    elif updated and scaler is None:
                        watched_step()
                    elif updated and scaler is not None:
                        updated = scaled_step(scaler, run.optimizer)
                        skipped += not updated
                    zero_grad()
                    seen["batches"] += len(batches)
                    seen["samples"] += sum(len(y) for _, y in batches)
                    steps += 1
                    updates += updated
                    if updated and schedule.each_step:
                        lr = schedule.lr
                        schedule.step_done()
                    if progress.bar is not None:
                        progress.bar.update()
                    last = steps == run.max_steps
                    if not losses.reads_each and (last or steps % spec.check_every == 0):
                        _check_kept(losses, run, (x, y), steps, epoch)
                    if last or stop.asked(steps):
                        break
                    if times.are_due(steps):
                        _check_kept(losses, run, (x, y), steps, epoch)
                        place = Place(epoch, steps, updates - updates_before, skipped, lr)
                        files.save_within(state_within(place, run, seen, losses, watch), run, model, result, stale)

                _check_kept(losses, run, (x, y), steps, epoch)
                scores = None
                if not stop.agreed:
                    world.copy_from_first(model.buffers())  # each process has the statistics of its parts of the batches
                    at = {"epoch": epoch, "step": steps, "train_loss": losses.mean(world)}
                    scores = yield from _score_epoch(run, model, at, result.best, stop)
                if scores is None:
                    place = Place(epoch, steps, updates - updates_before, skipped, lr)
                    files.save_within(state_within(place, run, seen, losses, watch), run, model, result, stale)
                    raise Terminated(stop.agreed, files.told(place))
                row, best = scores
                seen["samples"] = int(world.sum_numbers(seen["samples"])[0])
                result.warnings.extend(watch.tell())
                row |= {"lr": lr, "seconds": round(time.perf_counter() - began, 3)}
                row |= scores_of_tokens(row["val_loss"], run.unit)
                if scaler is not None:
                    row[SKIPPED] = skipped
                if updates > updates_before:
                    schedule.epoch_done(updates, row[spec.monitor])
                is_best = best is not result.best
                stale = 0 if is_best else stale + 1
                result.history.append(row)
                result.final = {name: row[name] for name in SCORES}
                result.best = best
                result.seconds = row["seconds"]
                files.save_epoch(run, model, result, stale, is_best, seen)
                progress.epoch_done(row, is_best)
                if track is not None:
                    track(row)
            files.close(run, model, result, stale)
            if steps and not updates:
                raise TrainingError(_never_updated(steps, scaler))
    result.warnings.extend([files.notice] if files.notice else [])
    return result


train_model = alone(training)


def _never_updated(steps: int, scaler: Any) -> str:
    if scaler is None:
        return f"no weight was updated in {steps} steps: the loss ignores every target (trainer.loss.ignore_index)"
    return (
        f"no weight was updated: each of the {steps} steps was skipped, for its gradients overflow in fp16; give trainer.precision=bf16 or "
        "fp32, or scale the targets or the loss down"
    )


def _take_part(run: Run, x: Tensor) -> None:
    """Goes through the model with samples that give no gradient, for the sake of processes that wait for their statistics."""
    with run.autocast:
        output = run.forward(x)
    output.backward(torch.zeros_like(output))


def _grouped(batches: Iterator[tuple[Tensor, Tensor]], limit: int, accumulate: int) -> Iterator[Any]:
    """The batches of each optimizer step."""
    batches = islice(batches, limit)
    if accumulate == 1:
        for batch in batches:
            yield (batch,)
    else:
        while group := tuple(islice(batches, accumulate)):
            yield group


def _check_kept(losses: LossSum, run: Run, batch: tuple[Tensor | None, Tensor | None], steps: int, epoch: int) -> None:
    """Raises for a loss that was not finite among those left on the device; `batch` is the last one."""
    bad, (x, y) = losses.read(), batch
    if bad is not None and x is not None:
        batches_ago, value = bad
        step = steps - batches_ago // run.spec.accumulate
        raise not_finite(run.trained, x, value, step=step, epoch=epoch, y=_all_targets(run.train, y), autocast=run.autocast)


def _all_targets(batches: Any, y: Tensor | None) -> Tensor | None:
    """All targets of data in memory, for which of them came with a loss that was left on the device is not known any more."""
    return getattr(batches, "y", y)


def _score_epoch(
    run: Run, model: nn.Module, at: dict[str, Any], best: dict[str, Any], stop: Stop
) -> Generator[Request, Any, tuple[dict[str, Any], dict[str, Any]] | None]:
    """The scores of an epoch after those in `at`, and those of the best epoch so far, which alone is measured on the test split too.

    Leaves the model in eval mode. None where it was asked to end.
    """
    measured = yield from _measure(run, model, "val", at, stop)
    if measured is None:
        return None
    scores = {**at, **measured}
    if not _is_better(scores, best, run.spec.monitor):
        return scores, best
    tested = {} if run.test is None else (yield from _measure(run, model, "test", at, stop))
    return None if tested is None else (scores, {**scores, **tested})


def _measure(
    run: Run, model: nn.Module, part: str, at: Mapping[str, Any], stop: Stop
) -> Generator[Request, Any, dict[str, float | None] | None]:
    """Mean loss and, for classes, accuracy over the batches of a held out part, "val" or "test". None where it was asked to end."""
    batches, count = (run.val, run.val_batches) if part == "val" else (run.test, run.test_batches)
    told = {"step": at["step"], "epoch": at["epoch"], "what": f"{PART_NAMES[part]} loss"}
    model.eval()
    losses, correct = LossSum(run.device, is_sum=run.mean.is_sum), Correct(run.mean.ignored, run.class_dim)
    x: Any = None
    y: Any = None
    kept: list[tuple[Tensor, Tensor]] = []
    for index, (x, y) in enumerate(islice(batches.epoch(at["epoch"]), count)):
        if stop.asked(index):
            return None
        if not len(y):
            continue
        output, loss = yield Evaluation(run, x, y)
        if loss is None:
            kept.append((output, y))
        elif not losses.add(loss, run.mean.weight(y)):
            raise not_finite(run.trained, x, loss, **told, y=y, autocast=run.autocast)
        if run.task == "classification":
            correct.add(output, y)
    if kept:
        outputs, y = (torch.cat(part) for part in zip(*kept, strict=True))
        with torch.no_grad(), run.autocast:
            loss = run.loss(outputs, y)
        if not losses.add(loss, len(y)):
            raise not_finite(run.trained, x, loss, **told, y=y, autocast=run.autocast)
    bad = losses.read()
    if bad is not None and x is not None:
        raise not_finite(run.trained, x, bad[1], **told, y=_all_targets(batches, y), autocast=run.autocast)
    accuracy = correct.share(run.world) if run.task == "classification" else None
    return {f"{part}_loss": losses.mean(run.world), f"{part}_accuracy": accuracy}


def _is_better(row: Mapping[str, Any], best: Mapping[str, Any], monitor: str) -> bool:
    if not best:
        return True
    return row[monitor] > best[monitor] if MONITORS[monitor] else row[monitor] < best[monitor]
