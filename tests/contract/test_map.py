"""The map stays true: one name for one thing, and imports that point down only."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "modelfactory"
# from the top floor down: a room imports lower rooms only
ROOMS = (
    "cli",
    "api",
    "reporting",
    "testing",
    "planning",
    "auditing",
    "sweeping",
    "training",
    "signal_propagation",
    "data",
    "init",
    "model",
    "parameters",
    "tracing",
    "numerics",
    "config",
)
FLOOR_OF = {name: floor for floor, name in enumerate(reversed(ROOMS))}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE and "conf" not in path.relative_to(PACKAGE).parts[:1])
# where Hydra and OmegaConf may be imported: the config room, the application, and what runs the jobs of a sweep
HYDRA_ROOMS = ("config", "cli", "sweeping")
# what `--help`, completion, `list` and `report` go through
NO_TORCH = ("config", "cli", "reporting", "sweeping")
# a group of conf/ stands in the room of its name, or in this one
ROOM_OF = {
    "activation": "numerics/activation.py",
    "backbone": "model/backbone",
    "experiment": "sweeping/experiment.py",
    "freeze": "parameters/freezing.py",
    "hydra": "config",
    "optimizer": "training/optimizer.py",
    "scheduler": "training/scheduler.py",
    "trainer": "training/trainer.py",
}
MAX_LINES = 360


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def imports(path: Path, top_only: bool = False) -> Iterator[str]:
    """Names of all modules that a file imports, inside functions too unless `top_only`, but for those that only types need."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            assert node.level == 0, f"{path.name}: imports are absolute"


def lower(path: Path) -> set[str]:
    """The other rooms that a file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("modelfactory.")} & FLOOR_OF.keys() - {room(path)}


def names(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_nothing_lies_loose_in_the_package():
    loose = {path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "conf", "py.typed")} - set(ROOMS)
    assert loose == {"__init__.py", "__main__.py"}


def test_a_room_imports_lower_rooms_only():
    up = {names(path): sorted(found) for path in MODULES if (found := {to for to in lower(path) if FLOOR_OF[to] > FLOOR_OF[room(path)]})}
    assert not up


def test_no_two_files_import_each_other():
    """Imports inside functions count too: what has to be imported late to dodge a circle is a circle."""
    module_of = {names(path).removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in MODULES}
    graph = {
        name: {stem for found in imports(path) for stem in (found[13:], found[13:].rpartition(".")[0]) if stem in module_of} - {name}
        for name, path in module_of.items()
    }
    while free := [name for name, wanted in graph.items() if not wanted]:
        for name in free:
            del graph[name]
        for wanted in graph.values():
            wanted -= set(free)
    assert not graph, f"these import each other in a circle: {graph}"


def test_few_rooms_import_the_config_library():
    found = [names(path) for path in MODULES if {name.split(".")[0] for name in imports(path)} & {"hydra", "omegaconf", "hydra_plugins"}]
    assert {name.split("/")[0] for name in found} <= set(HYDRA_ROOMS), found


def test_the_entrance_does_not_import_torch_itself():
    found = [names(path) for path in MODULES if "torch" in {module.split(".")[0] for module in imports(path, top_only=True)}]
    assert not [name for name in found if name.split("/")[0] in NO_TORCH and not name.startswith("reporting/papers/")]


def test_a_module_fits_in_the_head():
    long = {names(path): count for path in MODULES if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES}
    assert not long


def test_only_the_public_rooms_re_export():
    """Names are taken from where they are defined; `modelfactory.data`, `.init` and `.testing` are what users import."""
    inits = [path for path in MODULES if path.name == "__init__.py" and len(ast.parse(path.read_text(encoding="utf-8")).body) > 1]
    assert {names(path) for path in inits} <= {"data/__init__.py", "init/__init__.py", "testing/__init__.py"}


@pytest.mark.parametrize("group", sorted({path.parent.name for path in (ROOT / "conf").glob("*/*.yaml")}))
def test_a_config_group_has_a_room_and_tests_of_its_name(group: str):
    place = ROOM_OF.get(group, group)
    assert (PACKAGE / place).exists()
    assert (ROOT / "tests" / place.split("/")[0]).is_dir()


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
