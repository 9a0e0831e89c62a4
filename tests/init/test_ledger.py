"""The ledger as a table, as text and as a file."""

import csv
import math

import pytest
from torch import nn

import modelfactory as mf
from modelfactory.init.ledger import COLUMNS, Ledger, LedgerRow


def row(name: str, **changed) -> LedgerRow:
    given = {
        "shape": "3x4", "numel": 12, "dtype": "float32", "module": "Linear", "role": "weight head", "origin": "rule", "rule": "weights",
        "scheme": "normal", "fan_in": 4.0, "fan_out": 3.0, "gain": None, "expected_mean": 0.0, "expected_std": 1 / 3,
        "mean": -0.0125, "std": math.nan, "trainable": True, "group": "default",
    }  # fmt: skip
    return LedgerRow(name, **{**given, **changed})


def test_the_columns_are_those_of_the_contract_in_their_order():
    contract = (
        "name, shape, numel, dtype, module, role, origin, rule, scheme, fan_in, fan_out, gain, "
        "expected_mean, expected_std, mean, std, trainable, group"
    )
    assert COLUMNS == tuple(contract.split(", "))


def test_a_file_holds_what_the_rows_say(tmp_path):
    ledger = Ledger([row("a"), row('b, "c"', trainable=False, group="", gain=2**0.5)])
    text = ledger.to_csv(tmp_path / "ledger.csv")
    assert (tmp_path / "ledger.csv").read_text() == text == ledger.to_csv()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.csv"]
    first, second = csv.DictReader(text.splitlines())
    assert (first["gain"], first["std"], first["expected_std"], first["fan_in"], first["trainable"]) == ("", "", "0.33333333", "4", "true")
    assert (second["name"], second["gain"], second["trainable"], second["group"]) == ('b, "c"', "1.4142136", "false", "")


def test_a_failure_to_write_leaves_the_old_file(tmp_path, monkeypatch):
    from pathlib import Path

    ledger = Ledger([row("a")])
    ledger.to_csv(tmp_path / "ledger.csv")
    old = (tmp_path / "ledger.csv").read_text()

    def fails(self, text, **how):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OSError, match="disk full"):
        Ledger([row("b")]).to_csv(tmp_path / "ledger.csv")
    assert (tmp_path / "ledger.csv").read_text() == old


def test_rows_are_found_by_number_and_by_any_name():
    ledger = Ledger([row("a"), row("b = c")])
    assert len(ledger) == 2 and list(ledger) == [ledger[0], ledger[1]] and ledger[-1] is ledger["b"] is ledger["c"]
    for missing in ("d", "b = c", ""):
        with pytest.raises(KeyError):
            ledger[missing]


def test_it_prints_as_an_aligned_table():
    lines = str(Ledger([row("a"), row("a.longer.name")])).splitlines()
    assert len(lines) == 3 and lines[0].split()[:3] == ["name", "shape", "role"]
    assert len({line.index("3x4") for line in lines[1:]} | {lines[0].index("shape")}) == 1
    assert repr(Ledger([row("a")])) == "Ledger of 1 parameters, 12 numbers"


def test_of_a_plan_it_has_all_but_what_is_not_drawn():
    plan = mf.plan({"model": {"layers": {"fc": {"_target_": "torch.nn.Linear", "out_features": 3}}}, "data": {"input_shape": [4]}})
    for planned, built in zip(plan.ledger, plan.materialize().ledger, strict=True):
        different = {name for name in COLUMNS if getattr(planned, name) != getattr(built, name)}
        assert different <= {"mean", "std", "expected_mean", "expected_std"} and math.isnan(planned.std) and built.std
        assert built.origin == "default" and built.scheme == "default"


def test_of_an_existing_model_it_says_what_was_frozen():
    model = nn.Linear(3, 4)
    model.weight.requires_grad_(False)
    ledger = mf.initialize(model, {"match": "*", "scheme": "uniform"})
    assert [(entry.name, entry.trainable, entry.group) for entry in ledger] == [("weight", False, ""), ("bias", True, "")]
    assert ledger["weight"].expected_mean == 0.5 and ledger["weight"].expected_std == pytest.approx(12**-0.5)
