"""A job of a sweep leaves the table of its signal, and a report draws it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import modelfactory as mf
from modelfactory.cli import main as cli
from modelfactory.cli.train_job import train_job
from modelfactory.config.compose import to_plain
from modelfactory.reporting.signal_picture import draw_missing_signals
from modelfactory.sweeping.records import Job, Sweep

QUICK = ("trainer=debug", "trainer.device=cpu", "trainer.progress=none", "model.width=8")


def job(folder: Path, *words: str) -> Path:
    config = {name: value for name, value in to_plain(mf.compose(*QUICK, *words)).items() if name != "sweep"}
    assert train_job(config, str(folder)) == 0
    return folder


def pictures(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("signal*.png")}


@pytest.mark.parametrize(
    ("signal", "left", "drawn"),
    [
        ("picture", set(), {"signal.png"}),
        ("table", set(), set()),
        ("none", set(), set()),
        ("histograms", {"signal.png", "signal_histograms.png"}, {"signal.png", "signal_histograms.png"}),
    ],
)
def test_a_job_leaves_its_picture_to_the_report(signal: str, left: set[str], drawn: set[str], tmp_path: Path):
    folder = job(tmp_path / "0", f"trainer.signal={signal}")
    assert (folder / "signal.csv").is_file() == (signal != "none") and pictures(folder) == left
    mf.report(tmp_path, pictures=False)
    assert pictures(folder) == left
    assert cli.main(["report", str(tmp_path)]) == 0
    assert pictures(folder) == drawn
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


def test_a_picture_is_drawn_again_when_the_table_is_newer_and_a_broken_table_is_told(tmp_path: Path):
    folder = job(tmp_path / "0", "trainer.signal=picture")
    mf.report(tmp_path)
    picture = folder / "signal.png"
    before = picture.stat().st_mtime_ns
    mf.report(tmp_path)
    assert picture.stat().st_mtime_ns == before
    os.utime(picture, (0, 0))
    mf.report(tmp_path)
    assert picture.stat().st_mtime > 0
    picture.unlink()
    header, *rows = (folder / "signal.csv").read_text().splitlines()
    (folder / "signal.csv").write_text("\n".join([header, *(row.replace("0.", "many") for row in rows)]))
    assert "signal.csv cannot be read" in str(mf.report(tmp_path)) and not picture.exists()
    (folder / "signal.csv").write_text(header + "\n")
    mf.report(tmp_path)
    assert not picture.exists()


def test_a_table_of_a_stranger_draws_nothing_elsewhere_and_ends_no_report(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Names that matplotlib would take for formulas are texts, and a folder outside of the sweep's is left alone."""
    job(tmp_path / "sweep" / "0", "trainer.signal=picture")
    job(tmp_path / "elsewhere", "trainer.signal=picture")
    table = tmp_path / "sweep" / "0" / "signal.csv"
    header, first, *rest = table.read_text().splitlines()
    table.write_text("\n".join([header, first.replace(first.split(",")[0], r"$\\frac{$"), *rest]))
    mf.report(tmp_path / "sweep")
    assert table.with_name("signal.png").is_file() and not [entry for entry in caplog.records if entry.levelname != "INFO"]
    jobs = [Job(0, tmp_path / "elsewhere", ()), Job(1, tmp_path / "sweep" / ".." / "elsewhere", ())]
    assert draw_missing_signals(Sweep(tmp_path / "sweep", tuple(jobs))) == []
    assert not pictures(tmp_path / "elsewhere")
