"""The tables of the page, which are there without JavaScript: the ranking, the runs, the failures."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from modelfactory.reporting.html_tags import address, table, tag
from modelfactory.reporting.palette import NUM_COLOURS
from modelfactory.reporting.schemes import Metric
from modelfactory.reporting.summary_csv import SCORES, TEST_SCORES
from modelfactory.reporting.text import (
    ENDED_BADLY,
    Figures,
    RankedScheme,
    Ranking,
    failures,
    figures,
    is_table_wanted,
    number,
    outcome,
    seeds,
    seeds_needed,
    sentences,
)
from modelfactory.sweeping.records import Job, Sweep

LINKED = ("config.yaml", "metrics.csv", "ledger.csv", "signal.png", "train.log")
_BAD = {"worse", *(status.replace("_", " ") for status in ENDED_BADLY)}


def _pill(word: str) -> str:
    kind = "good" if word in ("best", "better") else "bad" if word in _BAD else ""
    return tag("span", escape(word), class_=f"tag {kind}".strip())


def _swatch(index: int) -> str:
    """The mark of a scheme's colour; the first schemes have one of their own."""
    colour = f"var(--c{index})" if index < NUM_COLOURS else "var(--grey)"
    return tag("span", class_="swatch", style=f"background:{colour}", aria_hidden="true")


def ranking_section(ranking: Ranking) -> str:
    """What the numbers say, the ranking, and how it is to be taken."""
    said, notes = sentences(ranking)
    compared = len(ranking.rows) > 1
    columns = [
        ("#", "number", True),
        (", ".join(ranking.axes) or "scheme", "", True),
        ("verdict", "", compared),
        ("seeds", "number", True),
        ("mean", "number", True),
        ("std", "number", True),
        ("range", "number extra", True),
        ("difference to best", "number", compared),
        ("p (Holm)", "number extra", compared),
        ("seeds needed", "number", any(seeds_needed(row) for row in ranking.rows)),
    ]
    head = [tag("th", escape(text), scope="col", class_=kind) for text, kind, is_shown in columns if is_shown]
    rows = []
    for index, row in enumerate(ranking.rows):
        cells = zip(_ranking_row(index, row, figures(ranking)), columns, strict=True)
        rows.append(tag("tr", *(cell for cell, (_, _, is_shown) in cells if is_shown)))
    return (
        tag("h2", escape(str(ranking.metric)), id="h-ranking")
        + tag("ul", *(tag("li", escape(sentence)) for sentence in said), class_="answer")
        + (table(head, rows, "Ranking") if is_table_wanted(ranking) else "")
        + "".join(tag("p", escape(sentence), class_="note") for sentence in notes)
    )


def _name(text: str) -> str:
    """The class of a cell that holds what an override said: a long one may break."""
    return "name long" if len(text) > 24 else "name"


def _ranking_row(index: int, row: RankedScheme, written: Figures) -> list[str]:
    sample, compared, values = row.scheme.sample, row.comparison, list(row.scheme.values.values())
    cells = (
        ("number", "" if row.rank is None else str(row.rank)),
        (_name(row.scheme.label), _swatch(index) + escape(row.scheme.label)),
        ("", _pill(outcome(row))),
        ("number", seeds(row)),
        ("number", written(None if sample is None else sample.mean)),
        ("number", written(None if sample is None else sample.std)),
        ("number extra", f"{written(min(values))} to {written(max(values))}" if values else "-"),
        ("number", "" if compared is None else written.difference(compared)),
        ("number extra", "" if compared is None else number(compared.p, 2)),
        ("number", escape(seeds_needed(row))),
    )
    return [tag("td", text, class_=kind) for kind, text in cells]


def jobs_section(sweep: Sweep, metric: Metric) -> str:
    """The table of all runs, with what sorts and filters it."""
    scores = [score for score in (*SCORES, *TEST_SCORES) if any(job.best.get(score) is not None for job in sweep.jobs)]
    heads = [*((text, "") for text in ("run", "status", *sweep.axes)), *((text, "number") for text in (*scores, "seconds"))]
    head = [tag("th", tag("button", escape(text), type="button"), scope="col", class_=kind) for text, kind in heads]
    rows = [_job(sweep, job, scores, metric) for job in sweep.jobs]
    return (
        tag("h2", "Runs", id="h-jobs")
        + tag("p", f"Scores are those of the {'last' if metric.epoch == 'final' else 'best'} epoch.", class_="note")
        + (_filters(sweep) if len(sweep.jobs) > 1 else "")
        + table([*head, tag("th", "files", scope="col")], rows, "Runs", id="job-table")
    )


def _filters(sweep: Sweep) -> str:
    statuses = dict.fromkeys(job.status for job in sweep.jobs)
    options = [tag("option", escape(status.replace("_", " ")), value=status) for status in statuses]
    find = '<input id="filter" type="search" placeholder="kaiming seed=2" autocomplete="off">'
    status = tag("select", '<option value="">any</option>', *options, id="status")
    count = tag("span", id="count", role="status", aria_live="polite")
    return tag("div", tag("label", "Find ", find), tag("label", "Status ", status), count, class_="controls")


def _job(sweep: Sweep, job: Job, scores: Sequence[str], metric: Metric) -> str:
    record, values = job.final if metric.epoch == "final" else job.best, sweep.values(job)
    there = [file for file in LINKED if (job.folder / file).is_file()]
    links = " ".join(tag("a", escape(Path(file).stem), href=address(job.folder, sweep.folder, file)) for file in there)
    cells = [
        ("", job.number, tag("a", str(job.number), href=address(job.folder, sweep.folder))),
        ("", job.status, _pill(job.status.replace("_", " "))),
        *((_name(values.get(axis, "")), values.get(axis), escape(values.get(axis, ""))) for axis in sweep.axes),
        *(("number", record.get(score), number(record.get(score), 5)) for score in scores),
        ("number", job.seconds, "-" if job.seconds is None else f"{job.seconds:.1f}"),
        ("files", None, links),
    ]
    texts = [tag("td", text, class_=kind, data_value=None if value is None else str(value)) for kind, value, text in cells]
    return tag("tr", *texts, data_status=job.status)


def failures_section(sweep: Sweep) -> str:
    """The runs that ended without completing, each with its reason; "" where there is none."""
    failed = failures(sweep)
    items = [
        tag(
            "li",
            tag("a", f"run {job.number}", href=address(job.folder, sweep.folder)),
            " ",
            tag("code", escape(sweep.title(job))),
            " ",
            _pill(job.status.replace("_", " ")),
            " ",
            escape(job.reason or "no reason is known"),
        )
        for job in failed
    ]
    head = tag("h2", f"{len(failed)} of {len(sweep.jobs)} did not complete", id="h-failures")
    return head + tag("ul", *items, class_="failures") if items else ""


def configs_section(sweep: Sweep) -> str:
    """Where two runs are chosen whose configs are compared."""
    titles = [f"{job.number}: {sweep.title(job)}" for job in sweep.jobs]
    options = [tag("option", escape(f"{title[:89]}…" if len(title) > 90 else title), value=str(at)) for at, title in enumerate(titles)]
    selects = [tag("label", text, tag("select", *options, id=name)) for text, name in (("Run ", "left"), ("and run ", "right"))]
    return (
        tag("h2", "What differs between two configs", id="h-configs")
        + tag("div", *selects, class_="controls")
        + tag("div", class_="scroll", id="diff", aria_live="polite")
    )
