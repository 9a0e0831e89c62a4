"""Which jobs are trained together, and what is said of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from modelfactory.sweeping.grouping import plan_groups, side_by_side, tell_groups
from modelfactory.sweeping.records import Job

BASE: dict[str, Any] = {
    "seed": 0,
    "model": {"width": 8},
    "data": {"seed": 0, "batch_size": 8},
    "init": {"rules": {}},
    "optimizer": {"lr": 0.1},
    "trainer": {"max_epochs": 3, "device": "cpu"},
}


def jobs_of(*changes: dict[str, Any]) -> list[Job]:
    def changed(name: str, new: Any) -> Any:
        return {**BASE.get(name, {}), **new} if isinstance(new, dict) else new

    configs = [BASE | {name: changed(name, new) for name, new in each.items()} for each in changes]
    return [Job(number, Path(str(number)), (), config=config) for number, config in enumerate(configs)]


def planned(jobs: list[Job], most: int = 64, tasks: int = 1) -> list[list[int]]:
    return [[job.number for job in group.jobs] for group in plan_groups(jobs, lambda job: None, most, tasks)]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"data": {"seed": 1}},
        {"init": {"rules": {"a": 1}}},
        {"optimizer": {"lr": 1.0, "weight_decay": 0.1}},
        {"trainer": {"max_epochs": 9, "patience": 2, "clip_norm": 1.0, "loss": {"label_smoothing": 0.1}}},
        {"freeze": {"rules": {}}},
        {"scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR"}},
    ],
    ids=str,
)
def test_jobs_that_differ_in_what_stacks_are_trained_together(change: dict[str, Any]):
    assert planned(jobs_of({}, change)) == [[0, 1]]


@pytest.mark.parametrize("change", [{"model": {"width": 9}}, {"data": {"batch_size": 9}}, {"trainer": {"limit_batches": 2}}], ids=str)
def test_jobs_that_differ_in_anything_else_are_not(change: dict[str, Any]):
    assert planned(jobs_of({}, change, {"seed": 1}, change)) == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"trainer": {"precision": "bf16"}}, "trainer.precision is bf16"),
        ({"trainer": {"compile": True}}, "trainer.compile is True"),
        ({"trainer": {"cache_features": "memory"}}, "trainer.cache_features is memory"),
        ({"trainer": {"tracker": "wandb"}}, "trainer.tracker is wandb"),
        ({"data": {"num_workers": 2}}, "data.num_workers: the data are on disk"),
        ({"model": {"width": 9}}, "no other job differs from it only in what stacks"),
    ],
    ids=str,
)
def test_the_plan_tells_why_a_job_is_trained_alone(change: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture):
    groups = plan_groups(jobs_of({}, {"seed": 1}, change), lambda job: None, 64)
    assert [len(group.jobs) for group in groups] == [2, 1] and (groups[1].why_alone or "").startswith(why)
    with caplog.at_level(logging.INFO):
        tell_groups(groups)
    assert "2 jobs are trained in 1 group: 0-1" in caplog.text and f"job 2 is trained alone: {why}" in caplog.text


@pytest.mark.parametrize(
    ("most", "tasks", "wanted"),
    [(64, 1, [5]), (3, 1, [3, 2]), (64, 2, [3, 2]), (64, 9, [1] * 5), (1, 1, [1] * 5)],
)
def test_groups_are_as_even_as_can_be_and_as_many_as_run_side_by_side(most: int, tasks: int, wanted: list[int]):
    assert [len(group) for group in planned(jobs_of(*({"seed": seed} for seed in range(5))), most, tasks)] == wanted


def test_a_job_whose_others_are_done_is_still_trained_as_a_part_of_a_stack():
    jobs = jobs_of({}, {"seed": 1}, {"model": {"width": 9}})
    groups = plan_groups(jobs[1:], lambda job: None, 64, every=jobs)
    assert [group.why_alone for group in groups] == [None, "no other job differs from it only in what stacks"]


def test_a_model_that_does_not_stack_is_trained_alone_with_the_reason():
    groups = plan_groups(jobs_of({}, {"model": {"width": 9}}), lambda job: "no layer of it stacks" if job.number else None, 64)
    assert [group.why_alone for group in groups] == ["no other job differs from it only in what stacks", "no layer of it stacks"]


def test_a_launcher_says_how_many_tasks_it_runs_at_once():
    assert side_by_side({"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}) == 1
    assert side_by_side({"_target_": "joblib.JoblibLauncher", "n_jobs": -1}) >= 1
