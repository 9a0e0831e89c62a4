"""What is told of the jobs of a sweep before they start."""

from __future__ import annotations

import logging

import pytest

from modelfactory.sweeping.job_problems import now_and_then


@pytest.mark.parametrize(("seconds", "expected"), [(0, ["1 of 3", "2 of 3"]), (60, [])])
def test_a_long_check_says_how_far_it_is(caplog: pytest.LogCaptureFixture, seconds: float, expected: list[str]):
    with caplog.at_level(logging.INFO):
        assert list(now_and_then("abc", "%s of %s", seconds)) == ["a", "b", "c"]
    assert [record.getMessage() for record in caplog.records] == expected
