"""A Hydra program of somebody else's in an environment where this package is installed: it sees nothing of us until it asks.

In fresh environments, on the Hydra of today and the next one; libraries beside Hydra are those of the environment that the tests
run in. What pip has to fetch it fetches; where it cannot, the tests are skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.contract.test_packaging import ROOT, build

pytestmark = pytest.mark.slow
HYDRA = {"1.3": "==1.3.8", "1.4": ">=1.4.0rc1,<1.5"}
SITES = [path for path in sys.path if path.endswith("site-packages")]
APP = """
import hydra
@hydra.main(config_path="conf", config_name="config", **{arguments})
def main(cfg):
    print("JOB", cfg)
main()
"""
# groups with names that ours have too; no run leaves anything, so that the next finds what the last one found
FILES = {
    "config.yaml": "defaults: [_self_, {optimizer: sgd}]\nsize: 1\nhydra: {run: {dir: .}, sweep: {dir: out}, output_subdir: null}\n",
    "model/theirs.yaml": "kind: own\n",
    "optimizer/sgd.yaml": "speed: 3\n",
    "asking.yaml": "defaults: [config, {model: cnn}, {data: digits}, {activation: gelu}, _self_]\n"
    "seed: 0\nhydra: {searchpath: ['pkg://modelfactory.conf']}\n",
}
THEIR_SWEEPER = """
from dataclasses import dataclass
from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper

class TheirSweeper(Sweeper):
    def setup(self, **given): pass
    def sweep(self, arguments): print("THEIR SWEEPER", arguments)

ConfigStore.instance().store(
    group="hydra/sweeper", name="optuna", node={"_target_": "hydra_plugins.their_sweeper.sweeper.TheirSweeper"}, provider="theirs"
)
"""
ALONE: dict[tuple[str, ...], tuple[int, str, str]] = {}  # what the program prints without us


@dataclass(frozen=True)
class Place:
    """A folder with the program, and two environments that are the same, but for this package."""

    hydra: str
    folder: Path
    with_us: Path
    without_us: Path

    def run(self, python: Path, *words: str, **environment: str) -> tuple[int, str, str]:
        """Status, stdout and stderr of a Python process, without the times of day."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
        done = subprocess.run([python, *words], cwd=self.folder, env=kept | environment, capture_output=True, text=True, timeout=120)
        out, err = (re.sub(r"\[\d{4}-[^]]+\]", "", text).replace(str(self.folder), "") for text in (done.stdout, done.stderr))
        return done.returncode, out, err

    def app(self, *words: str, **environment: str) -> tuple[int, str, str]:
        """What the program prints with us, which is what it prints without."""
        known = (self.hydra, *words, *environment.values())
        if known not in ALONE:
            ALONE[known] = self.run(self.without_us, "app.py", *words, **environment)
        assert self.run(self.with_us, "app.py", *words, **environment) == ALONE[known]
        return ALONE[known]


def pip(python: Path, *words: str) -> None:
    """Installs into another environment, or skips the test when pip cannot."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        pytest.skip(f"pip cannot install {words[-1]}: {(done.stderr.strip() or 'no reason told').splitlines()[-1]}")


def new_environment(folder: Path, *paths: str) -> tuple[Path, Path]:
    """An empty environment that has what is in `paths` too; its Python, and the folder of what is installed."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "zz_of_the_tests.pth").write_text("\n".join(paths))
    return folder / "bin" / "python", site


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """An environment for each Hydra, with a sweeper of others named optuna, and without us."""

    @cache
    def make(hydra: str) -> tuple[Path, Path]:
        python, site = new_environment(tmp_path_factory.mktemp("alone"), *SITES)
        if version("hydra-core") not in SpecifierSet(HYDRA[hydra], prereleases=True):
            pip(python, "--pre", f"hydra-core{HYDRA[hydra]}")
        theirs = site / "hydra_plugins" / "their_sweeper"
        theirs.mkdir(parents=True)
        (theirs / "__init__.py").touch()
        (theirs / "sweeper.py").write_text(THEIR_SWEEPER)
        return python, site

    return make


WHEEL = [("wheel", hydra) for hydra in HYDRA]
EDITABLE = [("editable", hydra) for hydra in HYDRA]
with_wheel = pytest.mark.parametrize("place", WHEEL, ids="-".join, indirect=True)


@pytest.fixture(scope="module", params=[*WHEEL, *EDITABLE], ids="-".join)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, alone: Callable[[str], tuple[Path, Path]]) -> Place:
    target, hydra = request.param
    folder = tmp_path_factory.mktemp("foreign")
    built = build(target, ROOT, folder)
    for name, text in FILES.items():
        (folder / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "conf" / name).write_text(text)
    (folder / "app.py").write_text(APP.format(arguments={"version_base": "1.3"} if hydra == "1.3" else {}))
    without_us, site = alone(hydra)
    with_us, _ = new_environment(folder / "with", str(site), *SITES)
    pip(with_us, "--no-deps", "--no-index", "--ignore-installed", str(built))
    return Place(hydra, folder, with_us, without_us)


