"""The wheel, the sdist and an editable install all carry the configs; nothing is asked of the network."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml"))
ASK = (
    "import sys, site; site.addsitedir({site!r}); sys.path.insert(0, {site!r})\n"
    "from importlib.resources import files\n"
    "from modelfactory.config.compose import compose; from modelfactory.config.search_path import config_folder\n"
    "print(config_folder(), len(list(config_folder().rglob('*.yaml'))), compose('model=cnn').model.layers.conv1._target_)\n"
    "print(files('modelfactory.conf').joinpath('config.yaml').is_file())"
)


def build(target: str, source: Path, folder: Path) -> Path:
    """Builds with hatchling in `source`, as pip would after fetching it; target: wheel, sdist or editable."""
    code = f"from hatchling import build; print(build.build_{target}({str(folder)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


def ask(site: Path) -> list[str]:
    """Where an interpreter that has only `site` of ours finds the configs, how many, a value composed, and if `pkg://` finds them."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", ASK.format(site=str(site))], cwd=site, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def names_of(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_carries_the_package_and_its_configs_and_nothing_that_hydra_loads_unasked(wheel: Path):
    names = names_of(wheel)
    assert {f"modelfactory/{name}" for name in CONFIGS} <= names
    assert {f"modelfactory/reporting/assets/{name}" for name in ("page.html", "page.js", "page.css", "vendor/LICENSE-d3.txt")} <= names
    assert "modelfactory/conf/__init__.py" in names
    assert {f"modelfactory/{path.relative_to(ROOT / 'examples')}" for path in (ROOT / "examples/other_project").rglob("*.py")} <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"modelfactory"}


def test_the_wheel_installs_the_command_and_the_licence(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        info = next(name.split("/")[0] for name in archive.namelist() if ".dist-info" in name)
        assert "modelfactory = modelfactory.cli.main:main" in archive.read(f"{info}/entry_points.txt").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()


def test_configs_are_found_from_an_unpacked_wheel(wheel: Path, tmp_path: Path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    assert ask(tmp_path) == [str(tmp_path / "modelfactory" / "conf"), str(len(CONFIGS)), "torch.nn.Conv2d", "True"]


def test_an_editable_install_reads_the_configs_where_they_are(tmp_path: Path):
    editable = build("editable", ROOT, tmp_path)
    assert not any("conf/" in name for name in names_of(editable))
    site = tmp_path / "site"
    with zipfile.ZipFile(editable) as archive:
        archive.extractall(site)
    assert ask(site) == [str(ROOT / "conf"), str(len(CONFIGS)), "torch.nn.Conv2d", "True"]


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path):
    with tarfile.open(build("sdist", ROOT, tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert {"tests", "train.py", "LICENSE", "README.md"} <= {path.name for path in source.iterdir()}
    assert names_of(build("wheel", source, tmp_path)) == names_of(wheel)


def test_what_the_package_imports_is_declared():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.10"
    wanted = {"torch", "torchvision", "hydra-core", "omegaconf", "safetensors", "scikit-learn", "tqdm", "numpy", "matplotlib", "scipy"}
    declared = {line.split(">")[0].split("<")[0].strip() for line in project["dependencies"]}
    assert wanted <= declared
