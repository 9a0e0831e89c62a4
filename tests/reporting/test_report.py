"""`modelfactory report` as a user runs it: on sweeps whole, half failed and running, on a run, and on what is neither."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import modelfactory as mf
from modelfactory.cli import main as cli
from modelfactory.config.errors import ConfigError
from modelfactory.reporting.curves import Band, read_history
from modelfactory.reporting.plot import draw_curves
from modelfactory.reporting.report import FILES
from modelfactory.reporting.signals import LINES, scheme_signal
from tests.reporting.made_sweeps import make_sweep

ROOT = Path(__file__).resolve().parents[2]
MIXED = {"good": 0.1, "bad": 1.5, "gone": "diverged", "full": "out_of_memory", "off": "killed", "late": "pending", "now": "running"}


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "summary.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_half_failed_and_still_running_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_sweep(tmp_path, MIXED)
    assert cli.main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("21 jobs: 6 completed, 3 diverged, 3 out of memory, 3 killed, 3 pending, 3\n  running. ")
    assert "Worse than good: bad." in printed
    assert "job 6 (init=gone seed=0): diverged: TrainingError: the loss is nan at step 3, seed 0" in " ".join(printed.split())
    assert max(map(len, printed.splitlines()[:-1])) <= 80
    assert sorted(path.name for path in tmp_path.iterdir() if path.name in FILES or path.name.startswith(".")) == sorted(FILES)


def test_a_mean_of_some_seeds_is_said_to_be_one(tmp_path: Path):
    make_sweep(tmp_path, {"a": 0.1, "b": 0.3})
    result = tmp_path / "3" / "result.json"
    for status, words in (
        ("running", "2/3: the other jobs have not ended yet."),
        ("diverged", "a mean without runs that diverged flatters."),
    ):
        result.write_text(json.dumps({**json.loads(result.read_text()), "status": status}))
        printed = str(mf.report(tmp_path, write=False))
        assert words in printed and " 2/3 " in printed


def test_summary_csv_has_a_row_a_job(tmp_path: Path):
    mf.report(make_sweep(tmp_path, MIXED))
    rows = rows_of(tmp_path)
    assert [row["job"] for row in rows] == [str(number) for number in range(21)]
    assert [rows[7][name] for name in ("folder", "status", "init", "seed", "trainer.max_epochs")] == ["7", "diverged", "gone", "1", "6"]
    assert rows[7]["reason"] == "TrainingError: the loss is nan at step 3, seed 1"
    record = json.loads((tmp_path / "0" / "result.json").read_text())
    assert float(rows[0]["best_val_loss"]) == pytest.approx(record["best"]["val_loss"])
    assert float(rows[0]["final_val_accuracy"]) == pytest.approx(record["final"]["val_accuracy"])
    assert float(rows[0]["seconds"]) == pytest.approx(record["seconds"])
    assert rows[15]["status"] == "pending" and rows[15]["best_val_loss"] == "" and rows[15]["seconds"] == ""


def test_the_same_folder_gives_the_same_bytes_and_nothing_else_is_touched(tmp_path: Path):
    make_sweep(tmp_path, {"a": 0.1, "b": 0.2})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    mf.report(tmp_path)
    first = {name: (tmp_path / name).read_bytes() for name in FILES}
    mf.report(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == first
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name not in FILES}
    assert after == before


def test_a_single_run_is_a_page_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = make_sweep(tmp_path, {"a": 0.1}, seeds=1) / "0"
    assert cli.main(["report", str(run)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("1 job: 1 completed. val_loss of the best epoch, lower is better.\n\nBest epoch 6: train_loss ")
    assert set(FILES) <= {path.name for path in run.iterdir()}
    assert "Report of a run" in (run / "report.html").read_text()


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_what_is_neither_a_sweep_nor_a_run_gives_status_2_and_says_so(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "empty").mkdir()
    assert cli.main(["report", str(tmp_path / name)]) == 2
    assert f"error: {str(tmp_path / name)!r} " in capsys.readouterr().err
    assert not any((tmp_path / "empty").iterdir())


def test_every_wrong_option_is_told_with_status_2_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_sweep(tmp_path, {"a": 0.1, "b": 0.2}, seeds=1)
    assert cli.main(["report", str(tmp_path), "--metric", "val_los", "--epoch", "third"]) == 2
    error = capsys.readouterr().err
    assert "error: metric: 'val_los' is not a metric of a run; did you mean 'val_loss'?\n" in error
    assert "error: epoch: 'third' is not an epoch to compare at; choose one of best, final\n" in error
    assert cli.main(["report", str(tmp_path), "--by", "ini"]) == 2
    assert "error: by: 'ini' is not swept here; did you mean 'init'?" in capsys.readouterr().err
    assert not any((tmp_path / name).exists() for name in FILES)


def test_a_folder_that_cannot_be_written_gives_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_sweep(tmp_path, {"a": 0.1}, seeds=1)
    (tmp_path / "report.html").mkdir()
    assert cli.main(["report", str(tmp_path)]) == 1
    assert "error: " in capsys.readouterr().err


def test_json_is_the_whole_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_sweep(tmp_path, {"a": 0.1, "b": 1.0, "c": "diverged"})
    assert cli.main(["report", str(tmp_path), "--json", "--metric", "val_accuracy"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["scheme"] for row in told["ranking"]] == ["a", "b", "c"]
    assert told["ranking"][1]["comparison"]["verdict"] == "worse"
    assert told["ranking"][2]["mean"] is None
    assert len(told["jobs"]) == 9 and told["num_comparisons"] == 1


def test_schemes_may_be_made_of_some_keys_and_paired_over_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_sweep(tmp_path, {"a": 0.1, "b": 1.0}, seeds=2)
    assert cli.main(["report", str(tmp_path), "--by", "seed,init"]) == 0
    assert "\n   seed, init  n " in capsys.readouterr().out
    assert cli.main(["report", str(tmp_path), "--by", "seed"]) == 0
    assert "\n   seed  n " in capsys.readouterr().out


def test_the_python_side_gives_the_ranking(tmp_path: Path):
    made = mf.report(make_sweep(tmp_path, {"a": 0.1, "b": 1.0}), write=False)
    assert made.ranking.best is not None and made.ranking.best.scheme.label == "a"
    assert str(made.ranking) in str(made)
    assert not any((tmp_path / name).exists() for name in FILES)
    with pytest.raises(ConfigError, match="nowhere"):
        mf.report(tmp_path / "nowhere")


def test_a_regression_has_no_accuracy_anywhere(tmp_path: Path):
    mf.report(make_sweep(tmp_path, {"a": 3000.0, "b": 3500.0}, accuracy=False, noise=20.0))
    assert rows_of(tmp_path)[0]["best_val_accuracy"] == ""
    assert "validation accuracy" not in (tmp_path / "report.html").read_text().split("<script>")[0]


def test_reporting_needs_no_torch(tmp_path: Path):
    make_sweep(tmp_path, {"a": 0.1, "b": 0.2})
    code = f"import sys; from modelfactory.cli.main import main; main(['report', {str(tmp_path)!r}]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def test_labels_of_all_kinds_can_be_drawn(tmp_path: Path):
    labels = ["_hidden", "$x^", "a & b <c>", "多", "\\frac", "x" * 300, "two\nlines"]
    curve = {
        "val_loss": Band((1, 2), (1.0, 0.01), (0.5, 0.01), (2.0, 0.02), ((2, 0.01),)),
        "train_loss": Band((1,), (1.0,), (1.0,), (1.0,)),
    }
    draw_curves(tmp_path / "curves.png", "$ _ title \\", [(label, curve) for label in labels])
    draw_curves(tmp_path / "none.png", "nothing yet", [("a", {})])
    for name in ("curves.png", "none.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_metrics_of_a_run_that_is_being_written_are_read_as_far_as_they_are(tmp_path: Path):
    assert read_history(tmp_path) == {"train_loss": {}, "val_loss": {}, "val_accuracy": {}}
    (tmp_path / "metrics.csv").write_text("epoch,step,train_loss,val_loss,val_accuracy\n1,2,inf,0.5,\n2,4,0.25,nan,\n")
    assert read_history(tmp_path) == {"train_loss": {2: 0.25}, "val_loss": {1: 0.5}, "val_accuracy": {}}


UNREADABLE = {
    "not UTF-8": b"\xfe\xff\x00\x81",
    "a list": b"[]",
    "null": b"null",
    "empty": b"",
    "zeros": b"\x00" * 9,
    "words": b"epoch,layer,val_loss,forward_measured\n1,fc,much,much\n",
    "an open quote": b'epoch,layer\n"1,2\n',
}


@pytest.mark.parametrize("file", ["metrics.csv", "result.json", "signal.csv"])
@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_file_is_the_fault_of_one_job(tmp_path: Path, file: str, content: bytes, capsys: pytest.CaptureFixture[str]):
    make_sweep(tmp_path, {"a": 0.1, "b": 0.5}, seeds=2)
    (tmp_path / "1" / file).write_bytes(content)
    assert cli.main(["report", str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "4 jobs: 3 completed, 1 failed" in printed and f"job 1 (init=a seed=1): failed: {file} cannot be read: " in printed
    assert [row["status"] for row in rows_of(tmp_path)] == ["completed", "failed", "completed", "completed"]
    assert f"{file} cannot be read" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("file", ["config.yaml", ".hydra/overrides.yaml"])
@pytest.mark.parametrize("content", ["\x00", "3", "a: [1", "a: &a [1]\nb: *a\n", "!!python/name:os.system"], ids=repr)
def test_an_unreadable_config_is_the_fault_of_one_run(tmp_path: Path, file: str, content: str):
    make_sweep(tmp_path, {"a": 0.1}, seeds=2)
    (tmp_path / "sweep.json").unlink()
    (tmp_path / "1" / ".hydra").mkdir()
    (tmp_path / "1" / file).write_text(content)
    jobs = mf.report(tmp_path).sweep.jobs
    assert [job.status for job in jobs] == ["completed", "failed"] and f"{file} cannot be read: " in (jobs[1].reason or "")


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path):
    make_sweep(tmp_path, {"a": 0.1}, seeds=2)
    (tmp_path / "1" / "metrics.csv").unlink()
    os.mkfifo(tmp_path / "1" / "metrics.csv")
    assert mf.report(tmp_path).sweep.jobs[1].reason == "metrics.csv cannot be read: it is no plain file"


@pytest.mark.parametrize("scores", [{}, {"val_loss": None}, {"val_loss": float("nan")}, {"val_loss": "0.1"}, [], 3], ids=repr)
def test_a_run_that_completed_without_scores_did_not_complete(tmp_path: Path, scores):
    make_sweep(tmp_path, {"a": 0.1}, seeds=2)
    file = tmp_path / "1" / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "best": scores, "final": scores}))
    job = mf.report(tmp_path).sweep.jobs[1]
    assert (job.status, job.reason) == ("failed", "result.json says that it completed, and has no scores")


def test_losses_that_no_square_can_hold_are_ranked(tmp_path: Path):
    make_sweep(tmp_path, {"a": 0.1, "b": 0.2})
    for number, loss in ((3, 1e308), (4, 3e200)):
        file = tmp_path / str(number) / "result.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "best": {"val_loss": loss}}))
    assert [row.scheme.label for row in mf.report(tmp_path).ranking.rows] == ["a", "b"]


ESCAPE = "\x1b]0;title\x07\x1b[2J\x9b31m\r\u202e"


def test_a_strangers_folder_sends_nothing_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make_sweep(tmp_path, {"a": 0.1, "b": "failed"}, seeds=1)
    about = json.loads((tmp_path / "sweep.json").read_text())
    for job in about["jobs"]:
        job["overrides"].append(f"note={ESCAPE}{job['number']}\ud800")
    (tmp_path / "sweep.json").write_text(json.dumps(about))
    file = tmp_path / "1" / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "error": f"{ESCAPE} gone"}))
    assert cli.main(["report", str(tmp_path)]) == 0
    cli._end_sweep(tmp_path, 0)
    told = capsys.readouterr()
    shown = told.out + told.err + (tmp_path / "report.html").read_text() + (tmp_path / "summary.csv").read_text()
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\r", "\u202e", "\ud800"} and r"\x1b]0;title" in shown and "gone" in told.err


def test_folders_of_any_name_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = tmp_path / os.fsdecode(b"\xff\x1b[31m")
    make_sweep(root, {"a": 0.1}, seeds=2)
    (root / "sweep.json").unlink()
    (root / "1").rename(root / os.fsdecode(b"=\xfe\x1b"))
    assert cli.main(["report", str(root)]) == 0
    assert "\x1b" not in capsys.readouterr().out + (root / "report.html").read_text() + (root / "summary.csv").read_text()
    assert "./%3D%FE%1B/" in (root / "report.html").read_text()


def test_no_cell_of_the_summary_is_a_formula(tmp_path: Path):
    make_sweep(tmp_path, {"a": 0.1, "b": "failed"}, seeds=1)
    about = json.loads((tmp_path / "sweep.json").read_text())
    about["jobs"][0]["overrides"] += ["x==HYPERLINK(1)", "y=@SUM(A1)", "z=-2+3", "lr=-2", "@w=\t=1", "=cmd|' /C calc'!A0"]
    (tmp_path / "sweep.json").write_text(json.dumps(about))
    file = tmp_path / "1" / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "error": "\n=1+1"}))
    mf.report(tmp_path)
    with open(tmp_path / "summary.csv", newline="") as lines:
        cells = [cell for row in csv.reader(lines) for cell in row if cell]
    assert {"'=HYPERLINK(1)", "'@SUM(A1)", "'-2+3", "-2", "'@w", "'=1", "'=1+1"} <= set(cells)
    assert not [cell for cell in cells if cell[0] in "=+-@" and cell != "-2"]


def test_a_link_left_where_a_file_is_written_is_not_followed(tmp_path: Path):
    make_sweep(tmp_path / "sweep", {"a": 0.1}, seeds=1)
    (tmp_path / "other").write_text("mine")
    for name in FILES:
        (tmp_path / "sweep" / name).symlink_to(tmp_path / "other")
        (tmp_path / "sweep" / f".{name}.{os.getpid()}.tmp").symlink_to(tmp_path / "other")
    mf.report(tmp_path / "sweep")
    assert (tmp_path / "other").read_text() == "mine" and "job" in (tmp_path / "sweep" / "summary.csv").read_text()


def test_the_columns_of_the_signal_are_those_that_runs_leave():
    from modelfactory.signal_propagation.table import COLUMNS

    assert {"layer", "verdict", *LINES.values()} <= set(COLUMNS)


def test_a_schemes_signal_is_the_median_of_its_runs(tmp_path: Path):
    from modelfactory.reporting.schemes import Metric, gather_schemes
    from modelfactory.sweeping.records import read_sweep

    sweep = read_sweep(make_sweep(tmp_path, {"a": 0.1, "b": 0.2}))
    for job, scale in zip(sweep.jobs[:3], (1.0, 3.0, 2.0), strict=True):
        head = f"layer,call,{','.join(LINES.values())},verdict\n"
        (job.folder / "signal.csv").write_text(f"{head}fc1,Linear,{scale},1,,0.5,ok\nfc2,Linear,{2 * scale},1,{scale},0.5,exploding\n")
    first, second = gather_schemes(sweep, ("init",), Metric("val_loss"))
    signal = scheme_signal(first)
    assert signal is not None and scheme_signal(second) is None
    assert (signal.layers, signal.forward, signal.gradient) == (["fc1", "fc2"], [2.0, 4.0], [None, 2.0])
    mf.report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert 'id="fig-signal"' in page and "<strong>a</strong>: exploding at fc2</li>" in page


def test_scores_of_a_test_split_are_told_and_can_be_ranked_by(tmp_path: Path):
    make_sweep(tmp_path, {"a": 0.1, "b": 0.3})
    for number in range(6):
        result = tmp_path / str(number) / "result.json"
        record = json.loads(result.read_text())
        scores = {"test_loss": 1.5 - number / 10, "test_accuracy": 0.5}
        result.write_text(json.dumps({**record, "best": {**record["best"], **scores}}))
    made = mf.report(tmp_path)
    assert "On the test split a has test_loss 1.4, test_accuracy 0.5, the mean of its best epochs." in " ".join(str(made).split())
    assert [row["best_test_loss"] for row in rows_of(tmp_path)] == ["1.5", "1.4", "1.3", "1.2", "1.1", "1"]
    assert "test_accuracy" in (tmp_path / "report.html").read_text()
    ranked = mf.report(tmp_path, metric="test_loss", write=False)
    assert ranked.ranking.rows[0].scheme.label == "b"
    assert str(ranked.ranking.metric) == "test_loss of the best epoch by val_loss, lower is better"


def test_without_a_test_split_nothing_of_one_is_told(tmp_path: Path):
    make_sweep(tmp_path, {"a": 0.1, "b": 0.3})
    assert "test" not in str(mf.report(tmp_path)) and "best_test_loss" not in rows_of(tmp_path)[0]
    with pytest.raises(ConfigError, match="metric: no run has a test_loss"):
        mf.report(tmp_path, metric="test_loss")
