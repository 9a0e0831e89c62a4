"""Which differences are told: by simulation at the right rate, and honestly where seeds are few or missing."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from modelfactory.config.errors import ConfigError
from modelfactory.reporting.ranking import rank
from modelfactory.reporting.schemes import HIGHER_IS_BETTER, Arm, Metric, choose_metric, compared_axes, gather_schemes
from modelfactory.reporting.text import Figures, Ranking, ranking_text, sentences
from modelfactory.sweeping.records import Job, Sweep, read_sweep
from tests.reporting.made_sweeps import make_sweep

LOSS, ACCURACY = Metric("val_loss"), Metric("val_accuracy")


def scheme(name: str, *values: float | None) -> Arm:
    """A scheme whose seeds 0, 1, ... have these values; None: no value."""
    jobs = tuple(
        Job(seed, Path(name, str(seed)), (f"init={name}", f"seed={seed}"), "completed" if value is not None else "diverged")
        for seed, value in enumerate(values)
    )
    found = {(str(seed),): value for seed, value in enumerate(values) if value is not None}
    return Arm((name,), jobs, found, len(jobs) - len(found))


def verdicts(ranking: Ranking) -> dict[str, str]:
    return {row.scheme.label: "best" if row.is_best else row.comparison.verdict if row.comparison else "none" for row in ranking.rows}


def told_rate(num_schemes: int, seeds: int, repeats: int) -> float:
    """How often any difference is told between schemes that do not differ; seeds have a large effect that all share."""
    rng, told = np.random.default_rng(num_schemes), 0
    for _ in range(repeats):
        values = rng.normal(0, 1, (num_schemes, seeds)) + rng.normal(0, 5, seeds)
        made = rank([scheme(str(index), *row) for index, row in enumerate(values.tolist())], LOSS, ["init"])
        told += bool({"worse", "better"} & set(verdicts(made).values()))
    return told / repeats


def test_two_schemes_that_do_not_differ_are_told_apart_in_5_percent_of_cases():
    repeats = 2000
    assert abs(told_rate(2, 4, repeats) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / repeats)


def test_of_many_equal_schemes_the_best_is_not_told_from_the_others_more_often_than_5_percent():
    repeats = 300
    assert told_rate(8, 5, repeats) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / repeats)


def test_pairing_tells_a_difference_that_is_far_smaller_than_the_spread_over_seeds():
    made = rank([scheme("a", 1.0, 5.0, 9.0, 3.0), scheme("b", 1.11, 5.1, 9.09, 3.1)], LOSS, ["init"])
    assert verdicts(made) == {"a": "best", "b": "worse"}
    assert made.rows[1].comparison.difference == pytest.approx(0.1)
    assert made.rows[1].comparison.half_width < 0.1


def test_the_direction_is_that_of_the_metric():
    good, bad = scheme("good", 0.9, 0.91, 0.92), scheme("bad", 0.5, 0.505, 0.52)
    assert verdicts(rank([bad, good], ACCURACY, ["init"])) == {"good": "best", "bad": "worse"}
    assert verdicts(rank([bad, good], LOSS, ["init"])) == {"bad": "best", "good": "worse"}


def test_what_one_seed_cannot_tell_is_said():
    made = rank([scheme("a", 1.0), scheme("b", 2.0)], LOSS, ["init"])
    assert verdicts(made) == {"a": "best", "b": "1 seed"}
    assert made.num_comparisons == 0
    assert "One seed cannot tell a scheme from luck" in str(made)


def test_how_little_two_seeds_tell_is_said():
    made = rank([scheme("a", 1.0, 1.1), scheme("b", 2.0, 2.4)], LOSS, ["init"])
    assert verdicts(made)["b"] == "inconclusive"
    assert "With 2 seeds a difference is told from 13 times its standard error on" in str(made).replace("\n  ", " ")


@pytest.mark.parametrize(
    ("other", "verdict"),
    [((1.0, 2.0, 3.0), "same"), ((1.5, 2.5, 3.5), "no spread"), ((None, None, None, 4.0), "no seed"), ((7.0, None, None), "1 seed")],
)
def test_what_cannot_be_tested_is_not_told(other: tuple, verdict: str):
    made = rank([scheme("a", 1.0, 2.0, 3.0), scheme("b", *other)], LOSS, ["init"])
    assert verdicts(made)["b"] == verdict
    assert math.isnan(made.rows[1].comparison.p)


def test_the_best_is_one_with_the_most_seeds_and_a_luckier_one_with_fewer_stays_above_it():
    made = rank([scheme("lucky", 0.5, None, None), scheme("a", 1.0, 1.1, 1.2), scheme("none", None, None, None)], LOSS, ["init"])
    assert [row.scheme.label for row in made.rows] == ["lucky", "a", "none"]
    assert made.best is not None and made.best.scheme.label == "a"
    assert made.rows[2].rank is None
    lines = str(made).splitlines()
    assert "1/3" in lines[1] and "0/3" in lines[3]
    assert "1/3: the other jobs have no value; a mean without runs that diverged flatters." in " ".join(str(made).split())


def test_a_ranking_keeps_to_80_columns_whatever_the_labels():
    long = "{match: head.*, scheme: zeros, gain: 1.0, module: [Conv2d, Linear]}, optimizer.lr=0.0001, a_word_without_any_end_" + 60 * "x"
    made = rank([scheme("a" * n + long[: 10 * n], 123456.0 + n, 99999.0 - n, 5e7) for n in range(1, 12)], LOSS, ["init", "optimizer.lr"])
    assert max(map(len, ranking_text(made).splitlines())) <= 80
    short = ranking_text(rank([scheme(long, 1.0, 2.0), scheme("b", 3.0, 5.0)], LOSS, ["init"]))
    assert max(map(len, short.splitlines())) <= 80
    assert all(word in short for word in ("match:", "[Conv2d,", "optimizer.lr=0.0001,"))


def test_a_label_that_the_numbers_leave_no_room_for_has_a_line_of_its_own():
    made = rank([scheme("kaiming", 1e6, 3e6), scheme("xavier", 0.1, 0.2)], LOSS, ["init"])
    assert "\n2  kaiming  2 " in str(made)
    wide = rank([scheme("kaiming_normal_of_mine", 1e-30, 3e30), scheme("xavier_normal", 1e-9, 2.5e-7)], LOSS, ["init", "activation"])
    assert "\n2  kaiming_normal_of_mine\n  " in str(wide)
    assert all(max(map(len, str(made).splitlines())) <= 80 for made in (made, wide))


def test_nothing_completed_is_said():
    made = rank([scheme("a", None)], LOSS, ["init"])
    assert "No job has completed" in str(made)
    assert sentences(made)[1] == []


def test_figures_have_the_decimals_of_their_base():
    assert [Figures(2989.0)(value) for value in (2989.4, 50.3)] == ["2989", "50"]
    assert Figures(0.0)(0.5) == "0.5000"
    assert Figures(3e-12)(3.21e-12) == "3.21e-12"


def test_metrics_are_those_that_the_trainer_monitors():
    from modelfactory.training.spec import MONITORS

    assert HIGHER_IS_BETTER == MONITORS | {"test_loss": False, "test_accuracy": True}  # of a test split, by which nothing is chosen


def completed(number: int, *overrides: str, **scores: float | None) -> Job:
    return Job(
        number, Path(str(number)), overrides, "completed", best=scores, final=scores, config={"trainer": {"monitor": "val_accuracy"}}
    )


def test_the_monitored_metric_is_the_metric_unless_another_is_asked_for():
    sweep = Sweep(Path("."), (completed(0, val_accuracy=0.9, val_loss=0.1),))
    assert str(choose_metric(sweep)) == "val_accuracy of the best epoch, higher is better"
    assert str(choose_metric(sweep, "val_loss")) == "val_loss of the best epoch by val_accuracy, lower is better"
    assert str(choose_metric(sweep, "val_loss", "final")) == "val_loss of the last epoch, lower is better"


def test_every_wrong_wish_is_told_with_what_would_do():
    sweep = Sweep(Path("."), (completed(0, "init=a", val_accuracy=None, val_loss=0.1), completed(1, "init=b", val_loss=0.1)))
    with pytest.raises(ConfigError, match="(?s)metric: 'val_los' .*did you mean 'val_loss'.*epoch: 'lasst' .*choose one of best, final"):
        choose_metric(sweep, "val_los", "lasst")
    with pytest.raises(ConfigError, match="metric: no run has a val_accuracy"):
        choose_metric(sweep, "val_accuracy")
    with pytest.raises(ConfigError, match="by: 'inti' is not swept here; did you mean 'init'"):
        compared_axes(sweep, ["inti"])


def test_schemes_are_told_by_what_is_swept_but_the_seeds():
    jobs = [completed(n, f"init={'ab'[n % 2]}", f"optimizer.lr={n // 4}", f"seed={n // 2 % 2}", "model=cnn", val_loss=n) for n in range(8)]
    sweep = Sweep(Path("."), tuple(jobs))
    axes = compared_axes(sweep)
    assert axes == ("init", "optimizer.lr")
    assert [made.label for made in gather_schemes(sweep, axes, LOSS)] == ["a, 0", "b, 0", "a, 1", "b, 1"]
    by = gather_schemes(sweep, compared_axes(sweep, ["init"]), LOSS)
    assert [(made.label, len(made.values)) for made in by] == [("a", 4), ("b", 4)]  # paired over learning rate and seed


def test_jobs_alike_in_all_overrides_count_as_one():
    sweep = Sweep(Path("."), tuple(completed(n, f"init={'aab'[n]}", val_loss=float(n)) for n in range(3)))
    first, second = gather_schemes(sweep, ("init",), LOSS)
    assert (dict(first.values), first.missing) == ({(): 0.5}, 0)
    assert rank([first, second], LOSS, ["init"]).rows[1].comparison.n == 1


def test_what_is_not_completed_or_not_finite_has_no_value():
    job = completed(0, val_loss=0.5)
    assert LOSS.of(job) == 0.5
    for other in (dataclasses.replace(job, status="diverged"), completed(0, val_loss=math.nan), completed(0, val_loss=None)):
        assert LOSS.of(other) is None


def test_a_sweep_of_two_equal_and_one_worse_scheme_is_ranked_so(tmp_path: Path):
    sweep = read_sweep(make_sweep(tmp_path, {"a": 0.1, "b": 0.1, "c": 1.0}, seeds=5))
    made = rank(gather_schemes(sweep, ("init",), LOSS), LOSS, ("init",))
    assert sorted(verdicts(made).values()) == ["best", "inconclusive", "worse"]
    assert made.rows[2].scheme.label == "c"
