"""What README and docs say is so: their Python runs, their YAML is read, their commands are right, their tables are current."""

import importlib.util
import itertools
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import modelfactory as mf
from modelfactory.api.run import check
from modelfactory.config.errors import Problems
from modelfactory.init.rules import read_init
from modelfactory.model.grammar import read_model

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list:
    found = []
    for page in PAGES:
        for number, text in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)):
            found.append(pytest.param(text, id=f"{page.name}-{number}"))
    return found


def commands() -> list:
    lines = itertools.chain.from_iterable(block.values[0].splitlines() for block in blocks("bash"))
    words = [shlex.split(line, comments=True) for line in lines]
    starts = (["python", "train.py"], ["modelfactory", "train"], ["modelfactory", "plan"], ["modelfactory", "audit"])
    return [
        pytest.param(line[2:], id=" ".join(line))
        for line in words
        if line[:2] in starts and "--help" not in line and "-cd" not in line and "--checkpoint" not in line
    ]


def test_the_two_commands_that_do_all_set_up_stand_alone_in_the_readme():
    lines = PAGES[0].read_text().splitlines()
    assert "pip install -e . && python train.py init=kaiming_normal" in lines
    assert 'pip install -e ".[test]" && pytest' in lines


@pytest.mark.parametrize("arguments", commands())
def test_every_command_is_right(arguments, monkeypatch):
    if "--against" in arguments:  # two configs, each whole
        at = arguments.index("--against")
        test_every_command_is_right(arguments[at + 1 :], monkeypatch)
        arguments = arguments[:at]
    overrides = [argument for argument in arguments if argument not in ("-m", "--short")]
    for job in itertools.product(*([f"{key}={value}" for value in values] for key, values in map(swept, overrides))):
        check(mf.compose(*job))


def swept(override: str) -> tuple[str, list[str]]:
    key, _, value = override.partition("=")
    if found := re.fullmatch(r"range\((\d+)\)", value):
        return key, [str(number) for number in range(int(found[1]))]
    if found := re.fullmatch(r"glob\((.+)\)", value):
        return key, sorted(path.stem for path in (ROOT / "conf" / key).glob(f"{found[1]}.yaml"))
    return key, [value] if value[:1] in "{[(" else value.split(",")


@pytest.mark.filterwarnings("default:The version_base parameter is deprecated")  # by Hydra 1.4, as the page says
@pytest.mark.parametrize("text", blocks("python"))
def test_every_python_block_runs(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "kinds(" in text and "def kinds(" not in text:  # an example of docs/audit.md, which all begin with one block
        text = next(block.values[0] for block in blocks("python") if "def kinds(" in block.values[0]) + text
    text = text.replace("mf.train(cfg,", "mf.train({**cfg, 'trainer': {'max_epochs': 1, 'device': 'cpu', 'progress': 'none'}},")
    exec(compile(text, "README", "exec"), {})  # noqa: S102


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_yaml_block_is_read(text, tmp_path):
    if "\ndefaults:" in text:  # a primary config
        (tmp_path / "page.yaml").write_text(text)
        cfg = mf.compose(config_dir=tmp_path, config_name="page")
        if "model" in cfg:
            check(cfg, strict=False)
        for at in [name for name, node in cfg.items() if isinstance(node, Mapping) and "layers" in node]:
            mf.plan(cfg, at=str(at))
        return
    config = yaml.safe_load(text.replace("${activation}", "{_target_: torch.nn.ReLU}").replace('"${data.num_classes}"', "10"))
    problems = Problems()
    if "layers" in config:
        read_model(config, torch.empty(2, 1, 8, 8, device="meta"), problems)
    else:
        read_init(config, "init", problems)
    problems.raise_if_any()


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pictures_of_the_schemes_are_current():
    """To a fiftieth of their height: another processor may draw another last bit."""
    module = script("schemes")
    assert {file.stem for file in module.PICTURES.glob("*.svg")} == set(module.SCHEMES)
    for name in module.SCHEMES:
        there, drawn = (module.PICTURES / f"{name}.svg").read_text(), module.picture(name)
        numbers = [[float(number) for number in re.findall(r"\d+\.\d+", text)] for text in (there, drawn)]
        assert numbers[0] == pytest.approx(numbers[1], abs=module.HEIGHT / 50), f"{name}: run python docs/schemes.py"


@pytest.mark.parametrize("name", ["generate", "backbones", "schemes", "resume"])
def test_the_generated_tables_are_current(name):
    module = script(name)
    assert module.PAGE.read_text() == module.page(module.PAGE.read_text()), f"run python docs/{name}.py"
