"""The JSON schemas of configs: every config of conf/ is valid by them, and what they can know to be wrong is refused."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelfactory.api.config_schema import GROUPS, config_schema
from modelfactory.cli.main import main
from tests.contract.test_bad_input import WRONG, changed

jsonschema = pytest.importorskip("jsonschema", reason="an extra of the tests")
ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in (ROOT / "conf").rglob("*.yaml") if path.parent.parent.name != "hydra")
# what is wrong by the keys and values alone, in the words of the errors
KNOWABLE = re.compile(
    r"not a key of|not a key here|not an argument of|is too small|is too large|is a text|is a number|is true or false|is a list|is null"
    r"|is not a choice|is not a role|is not a scheme|is not a torch|is not a mapping|is a mapping|not a modelfactory|give the full name"
)
# and those that take more than that: other keys, the model, or a library that is looked into
BEYOND = {
    "model: unknown key",  # any plain key may be one that an interpolation uses
    "layer: attention dropout over 1",
    "layer: padding negative",
    "scheduler: milestones a text",
    "backbone: of another task",
    "backbone: misspelt of timm",
    "backbone: a stem of no weights",
}


@cache
def schema() -> dict[str, Any]:
    made = config_schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return made


@cache
def validator(group: str) -> Any:
    whole = schema()
    is_whole = group in ("config", "experiment")
    return jsonschema.Draft202012Validator(whole if is_whole else {**whole["$defs"][group], "$defs": whole["$defs"]})


def group_of(path: Path) -> str:
    return "config" if path.parent.name == "conf" else path.parent.name


@pytest.mark.parametrize("group", sorted({group_of(path) for path in CONFIGS}))
def test_every_config_is_valid_and_names_its_schema(group: str):
    for path in (path for path in CONFIGS if group_of(path) == group):
        validator(group).validate(yaml.safe_load(path.read_text()) or {})
        header = next(line for line in path.read_text().splitlines() if not line.startswith("# @"))
        place = header.removeprefix("# yaml-language-server: $schema=")
        assert (path.parent / place).resolve() == ROOT / "schemas" / f"{group}.json", path


def knowable() -> list[Any]:
    return [
        pytest.param(model, changes, id=name)
        for name, model, changes, told in WRONG
        if KNOWABLE.search(told) and name not in BEYOND and not re.search("picks no parameter|is not a parameter of this layer", told)
    ]


@pytest.mark.slow
def test_what_a_schema_can_know_to_be_wrong_is_refused():
    """In one test, as the configs that are changed are the same few."""
    cases = knowable()
    accepted = [case.id for case in cases if validator("config").is_valid(changed(*case.values))]
    assert len(cases) > 120 and not accepted


@pytest.mark.parametrize("model", sorted({model for _, model, _, _ in WRONG}))
def test_the_configs_that_are_changed_are_valid_themselves(model: str):
    validator("config").validate(changed(model, {}))


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ("model", "layers: {own: {_target_: my_pkg.MyLayer, whatever: 3}}"),
        ("model", "{_target_: my_pkg.MyNet, depth: 3}"),
        ("model", "layers: {fc: {_target_: torch.nn.modules.linear.Linear, out_features: 3}}"),
        ("init", "rules: {mine: {match: a, scheme: my_pkg.fill_, half_width: 3}}"),
        ("data", "{_target_: my_pkg.data, root: x, batch_size: 3}"),
        ("optimizer", "{_target_: my_pkg.Lion, lr: 0.1, beta: 3}"),
        ("trainer", "max_epochs: ${epochs}"),
        ("trainer", "signal: false"),
    ],
)
def test_what_a_trusted_package_brings_and_interpolations_are_taken(group: str, text: str):
    validator(group).validate(yaml.safe_load(text))


def test_the_files_are_current(tmp_path: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modelfactory.api.config_schema.config_schema", schema)
        assert main(["schema", str(tmp_path)]) == 0
    there, made = (json.loads((folder / "config.json").read_text()) for folder in (ROOT / "schemas", tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in (ROOT / "schemas").iterdir())
    assert json.loads((tmp_path / "model.json").read_text())["$ref"] == "config.json#/$defs/model"
    assert set(GROUPS) <= made["$defs"].keys()
    if there["$comment"] != made["$comment"]:
        pytest.skip(f"the files are {there['$comment']}, and here it is another")
    assert there == made, "run modelfactory schema"
