"""A sweep that adds seeds until it is told: its levels by simulation, and a sweep that does it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import modelfactory as mf
from modelfactory.cli.main import main
from modelfactory.reporting.sequential import level_at, nominal_levels
from modelfactory.reporting.stats import power

LOOKS = (3, 5, 8, 12, 18, 27, 30)


def simulate(effect: float, looks: tuple[int, ...], repeats: int, seed: int = 0) -> tuple[float, float]:
    """The share of sweeps of two schemes that are told, and the mean number of seeds that they take."""
    draws = np.random.default_rng(seed).normal(effect, 1, (repeats, looks[-1]))
    told, used = np.zeros(repeats, bool), np.full(repeats, looks[-1])
    for n, level in zip(looks, nominal_levels(looks, looks[-1], 0.05), strict=True):
        found = (stats.ttest_1samp(draws[:, :n], 0, axis=1).pvalue < level) & ~told
        told, used[found] = told | found, n
    return float(told.mean()), float(used.mean())


@pytest.mark.parametrize("looks", [LOOKS, (2, 3, 5, 8, 12, 18, 20), (5, 8, 12, 18, 27, 40, 60)])
def test_equal_schemes_are_told_apart_in_5_percent_at_most(looks: tuple[int, ...]):
    told, _ = simulate(0.0, looks, 20_000)
    assert told < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 20_000)
    naive = np.random.default_rng(1).normal(0, 1, (4000, looks[-1]))
    often = np.any([stats.ttest_1samp(naive[:, :n], 0, axis=1).pvalue < 0.05 for n in looks], axis=0).mean()
    assert often > 0.12, "which looking as often at 0.05 would do"


@pytest.mark.parametrize(("effect", "most"), [(0.8, 30), (1.0, 30), (0.55, 60)])
def test_it_takes_30_percent_fewer_seeds_than_a_fixed_number_of_equal_power(effect: float, most: int):
    looks = LOOKS if most == 30 else (5, 8, 12, 18, 27, 40, 60)
    told, used = simulate(effect, looks, 4000)
    fixed = next(n for n in range(2, 200) if power(n, effect, 0.05) >= told)
    assert told > 0.9 and used < 0.7 * fixed, (told, used, fixed)


def test_the_level_of_many_pairs_is_that_of_one_for_each():
    """Holm's first step divides it by the pairs; what is left is below what one pair would have, as bounds far out hang together less."""
    for looks in (LOOKS[:1], LOOKS[:4], LOOKS):
        one, many = level_at(looks, 30), level_at(looks, 30, pairs=15)
        assert 0.5 * one < many <= one * 1.0001
    assert level_at([30], 30) == pytest.approx(0.045, rel=1e-3)


def sweep(tmp_path: Path, *words: str) -> tuple[int, dict]:
    small = ("model.width=8", "trainer.max_epochs=1", "trainer.max_steps=10", "trainer.device=cpu", "trainer.signal=none")
    status = main(["train", "-m", *words, *small, "sweep.isolate=false", f"hydra.sweep.dir={tmp_path}"])
    return status, json.loads((tmp_path / "sweep.json").read_text())


def test_a_sweep_goes_on_until_it_is_told_or_has_spent_its_seeds(tmp_path: Path):
    """Rates that differ by a thousand are told at once; a rate and itself, but for the last digit, never are."""
    status, about = sweep(tmp_path / "told", "optimizer.lr=0.03,0.00001", "seed=0,1,2", "sweep.until=told", "sweep.max_seeds=9")
    assert status == 0 and about["looks"][-1] < 9 and len(about["jobs"]) == 2 * about["looks"][-1]
    report = mf.report(tmp_path / "told", write=False)
    assert report.ranking.alpha == level_at(about["looks"], 9)
    assert [row.comparison.verdict for row in report.ranking.rows if row.comparison] == ["worse"]
    status, about = sweep(tmp_path / "open", "init=xavier_normal,xavier_uniform", "seed=0,1", "sweep.until=told", "sweep.max_seeds=4")
    seeds = {word for job in about["jobs"] for word in job["overrides"] if "seed" in word}
    assert status == 0 and about["looks"] == [2, 3, 4] and len(seeds) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep.until=tolled"], "sweep.until: 'tolled' is not a choice; did you mean 'told'?"),
        (["sweep.until=told", "sweep.max_seeds=1"], "sweep.max_seeds"),
        (["sweep.until=told", "sweep.zip=[model.width,seed]", "model.width=8,16"], "sweep.until: adds seeds"),
    ],
)
def test_what_does_not_go_together_is_refused(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", "-m", "seed=0,1", *words, f"hydra.sweep.dir={tmp_path}"]) == 2
    assert message in capsys.readouterr().err