@with_wheel
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "JOB {'size': 1, 'optimizer': {'speed': 3}}"),
        (["--help"], "\nmodel: theirs\noptimizer: sgd\n"),
        (["--cfg", "all"], "searchpath: []"),
        (["--info", "searchpath"], "pkg://hydra.conf"),
        (["+model=theirs"], "'model': {'kind': 'own'}"),
        (["-m", "size=1,2", "hydra/sweeper=optuna"], "THEIR SWEEPER ['size=1,2']"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_program_of_others_runs_as_it_does_without_us(place: Place, words: list[str], expected: str):
    status, out, err = place.app(*words)
    assert status == 0 and expected in out, (out, err)


def test_a_sweep_of_others_over_all_models_has_theirs_only(place: Place):
    status, out, err = place.app("-m", "+model=glob(*)")
    assert status == 0 and "Launching 1 jobs locally" in out and out.count("JOB") == 1, (out, err)


@with_wheel
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["optimizer=adamw"], "Could not find 'optimizer/adamw'"),
        (["+model=cnn"], "Could not find 'model/cnn'"),
        (["init=orthogonal"], "Could not override 'init'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_misspelt_group_or_option_is_hydras_own_error(place: Place, words: list[str], expected: str):
    done = place.app(*words)
    assert done[0] != 0 and expected in done[2], done


@with_wheel
@pytest.mark.parametrize(
    ("typed", "expected"),
    [("model=", "model=theirs"), ("optimizer=", "optimizer=sgd"), ("hydra/sweeper=", "hydra/sweeper=optuna"), ("in", "")],
)
def test_the_shell_completes_what_is_theirs(place: Place, typed: str, expected: str):
    line = f"app.py {typed}"
    status, out, err = place.app("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert status == 0 and set(expected.split()) <= set(out.split()) and (expected or not out.strip()), (out, err)


def test_our_groups_are_there_for_a_program_that_asks(place: Place):
    status, out, err = place.run(place.with_us, "app.py", "-cn", "asking", "--cfg", "job", "--resolve")
    assert status == 0 and not err, err
    for text in ("size: 1", "speed: 3", "_target_: torch.nn.Conv2d", "_target_: torch.nn.GELU", "_target_: modelfactory.data.digits"):
        assert text in out
    assert "not available" in place.run(place.without_us, "app.py", "-cn", "asking")[2]


def test_the_page_on_other_projects_runs_as_it_stands(place: Place):
    page = (ROOT / "docs" / "your_project.md").read_text()
    for name, text in re.findall(r"```(?:yaml|python)\n# (\S+)\n(.*?)```", page, re.DOTALL):
        (place.folder / "page" / name).parent.mkdir(parents=True, exist_ok=True)
        (place.folder / "page" / name).write_text(text if place.hydra == "1.3" else text.replace('version_base="1.3", ', ""))
    status, out, err = place.run(place.with_us, "page/app.py", "model=resnet", "init=orthogonal", "hydra.run.dir=.")
    assert (status, err) == (0, "") and out.endswith("parameters for 3 epochs\n"), err


@with_wheel
def test_composing_changes_nothing_for_the_program_in_whose_process_it_happens(place: Place):
    first = "import modelfactory as mf\nassert 'layers' in mf.compose('model=cnn', 'hydra/sweeper=optuna').model\n"
    program = (place.folder / "app.py").read_text().replace('"conf"', '"../conf"').replace("print(", "mf.compose('model=mlp'); print(")
    (place.folder / "composing").mkdir()
    (place.folder / "composing" / "app.py").write_text(first + program)
    for words in (["-m", "size=1,2", "hydra/sweeper=optuna"], ["-m", "+model=glob(*)"], ["--cfg", "all"], ["--info", "searchpath"]):
        assert place.run(place.with_us, "composing/app.py", *words) == place.app(*words)


@with_wheel
def test_our_own_command_has_our_groups_and_our_sweeper_there(place: Place):
    command = "import sys; from modelfactory.cli.main import main; sys.exit(main())"
    words = ["train", "-cd", "conf", "+model@mine=theirs", "hydra/sweeper=optuna", "--cfg", "all"]
    status, out, err = place.run(place.with_us, "-c", command, *words)
    assert (status, err) == (0, ""), err
    for text in ("_target_: modelfactory.data.digits", "kind: own", "modelfactory.sweeping.optuna_sweeper.OptunaSweeper"):
        assert text in out
