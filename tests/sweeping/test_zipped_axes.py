"""Axes that are paired instead of crossed: `sweep.zip`."""

import json
from itertools import product
from pathlib import Path

import pytest

from modelfactory.config.errors import Problems
from modelfactory.sweeping.zipped_axes import ZippedAxes, read_zip
from tests.sweeping.conftest import QUICK

SMALL = tuple(word for word in QUICK if not word.startswith("model.width"))


def jobs_of(folder: str = "sweep") -> list[list[str]]:
    """What differs between the jobs of a sweep, in the order of their numbers."""
    jobs = json.loads(Path(folder, "sweep.json").read_text())["jobs"]
    assert [job["number"] for job in jobs] == list(range(len(jobs)))
    common = set.intersection(*(set(job["overrides"]) for job in jobs))
    return [[word for word in job["overrides"] if word not in common] for job in jobs]


@pytest.mark.parametrize("batch", [(), ("hydra.sweeper.max_batch_size=5",)], ids=["at once", "in batches"])
def test_paired_axes_go_together_and_cross_the_others(sweep, batch):
    axes = ("model.width=8,16,8", "optimizer.lr=0.1,0.2,0.3", "seed=0,1")  # a value may stand in an axis twice
    status, out, err = sweep(*axes, "sweep.zip=[model.width,optimizer.lr]", *batch, *SMALL)
    assert status == 0, err
    expected = [[f"model.width={w}", f"optimizer.lr={lr}", f"seed={s}"] for w, lr in ((8, 0.1), (16, 0.2), (8, 0.3)) for s in (0, 1)]
    assert jobs_of() == expected and "6 of 6 jobs completed" in out
    assert sorted(path.parent.name for path in Path("sweep").glob("*/result.json")) == list("012345")


def test_the_same_command_goes_on_with_a_paired_sweep(sweep):
    arguments = ("seed=0,1", "optimizer.lr=0.1,0.2", "sweep.zip=[seed,optimizer.lr]", *QUICK)
    assert sweep(*arguments)[0] == 0
    Path("sweep", "1", "result.json").unlink()
    status, out, _ = sweep(*arguments)
    assert status == 0 and len(jobs_of()) == 2 and "2 of 2 jobs completed" in out


def test_groups_and_added_keys_can_be_paired(sweep):
    axes = ("optimizer=sgd,adamw", "+data.val_batch_size=7,8", "init=zeros,ones", "seed=3,4")
    status, _, err = sweep(*axes, "sweep.zip=[[optimizer,data.val_batch_size],[init,seed]]", *QUICK)
    assert status == 0, err
    pairs = [("optimizer=sgd", "+data.val_batch_size=7"), ("optimizer=adamw", "+data.val_batch_size=8")]
    assert jobs_of() == [[*one, *two] for one, two in product(pairs, [("init=zeros", "seed=3"), ("init=ones", "seed=4")])]


@pytest.mark.parametrize(
    ("zipped", "message"),
    [
        ("[seed,optimizer.lrr]", "sweep.zip: 'optimizer.lrr' is not swept; did you mean 'optimizer.lr'?"),
        ("[seed,model.width]", "sweep.zip: 'model.width' is not swept"),
        ("[seed,optimizer.lr]", "sweep.zip: paired axes need equally many values: seed has 2, optimizer.lr has 3"),
        ("[seed]", "sweep.zip: ['seed'] does not name axes; give a list of two swept keys or more"),
        ("seed", "sweep.zip: 'seed' does not name axes"),
        ("[[seed,optimizer.lr],[seed,init]]", "sweep.zip: 'seed' is named twice"),
    ],
)
def test_what_cannot_be_paired_is_told_before_anything_is_made(sweep, tmp_path, zipped, message):
    status, _, err = sweep("seed=0,1", "optimizer.lr=0.1,0.2,0.3", f"sweep.zip={zipped}", *QUICK)
    assert (status, list(tmp_path.iterdir())) == (2, []) and message in err


def test_a_sweeper_that_chooses_values_cannot_pair_them(sweep, tmp_path):
    pytest.importorskip("optuna")
    arguments = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "seed=0,1", "model.width=8,16", "sweep.zip=[seed,model.width]")
    status, _, err = sweep(*arguments, *SMALL)
    assert status == 2 and "sweep.zip: pairs values that are listed, and OptunaSweeper chooses them; give null" in err


def test_all_problems_of_a_zip_have_its_path():
    problems = Problems()
    assert read_zip([["a", 3]], "sweep.zip", problems) == () and [problem.path for problem in problems] == ["sweep.zip"]
    assert read_zip(None, "sweep.zip", Problems()) == read_zip([], "sweep.zip", Problems()) == ()


def test_combinations_are_told_by_their_place_not_by_their_words():
    jobs = [[a, b, c] for a, b, c in product(["a=1", "a=1"], ["b=2", "b=3"], ["c=4", "c=4"])]
    zipped = ZippedAxes((("c", "a"),), {"a": 2, "b": 2, "c": 2})
    assert zipped.take(jobs) == zipped.take(jobs[:3]) + zipped.take(jobs[3:], first=3) == [jobs[0], jobs[2], jobs[5], jobs[7]]
