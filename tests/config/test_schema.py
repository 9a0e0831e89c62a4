"""Reading a mapping into a spec: types, ranges, and every problem at once."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from modelfactory.config.errors import Problems
from modelfactory.config.schema import check_value, describe, join, key, paths_of, read


@dataclass(frozen=True)
class LoopSpec:
    epochs: int
    rate: float = key(0.1, above=0, max=1)
    every: int | None = key(None, min=1)
    names: tuple[str, ...] = ()
    sizes: list[int] = field(default_factory=list)
    mode: str = key("min", choices=("min", "max"))
    how: Literal["fast", "slow"] = "fast"
    flag: bool = False
    extra: dict[str, Any] = key({})
    anything: Any = None


def problems_of(mapping: Any, path: str = "loop") -> list[str]:
    problems = Problems()
    found = read(LoopSpec, mapping, path, problems)
    assert (found is None) == bool(problems)
    return list(map(str, problems))


def test_values_come_out_in_their_types():
    given = {"epochs": 3, "rate": 1, "names": ["a", "b"], "sizes": (1, 2), "every": None, "anything": object, "extra": {"x": 1}}
    found = read(LoopSpec, given, "loop", Problems())
    assert found == LoopSpec(3, 1.0, None, ("a", "b"), [1, 2], anything=object, extra={"x": 1})
    assert isinstance(found.rate, float) and isinstance(found.names, tuple)


def test_defaults_that_can_change_are_not_shared():
    one, two = (read(LoopSpec, {"epochs": 1}, "", Problems()) for _ in range(2))
    assert one.extra == {} and one.extra is not two.extra


WRONG = [
    ({}, "loop.epochs: missing; give a whole number"),
    ({"epochs": 1, "ephocs": 2}, "loop.ephocs: not a key of loop; did you mean 'epochs'?"),
    ({"epochs": True}, "loop.epochs: True is true or false; give a whole number"),
    ({"epochs": 1.0}, "loop.epochs: 1.0 is a number; give a whole number"),
    ({"epochs": "3"}, "loop.epochs: '3' is a text; give a whole number (leave the quotes out: 3)"),
    ({"epochs": None}, "loop.epochs: None is null; give a whole number"),
    ({"epochs": 1, "rate": "1e-3"}, "loop.rate: '1e-3' is a text; give a number > 0 and <= 1 (YAML reads 1e-3 as text: write 0.001)"),
    ({"epochs": 1, "rate": "fast"}, "loop.rate: 'fast' is a text; give a number > 0 and <= 1"),
    ({"epochs": 1, "rate": 0}, "loop.rate: 0 is too small; give a number > 0 and <= 1"),
    ({"epochs": 1, "rate": 1.5}, "loop.rate: 1.5 is too large; give a number > 0 and <= 1"),
    ({"epochs": 1, "rate": math.nan}, "loop.rate: nan is not finite; give a number > 0 and <= 1"),
    ({"epochs": 1, "rate": math.inf}, "loop.rate: inf is not finite; give a number > 0 and <= 1"),
    ({"epochs": 1, "rate": True}, "loop.rate: True is true or false; give a number > 0 and <= 1"),
    ({"epochs": 1, "every": 0}, "loop.every: 0 is too small; give a whole number >= 1, or null"),
    ({"epochs": 1, "names": "ab"}, "loop.names: 'ab' is a text; give a list of texts"),
    ({"epochs": 1, "names": ["a", 1]}, "loop.names: ['a', 1] holds 1; give a list of texts"),
    ({"epochs": 1, "mode": "mx"}, "loop.mode: 'mx' is not a choice; did you mean 'max'?"),
    ({"epochs": 1, "how": "quick"}, "loop.how: 'quick' is a text; give one of fast, slow"),
    ({"epochs": 1, "flag": 1}, "loop.flag: 1 is a whole number; give true or false"),
    ({"epochs": 1, "flag": "yes"}, "loop.flag: 'yes' is a text; give true or false"),
    ({"epochs": 1, "extra": [1]}, "loop.extra: [1] is a list; give a mapping"),
    (None, "loop: None is not a mapping; give its keys: epochs, rate"),
    ([1], "loop: [1] is not a mapping"),
]


@pytest.mark.parametrize(("mapping", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_told_with_path_value_and_what_would_do(mapping, message):
    (told,) = problems_of(mapping)
    assert told.startswith(message)


def test_all_that_is_wrong_is_told_at_once():
    told = problems_of({"rate": -1, "evry": 1, "flag": "x"})
    assert [line.partition(":")[0] for line in told] == ["loop.evry", "loop.epochs", "loop.rate", "loop.flag"]


def test_numbers_beyond_all_floats_are_no_numbers():
    problems = Problems()
    check_value(10**400, float, "a", problems)
    assert len(problems) == 1 and "is not finite" in str(next(iter(problems)))


def test_a_long_value_is_not_shown_whole():
    problems = Problems()
    check_value("x" * 10_000, int, "a", problems)
    assert len(str(next(iter(problems)))) < 400


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"),
        (float | None, "a number, or null"),
        (tuple[int, ...] | int, "a list of whole numbers, or a whole number"),
        (dict[str, Any], "a mapping"),
        (Literal["a", "b"], "one of a, b"),
    ],
)
def test_types_in_words(hint, words):
    assert describe(hint) == words


def test_paths_join_with_dots():
    assert join("a.b", 3) == "a.b.3" and join("", "seed") == "seed"


OFF = [
    (str, {"choices": ("bar", "none")}, [False, None, "off", "none"], "none"),
    (str | None, {"choices": ("mlflow",)}, [False, None, "off", "none"], None),
    (float | None, {"above": 0}, [False, None, "off", "none"], None),
    (str | None, {}, [False, None], None),
    (dict | None, {}, [False, None, "none"], None),
]


@pytest.mark.parametrize(("hint", "limits", "values", "expected"), OFF)
def test_what_can_be_switched_off_is_in_any_word(hint, limits, values, expected):
    problems = Problems()
    assert [check_value(value, hint, "trainer.it", problems, limits) for value in values] == [expected] * len(values)
    assert not problems


@pytest.mark.parametrize(("hint", "limits"), [(str, {"choices": ("bar", "none")}), (int, {}), (str, {"choices": ("bar",)})])
def test_true_and_what_cannot_be_switched_off_are_told(hint, limits):
    problems = Problems()
    check_value(True, hint, "trainer.it", problems, limits)
    if "none" not in limits.get("choices", ()):
        check_value(False, hint, "trainer.it", problems, limits)
    assert len(problems) == (1 if "none" in limits.get("choices", ()) else 2)


def test_keys_of_a_name_are_found_the_least_deep_first():
    config = {"a": {"b": {"lr": 1}, "c": {"lr": 1}}, "d": {"lr": 1}, "lrs": [{"lr": 1}]}
    assert paths_of("lr", config) == ["d.lr", "a.b.lr", "a.c.lr"] and paths_of("none", config) == []
