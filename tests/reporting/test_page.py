"""The page: nothing from outside, everything escaped, and in a browser no error, figures, sorting, filtering, comparing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import modelfactory as mf
from modelfactory.reporting.page import _ASSETS
from modelfactory.reporting.signals import LINES
from tests.reporting.made_sweeps import make_sweep

EVIL = '</script><script>document.title="evil"</script><img src=x onerror=alert(1)>"\'&'
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
NODE = shutil.which("node")
QUIET = "--disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"


class Page(HTMLParser):
    """What there is on a page: start tags with their attributes, the text outside of scripts, the ids."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text, self._in = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in = ""

    def handle_data(self, data: str) -> None:
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.text += data


@pytest.fixture(name="page", scope="module")
def _page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Page]:
    folder = make_sweep(tmp_path_factory.mktemp("sweep"), {"good": 0.1, "fine": 0.12, EVIL: 1.0, "gone": "diverged"}, seeds=4)
    for run in folder.glob("[0-9]"):
        (run / "signal.csv").write_text(f"layer,{','.join(LINES.values())},verdict\nfc1,1,1,1,1,ok\nfc2,0.5,0.4,0.1,,vanishing\n")
    mf.report(folder)
    return folder / "report.html", Page((folder / "report.html").read_text(encoding="utf-8"))


