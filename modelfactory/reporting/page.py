"""report.html: one file that asks nothing of the network, with tables that are there without JavaScript and figures drawn by
Observable Plot (Plot and D3 are in the file: 0.5 MB, a tenth of plotly.js).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

from modelfactory.config.printable import finite, one_line
from modelfactory.reporting.config_diff import config_table
from modelfactory.reporting.curves import Band
from modelfactory.reporting.html_tables import configs_section, failures_section, jobs_section, ranking_section
from modelfactory.reporting.html_tags import embedded, tag
from modelfactory.reporting.palette import DARK, LIGHT
from modelfactory.reporting.signals import Signal
from modelfactory.reporting.text import RankedScheme, Ranking, outcome, state
from modelfactory.sweeping.records import Sweep

_ASSETS = files("modelfactory.reporting") / "assets"
_SCRIPTS = {"d3": "vendor/d3.min.js", "plot": "vendor/plot.umd.min.js", "js": "page.js"}
Bands = Sequence[Mapping[str, Band]]
Signals = Sequence[Signal | None]


def page(sweep: Sweep, ranking: Ranking, bands: Bands, signals: Signals) -> str:
    """The whole page.

    Args:
        bands, signals: of each scheme, in the order of the ranking's rows; None where none was measured.
    """
    name, single = one_line(sweep.folder.resolve().name), len(sweep.jobs) == 1
    sections = {
        "ranking": ("Result" if single else "Ranking", ranking_section(ranking)),
        "metric": ("Every run", _metric(ranking) if not single and ranking.best is not None else ""),
        "curves": ("Curves", _curves(ranking) if any(bands) else ""),
        "signal": ("Signal", _signal(ranking, signals) if any(signals) else ""),
        "failures": ("Failures", failures_section(sweep)),
        "configs": ("Configs", configs_section(sweep) if not single else ""),
        "jobs": ("Runs", jobs_section(sweep, ranking.metric)),
    }
    kept = {key: value for key, value in sections.items() if value[1]}
    overrides = f"<br>{'Overrides' if single else 'For all'}: {tag('code', escape(' '.join(sweep.overrides)))}" if sweep.overrides else ""
    scripts = {name: _asset(file) for name, file in _SCRIPTS.items()}
    parts = {
        "policy": escape(_policy(scripts.values())),
        "title": escape(f"{name}: {'run' if single else 'sweep'}"),
        "kind": "Report of a run" if single else "Report of a sweep",
        "name": escape(name),
        "facts": f"{escape(state(sweep))}{overrides}",
        "nav": "".join(tag("a", heading, href=f"#{key}") for key, (heading, _) in kept.items()),
        "sections": "\n".join(tag("section", body, id=key, aria_labelledby=f"h-{key}") for key, (_, body) in kept.items()),
        "data": embedded(_data(sweep, ranking, bands, signals)),
        "css": _colours() + _asset("page.css"),
        **scripts,
    }
    return re.sub(r"<!--\{(\w+)\}-->", lambda match: parts[match[1]], _asset("page.html"))


def _policy(scripts: Iterable[str]) -> str:
    """The content policy: nothing is fetched, and no script runs but these, whatever an override held."""
    sums = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{sum}'" for sum in sums)
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}"


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _colours() -> str:
    light, dark = (" ".join(f"--c{index}: {colour};" for index, colour in enumerate(colours)) for colours in (LIGHT, DARK))
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def _figure(id: str, title: str, about: str) -> str:
    return tag("figure", tag("figcaption", title, tag("span", about)), tag("div", class_="plot"), id=id)


def _metric(ranking: Ranking) -> str:
    dots = _figure("fig-dots", "By scheme", "a dot a run; bar and tick: the mean and its 95% interval over seeds")
    about = "a dot a seed; line: the mean and its interval, corrected for all pairs; told where it leaves out 0"
    differences = _figure("fig-differences", "Difference to the best on equal seeds", about) if len(ranking.rows) > 1 else ""
    return tag("h2", f"{escape(ranking.metric.name)} of every run", id="h-metric") + tag("div", dots, differences, class_="figures")


_CHIPS = '<ul class="chips" aria-label="Schemes in colour" data-chips></ul>'


def _curves(ranking: Ranking) -> str:
    several = len(ranking.rows) > 1
    about = (
        "Line: the median over seeds. Band: from the least to the largest. A cross: a run broke off. Choose which schemes have a colour."
    )
    return (
        tag("h2", "Curves", id="h-curves")
        + (tag("p", about, class_="note") if several else "")
        + tag("div", '<label><input type="checkbox" id="log"> logarithmic loss</label>', class_="controls")
        + (_CHIPS if several else "")
        + tag("div", id="fig-curves", class_="figures")
    )


def _signal(ranking: Ranking, signals: Signals) -> str:
    about = "The scale of each layer's output, and of the gradient by it, before the first step. Solid: measured. Dashed: predicted."
    told = [(row.scheme.label, signal.trouble) for row, signal in zip(ranking.rows, signals, strict=True) if signal is not None]
    items = [tag("li", tag("strong", escape(label)), ": ", escape(trouble)) for label, trouble in told if trouble]
    return (
        tag("h2", "Signal at the start", id="h-signal")
        + tag("p", about, class_="note")
        + (_CHIPS if len(ranking.rows) > 1 else "")
        + tag("div", id="fig-signal", class_="figures")
        + (tag("h3", "What is not well") + tag("ul", *items, class_="failures") if items else "")
    )


def _data(sweep: Sweep, ranking: Ranking, bands: Bands, signals: Signals) -> dict[str, object]:
    """What the figures and the comparison of configs are made of."""
    metric = ranking.metric
    return {
        "metric": {"name": metric.name, "higher": metric.higher_is_better},
        "schemes": [
            _scheme(row, ranking) | {"curves": _curves_of(curves), "signal": None if signal is None else signal.plain()}
            for row, curves, signal in zip(ranking.rows, bands, signals, strict=True)
        ],
        "configs": config_table(sweep),
        "numbers": [job.number for job in sweep.jobs],
    }


def _scheme(row: RankedScheme, ranking: Ranking) -> dict[str, object]:
    scheme, compared, best, sample = row.scheme, row.comparison, ranking.best, row.scheme.sample
    base = best.scheme.values if best is not None and not row.is_best else {}
    return {
        "label": scheme.label,
        "mean": None if sample is None else _short(sample.mean),
        "half": None if sample is None else _short(sample.half_width(ranking.alpha)),
        "values": [[", ".join(block), _short(value)] for block, value in scheme.values.items()],
        "outcome": outcome(row),
        "difference": None if compared is None or compared.n == 0 else [_short(compared.difference), _short(compared.half_width)],
        "differences": [[", ".join(block), _short(value - base[block])] for block, value in scheme.values.items() if block in base],
    }


def _curves_of(curves: Mapping[str, Band]) -> dict[str, object]:
    """Each column's band as plain data; without low and high where there is one run."""
    return {
        column: {
            "epochs": curve.epochs,
            "middle": [_short(value) for value in curve.middle],
            **({} if curve.low == curve.high else {"low": list(map(_short, curve.low)), "high": list(map(_short, curve.high))}),
            "ends": [[epoch, _short(value)] for epoch, value in curve.ends],
        }
        for column, curve in curves.items()
    }


def _short(value: float) -> float | None:
    """Six digits are enough to draw; what is not finite is nothing."""
    return finite(float(f"{value:.6g}"))
