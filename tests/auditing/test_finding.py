"""Findings in order, as a table and as plain data; every kind has a section in the docs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from modelfactory.auditing.finding import KINDS, Audit, Finding

PAGE = Path(__file__).resolve().parents[2] / "docs" / "audit.md"
WARNED = tuple(Finding(f"h.{place}.fc.weight", "scale", "warn", "std 1", "draw it") for place in range(3))
FOUND = Audit((Finding("fc.bias", "not_finite", "error", "1 of 3 values are NaN", "draw it"), *WARNED), ("one note",))


def test_a_level_takes_in_those_above_it():
    assert len(FOUND.at("warn")) == 4
    assert [finding.name for finding in FOUND.at("error")] == ["fc.bias"]
    with pytest.raises(ValueError, match="level: 'eror' is not one; did you mean 'error'"):
        FOUND.at("eror")


def test_repeats_are_one_row_of_the_table():
    text = str(FOUND)
    assert "scale  h.0.fc.weight (and 2 like it: h.*.fc.weight)" in text
    assert text.endswith("1 error, 3 warnings\nnote: one note")


def test_json_has_every_finding():
    plain = json.loads(json.dumps(FOUND.to_dict()))
    assert plain["clean"] is False
    assert [finding["name"] for finding in plain["findings"]] == [finding.name for finding in FOUND]


def test_every_kind_has_a_section_and_a_source():
    titles = {word for line in re.findall(r"^### (.+)$", PAGE.read_text(), re.MULTILINE) for word in line.split(", ")}
    assert titles == set(KINDS)
    source = "".join(path.read_text() for path in (PAGE.parents[1] / "modelfactory" / "auditing").glob("*.py") if path.stem != "finding")
    assert all(f'"{kind}"' in source for kind in KINDS)
