"""What a notebook shows of plans, ledgers, results and reports: HTML that says what `print` says, with everything escaped."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from torch import nn

import modelfactory as mf
from modelfactory.config.notebook import html_table

QUICK = ("trainer.device=cpu", "trainer.progress=none", "trainer.signal=none", "model.width=8", "trainer.max_epochs=2")


class Cells(HTMLParser):
    """The rows of the tables of a page, and that every element is closed."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_a_ledger_is_a_table_with_a_row_a_parameter():
    ledger = mf.plan("model=cnn", "init=orthogonal").ledger
    head, *rows = Cells(ledger._repr_html_()).rows
    assert head[:2] == ["name", "shape"] and [row[0] for row in rows] == [row.name for row in ledger]
    assert rows[0][head.index("scheme")] == "orthogonal"


def test_a_plan_is_a_table_of_its_layers_with_sums_and_warnings():
    plan = mf.plan("experiment=deep_relu", "init=xavier_normal")
    page = Cells(plan._repr_html_())
    assert page.rows[0][0] == "layer" and any("head" in row[0] for row in page.rows)
    for words in ("parameters   ", "warning: predicted signal: the signal vanishes", "to fix it: init"):
        assert words in page.text
    assert repr(plan).startswith("Plan of 62 parameters, ") and "object at" not in repr(plan)


def test_a_result_and_a_report_show_how_the_run_ended(tmp_path: Path):
    result = mf.train(mf.compose(*QUICK), run_dir=tmp_path)
    page = Cells(result._repr_html_())
    assert page.rows[0][:3] == ["epoch", "step", "train_loss"] and [row[0] for row in page.rows[1:]] == ["1", "2"]
    assert result.outcome in page.text
    assert "val_loss" in Cells(mf.report(tmp_path)._repr_html_()).text


def test_what_comes_from_outside_is_escaped_and_long_tables_end():
    page = Cells(html_table(["<b>"], ([f"<{index}>"] for index in range(5)), most=3))
    assert page.rows == [["<b>"], ["<0>"], ["<1>"], ["<2>"], ["and 2 more"]]
    layers = {"a<script>": {"_target_": "torch.nn.Linear", "out_features": 2}}
    assert "<script>" not in mf.plan({"model": {"layers": layers}, "data": {"input_shape": [3]}})._repr_html_()


def test_a_ledger_becomes_a_data_frame():
    pandas = pytest.importorskip("pandas")
    ledger = mf.initialize(nn.Linear(4, 2), {"match": "*", "scheme": "constant", "val": 0.5})
    frame = ledger.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and list(frame.index) == ["weight", "bias"]
    assert frame.loc["weight", "mean"] == 0.5 and frame.loc["bias", "scheme"] == "constant"


def test_without_pandas_it_says_what_would_do(monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(mf.ModelFactoryError, match="to_pandas needs pandas: pip install pandas; to_csv does without"):
        mf.plan("model=mlp").ledger.to_pandas()