def test_the_page_refers_to_nothing_outside_and_forbids_it(page: tuple[Path, Page]):
    path, read = page
    policy = next(attrs["content"] for tag, attrs in read.tags if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none';") and "http" not in policy and "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]
    references = [
        value for _, attrs in read.tags for name, value in attrs.items() if name in ("src", "href", "action", "srcset", "data") and value
    ]
    assert references and all(value.startswith(("./", "#", "data:,")) for value in references)
    assert not {tag for tag, _ in read.tags} & {"iframe", "object", "embed", "img", "base", "form"}
    own = "".join(_ASSETS.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js"))
    assert not re.search(r"https?:|//\w|url\(|@import|fetch\(|XMLHttpRequest", own.replace("// ", ""))
    for value in references:
        if value.startswith("./"):
            assert (path.parent / value).exists(), value


def test_what_is_vendored_is_what_its_authors_published():
    readme = _ASSETS.joinpath("vendor", "README.md").read_text(encoding="utf-8")
    for name in ("d3.min.js", "plot.umd.min.js"):
        assert hashlib.sha256(_ASSETS.joinpath("vendor", name).read_bytes()).hexdigest() in readme


def test_an_override_with_markup_in_it_is_text(page: tuple[Path, Page]):
    path, read = page
    assert EVIL in read.text
    assert sum(tag == "script" for tag, _ in read.tags) == 4
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)
    data = json.loads(read.scripts[0])
    assert EVIL in [scheme["label"] for scheme in data["schemes"]]
    assert "<!--{" not in path.read_text(encoding="utf-8").split("<script>")[0]


def test_ids_are_unique_and_controls_have_labels(page: tuple[Path, Page]):
    _, read = page
    ids = [attrs["id"] for _, attrs in read.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"] for tag, attrs in read.tags if tag == "a" and (attrs.get("href") or "").startswith("#")} <= {
        f"#{id}" for id in ids
    }
    assert all(attrs.get("aria-labelledby") in ids for tag, attrs in read.tags if tag == "section")
    assert ("html", {"lang": "en"}) in read.tags


def test_the_tables_are_there_without_javascript(page: tuple[Path, Page]):
    _, read = page
    for word in ("Worse than good", "TrainingError: the loss is nan at step 3, seed 2", "4 of 16 did not complete"):
        assert word in read.text


def test_the_same_values_are_embedded(page: tuple[Path, Page]):
    path, read = page
    data = json.loads(read.scripts[0])
    record = json.loads((path.parent / "0" / "result.json").read_text())
    good = data["schemes"][0]
    assert good["label"] == "good" and good["values"][0] == ["0", pytest.approx(record["best"]["val_loss"], rel=1e-5)]
    assert len(good["curves"]["val_loss"]["epochs"]) == 6
    assert data["configs"]["keys"] == ["init", "seed"]


@pytest.mark.skipif(NODE is None, reason="there is no node")
def test_sorting_filtering_and_comparing_are_right(tmp_path: Path):
    source = _ASSETS.joinpath("page.js").read_text(encoding="utf-8")
    (tmp_path / "page.js").write_text(source, encoding="utf-8")
    checks = """
    const assert = require("assert"), page = require("./page.js");
    const sorted = (cells, way) => [...cells].sort((a, b) => page.order(a, b, way));
    assert.deepEqual(sorted(["10", "9", "", "1e-3"], 1), ["1e-3", "9", "10", ""]);
    assert.deepEqual(sorted(["10", "9", "", "1e-3"], -1), ["10", "9", "1e-3", ""]);
    assert.deepEqual(sorted(["zeros", "critical", "s10", "s9"], 1), ["critical", "s9", "s10", "zeros"]);
    const row = [["run", "12"], ["init", "Kaiming_normal"], ["seed", "2"], ["val_loss", "0.212"], ["rule", "a=b"]];
    for (const query of ["", "kaiming 12", "seed=2", "NORMAL seed=2", "a=b"]) assert(page.matches(row, query), query);
    for (const query of ["kaiming 13", "seed=1", "seed=12", "1", "xavier"]) assert(!page.matches(row, query), query);
    const configs = { keys: ["a", "b"], values: [["1", "2"], ["3"]], jobs: [[0, 0], [1, 0], [0, -1]] };
    assert.deepEqual(page.differing(configs, 0, 1), [["a", "1", "2"]]);
    assert.deepEqual(page.differing(configs, 0, 2), [["b", "3", null]]);
    assert.deepEqual(page.differing(configs, 1, 1), []);
    const [low, high] = page.differenceDomain([0.1, 0.12, 0.11, 9].map((mean) => ({ difference: [mean, 0.2] })));
    assert(low < 0 && high > 0.12 && high < 1);
    assert.deepEqual([1e20, 0.5, 1.23456, 2e-9, 0, null].map(page.short), ["1e+20", "0.5", "1.235", "2e-9", "0", "-"]);
    assert.deepEqual(page.logTicks([0.08, 1.3]), [0.1, 0.2, 0.5, 1]);
    assert.deepEqual(page.logTicks([1e-20, 1]).length, 7);
    assert.deepEqual(page.logTicks([0.0001, 10]), [0.0001, 0.001, 0.01, 0.1, 1, 10]);
    assert(page.wantsLog([0.1, 2]) && !page.wantsLog([1, 2]) && !page.wantsLog([0, 2]) && !page.wantsLog([]));
    """
    (tmp_path / "checks.js").write_text(checks, encoding="utf-8")
    done = subprocess.run([str(NODE), "checks.js"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# headless windows are not narrower than 500 pixels, frames are
FRAME = """<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe><pre id="told"></pre>
<script>window.onmessage = (event) => {{ document.getElementById("told").textContent = event.data; }}</script>"""
ACTS = """
  const told = {}, table = document.getElementById("job-table"), cells = (column) =>
    [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[column].dataset.value);
  table.tHead.rows[0].cells[6].querySelector("button").click();
  told.sorted = cells(6);
  const filter = document.getElementById("filter");
  filter.value = "fine seed=2";
  filter.dispatchEvent(new Event("input"));
  told.filtered = cells(2);
  told.count = document.getElementById("count").textContent;
  told.differing = [...document.querySelectorAll("#diff tbody tr")].map((row) => row.cells[0].textContent);
  const chip = document.querySelector("#curves .chips button");
  chip.click();
  told.pressed = chip.getAttribute("aria-pressed");
  document.getElementById("log").click();
  told.figures = document.querySelectorAll("figure svg").length;
  told.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  told.title = document.title;
  told.error = document.getElementById("errors").textContent;
  told.width = document.documentElement.clientWidth;
  parent.postMessage(JSON.stringify(told), "*");
"""


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_everything_works_without_an_error(page: tuple[Path, Page], tmp_path: Path, width: int):
    path, _ = page
    acts = base64.b64encode(hashlib.sha256(ACTS.encode()).digest()).decode()
    text = path.read_text(encoding="utf-8").replace("script-src ", f"script-src &#x27;sha256-{acts}&#x27; ", 1)
    text = text.replace("</body>", f"<script>{ACTS}</script></body>")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    options = [*QUIET.split(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={tmp_path}/profile"]
    done = subprocess.run(
        [str(BROWSER), *options, "--window-size=1400,1000", "--virtual-time-budget=4000", "--dump-dom", f"file://{tmp_path}/frame.html"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    match = re.search(r'<pre id="told">(.*?)</pre>', done.stdout)
    assert match is not None, done.stderr[-2000:]
    told = json.loads(match[1].replace("&quot;", '"').replace("&amp;", "&"))
    numbers = [float(value) for value in told["sorted"] if value]
    assert numbers == sorted(numbers) and len(numbers) == 16
    assert (told["filtered"], told["count"]) == (["fine"], "1 of 16")
    assert told["differing"] == ["init", "seed"]
    assert (told["pressed"], told["figures"], told["wide"], told["width"]) == ("false", 7, False, width)
    assert told["error"] == "" and "evil" not in told["title"]
