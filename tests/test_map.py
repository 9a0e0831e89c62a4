"""The map stays true: one name for one thing, and imports that point down only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "modelfactory"
FLOORS = {
    "vocabulary": "errors advice files spec signature target quadrature activation structure computed parameter roles select "
    "definition depth",
    "parts": "layers init freezing grouping weights backbone dividing eager",
    "model": "model ledger signalling modelspec accounting overview pretrained initializing planning mending",
    "training": "status device data loss optimizer scheduler checkpoint records progress finite setup resume updates features "
    "probe tracking trainer",
    "sweeps": "sweep reporting experiment",
    "entrance": "complaints guard config pretraining run job viewing cli",
    "surface": "__init__",
}
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS.values()) for name in names.split()}
MODULES = sorted(PACKAGE.rglob("*.py"))
# `mf.freeze` is a function, so that its module has another name
MODULE_OF = {"freeze": "freezing"}
NO_TORCH = ("__init__", "errors", "files", "spec", "signature", "target", "complaints", "guard", "config", "viewing", "cli", "status")
MAX_LINES = 360


def stem(path: Path) -> str:
    """The name of a module on the map: that of the file or folder directly in the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, top_only: bool = False) -> Iterator[str]:
    """Names of all modules that a file imports, inside functions too unless `top_only`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            assert node.level == 0, f"{path.name}: imports are absolute"


def ours(path: Path) -> set[str]:
    """The stems of our own modules that a file imports."""
    found = {name.split(".")[1] for name in imports(path) if name.startswith("modelfactory.")}
    return found & FLOOR_OF.keys() - {stem(path)}


def test_every_module_is_on_the_map():
    assert {stem(path) for path in MODULES} == FLOOR_OF.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_only(path: Path):
    up = {name for name in ours(path) if FLOOR_OF[name] > FLOOR_OF[stem(path)]}
    assert not up, f"{path.name} is below {up}"


def test_no_two_modules_import_each_other():
    graph = {name: set() for name in FLOOR_OF}
    for path in MODULES:
        graph[stem(path)] |= ours(path)
    while free := [name for name, wanted in graph.items() if not wanted]:
        for name in free:
            del graph[name]
        for wanted in graph.values():
            wanted -= set(free)
    assert not graph, f"these import each other in a circle: {graph}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_config_imports_the_config_library(path: Path):
    libraries = {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf", "hydra_plugins"}
    assert not libraries or stem(path) == "config"


@pytest.mark.parametrize("name", NO_TORCH)
def test_the_vocabulary_and_the_entrance_do_not_import_torch_themselves(name: str):
    for path in (path for path in MODULES if stem(path) == name):
        assert "torch" not in {module.split(".")[0] for module in imports(path, top_only=True)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_fits_in_the_head(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("group", sorted({path.parent.name for path in (ROOT / "conf").glob("*/*.yaml")}))
def test_a_config_group_has_a_module_and_tests_of_its_name(group: str):
    name = MODULE_OF.get(group, group)
    assert (PACKAGE / f"{name}.py").is_file() or (PACKAGE / name / "__init__.py").is_file()
    assert (ROOT / "tests" / f"test_{name}.py").is_file() or any((ROOT / "tests" / name).glob("test_*.py"))


def test_a_public_name_is_imported_from_where_pyright_is_told():
    import modelfactory

    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == modelfactory._HOME
    assert sorted(told) == sorted(modelfactory.__all__)
    for name in modelfactory.__all__:
        assert getattr(modelfactory, name) is getattr(sys.modules[told[name] or ""], name)
    assert set(modelfactory.__all__) <= set(dir(modelfactory))


def test_a_name_that_there_is_not_is_an_attribute_error():
    import modelfactory

    with pytest.raises(AttributeError, match="module 'modelfactory' has no attribute 'nothing'"):
        modelfactory.nothing  # noqa: B018
