"""What is changed of Hydra still is what it was changed for: each test fails when Hydra changes there, or no longer needs the change.

Each shows what Hydra does by itself, and that it is not so in our application.
"""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import hydra
import hydra._internal.instantiate._instantiate2 as instantiate_module
import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from modelfactory.config import hydra_patches
from modelfactory.config.checked import CheckedLoader
from modelfactory.config.hydra_patches import OF_1_4, VERSION_BASE, Bases, composed_from, loading_by, main_arguments, patched, replaced
from modelfactory.config.log_config import whitelist
from modelfactory.config.registration import registered
from modelfactory.config.search_path import config_folder
from modelfactory.sweeping.optuna_sweeper import OptunaSweeper

only_1_3 = pytest.mark.skipif(OF_1_4, reason="is so in Hydra 1.3")
only_1_4 = pytest.mark.skipif(not OF_1_4, reason="is so from Hydra 1.4 on")


class Calls:
    """What the three functions that `patched` takes were called with; they do what Hydra does."""

    def __init__(self):
        self.loaded: list[list[str]] = []
        self.launched: list[Any] = []
        self.made: list[str] = []

    def load(self, compose: Any, overrides: list[str], run_mode: Any) -> DictConfig:
        self.loaded.append(list(overrides))
        return compose(overrides)

    def launch(self, make: Any, context: HydraContext, task_function: Any, config: DictConfig) -> Launcher:
        self.launched.append(task_function)
        return make(task_function)

    def plugin(self, config: DictConfig) -> DictConfig:
        self.made.append(str(config["_target_"]))
        return config

    def patched(self):
        return patched(self.load, self.launch, self.plugin)


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In which Hydra has what it sets for one program, and no logging of ours is left."""
    monkeypatch.chdir(tmp_path)
    with registered():
        yield


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[Any]:
    """Runs Hydra's own application; what its jobs got."""
    ran: list[Any] = []
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["app.py", "hydra/job_logging=none", "hydra/hydra_logging=none", *words])
    hydra.main(config_path=str(config_folder()), config_name="config", **main_arguments(whitelist()))(ran.append)()
    return ran


@contextmanager
def composing() -> Iterator[Any]:
    """A loader of our configs."""
    with hydra.initialize_config_dir(str(config_folder()), **VERSION_BASE):
        yield GlobalHydra.instance().config_loader()


def test_nothing_is_changed_before_and_after(calls: Calls):
    owners = (ConfigLoaderImpl, Plugins, JobReturn, BasicSweeper.__mro__[1], sys.modules["hydra.main"])
    before = [dict(vars(owner)) for owner in owners]
    with suppress(ZeroDivisionError), calls.patched():
        assert [dict(vars(owner)) for owner in owners] != before
        raise ZeroDivisionError
    assert [dict(vars(owner)) for owner in owners] == before


def test_an_attribute_that_hydra_has_not_is_an_error_at_once():
    with pytest.raises(KeyError, match="no_such_function"):
        with replaced(Plugins, "no_such_function", None):
            pass


@pytest.mark.parametrize("words", [(), ("-m",), ("-m", "seed=0,1"), ("--cfg", "job"), ("--help",)], ids=" ".join)
def test_every_composing_goes_through_ours(calls: Calls, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]):
    given: list[int] = []
    compose = ConfigLoaderImpl._load_configuration_impl

    def counted(*args: Any, **kwargs: Any) -> Any:
        given.append(1)
        return compose(*args, **kwargs)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counted)
    with calls.patched(), suppress(SystemExit):
        run(monkeypatch, *words)
    assert len(given) == len(calls.loaded) > 0


def test_configs_are_loaded_by_the_loader_that_is_named():
    with loading_by(CheckedLoader), composing() as loader:
        assert type(loader) is CheckedLoader
    with composing() as loader:
        assert type(loader) is ConfigLoaderImpl


def test_help_folds_a_group_of_very_many_configs(calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with suppress(SystemExit):
        run(monkeypatch, "--help")
    assert "wide_resnet50_2" in capsys.readouterr().out
    with calls.patched(), suppress(SystemExit):
        run(monkeypatch, "--help")
    shown = capsys.readouterr().out
    assert "wide_resnet50_2" not in shown and "more (`modelfactory list backbone`)" in shown
    assert "init: auto, " in shown and "zeros\n" in shown
    assert max(map(len, shown.splitlines())) < 700


def test_a_sweep_gets_its_launcher_from_us_and_plugins_their_config(calls: Calls, monkeypatch: pytest.MonkeyPatch):
    with calls.patched():
        ran = run(monkeypatch, "-m", "seed=0,1")
    assert len(ran) == 2 and len(calls.launched) == 1
    names = [f"{kind.__module__}.{kind.__name__}" for kind in (BasicSweeper, BasicLauncher)]
    assert calls.made == names


def test_a_job_that_does_not_compose_is_for_the_launcher_to_tell(calls: Calls, monkeypatch: pytest.MonkeyPatch):
    def launched(self: Any, job_overrides: Any, initial_job_idx: int) -> list[JobReturn]:
        told.append(len(job_overrides))
        return []

    told: list[int] = []
    launcher = Plugins.instance().class_name_to_class[f"{BasicLauncher.__module__}.BasicLauncher"]  # 1.3 executes the module again
    monkeypatch.setattr(launcher, "launch", launched)
    words = ("init=zeros,nothing", "-m")
    with pytest.raises(HydraException, match="init/nothing"):
        run(monkeypatch, *words)
    with calls.patched():
        run(monkeypatch, *words)
    assert told == [2]


def test_what_a_failed_job_raised_comes_without_its_overrides_printed(calls: Calls, capsys: pytest.CaptureFixture[str]):
    done = JobReturn(overrides=["seed=3"], status=JobStatus.FAILED)
    done.return_value = ZeroDivisionError("of the job")
    with pytest.raises(ZeroDivisionError):
        done.return_value  # noqa: B018
    assert "seed=3" in capsys.readouterr().err
    with calls.patched(), pytest.raises(ZeroDivisionError, match="of the job"):
        done.return_value  # noqa: B018
    assert capsys.readouterr().err == ""
    with calls.patched():
        done.status, done.return_value = JobStatus.COMPLETED, 0.5
        assert done.return_value == 0.5


def test_hydra_takes_our_sweeper_though_it_is_not_below_hydra_plugins(calls: Calls):
    with registered(OptunaSweeper), composing():
        node = ConfigStore.instance().load("hydra/sweeper/optuna.yaml").node
        with calls.patched():
            assert isinstance(Plugins.instance()._instantiate(node), OptunaSweeper)
        if not OF_1_4:
            with pytest.raises(RuntimeError, match="not the hydra_plugins package"):
                Plugins.instance()._instantiate(node)


WORDS = ("trainer=debug", "-m", "seed=0,1")


def test_options_may_stand_between_overrides(calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    with calls.patched():
        assert [config.seed for config in run(monkeypatch, *WORDS)] == [0, 1]
    if not OF_1_4:
        with pytest.raises(SystemExit):
            run(monkeypatch, *WORDS)
        assert "unrecognized arguments: seed=0,1" in capsys.readouterr().err


@only_1_4
def test_words_that_cannot_be_read_reach_the_composing(calls: Calls, monkeypatch: pytest.MonkeyPatch):
    words = ("seed", "model=[1", "hydra.mode=RUN")
    for during, reached in ((nullcontext(), 0), (calls.patched(), 1)):
        with during, pytest.raises(HydraException, match="'?seed'?"):
            run(monkeypatch, *words)
        assert len(calls.loaded) == reached
    assert set(words) <= set(calls.loaded[0])


@pytest.mark.parametrize("word", ["~data.val_fraction", "~data.split_seed"])
def test_a_key_is_left_out_of_every_job_of_a_sweep(calls: Calls, monkeypatch: pytest.MonkeyPatch, word: str):
    key, words = word.removeprefix("~"), ("-m", "seed=0,1", word)
    with calls.patched():
        assert [OmegaConf.select(config, key) for config in run(monkeypatch, *words)] == [None, None]
    (written,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides([word]), None)
    assert written == [[f"{word}=null"]]


@only_1_4
def test_hydra_by_itself_takes_a_key_to_leave_out_for_a_condition(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(HydraException, match="Could not delete"):
        run(monkeypatch, "-m", "seed=0,1", "~data.split_seed")


def test_a_callback_stops_a_run_only_with_what_is_no_exception(calls: Calls, monkeypatch: pytest.MonkeyPatch):
    from hydra.experimental.callback import Callback

    class Stop(BaseException):
        pass

    class Raises(Callback):
        def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
            raise self.error

        error: BaseException = ValueError("is a warning")

    def instantiated(self: Any, config: DictConfig | None = None) -> None:
        self.callbacks = [Raises()]

    monkeypatch.setattr("hydra._internal.callbacks.Callbacks.__init__", instantiated)
    with pytest.warns(UserWarning, match="ValueError: is a warning"):
        assert len(run(monkeypatch)) == 1
    monkeypatch.setattr(Raises, "error", Stop())
    with pytest.raises(Stop):
        run(monkeypatch)


def test_a_config_is_open_where_the_launcher_changes_it():
    with composing() as loader:
        config = loader.load_configuration("config", [], hydra.types.RunMode.RUN)
        with open_dict(config.hydra):
            config.hydra.sweep.dir = "elsewhere"
        assert config.hydra.sweep.dir == "elsewhere"


SAME_GROUPS = [
    ["seed=1"],
    ["seed=2", "+optimizer.foo=3", "optimizer.lr=0.5"],
    ["init=zeros", "seed=1"],
    ["init=zeros", "~optimizer.weight_decay"],
    ["experiment=digits_cnn", "model.width=3"],
    ["experiment=digits_cnn", "+init.rules.mine={match: '*', scheme: ones}"],
    ["hydra.searchpath=[pkg://modelfactory.conf]", "seed=1"],
]


def test_jobs_of_the_same_groups_are_composed_from_files_that_are_read_once(monkeypatch: pytest.MonkeyPatch):
    reads: list[str] = []
    load = ConfigRepository.load_config

    def counted(self: Any, config_path: str) -> Any:
        reads.append(config_path)
        return load(self, config_path)

    def config_of(loader: ConfigLoaderImpl, words: list[str]) -> str:
        reads.clear()
        return OmegaConf.to_yaml(loader.load_sweep_config(sweep, list(words)))

    monkeypatch.setattr(ConfigRepository, "load_config", counted)
    with composing() as loader:
        sweep = loader.load_configuration("config", ["seed=0,1", "hydra.sweep.dir=here"], RunMode.MULTIRUN)
        alone, num_alone = [], []
        for words in SAME_GROUPS:
            alone.append(config_of(loader, words))
            num_alone.append(len(reads))
        assert min(num_alone) > 10  # by itself Hydra reads them again for each
        bases = Bases()
        with composed_from(bases):
            together = [(config_of(loader, words), set(reads)) for words in SAME_GROUPS * 2]
        assert [config for config, _ in together] == alone * 2
        assert not any(files for _, files in together[len(SAME_GROUPS) :])
        assert len(bases.configs) == 4
        monkeypatch.setattr(hydra_patches, "MOST_BASES", 2)
        monkeypatch.setattr(hydra_patches, "MOST_WORDS", 2)
        few = Bases()
        with composed_from(few):
            assert [config_of(loader, words) for words in SAME_GROUPS * 2] == alone * 2
        assert all(0 < len(kept) <= 2 for kept in (few.configs, few.defaults, few.files, few.words))
        config_of(loader, SAME_GROUPS[0])
        assert len(reads) == num_alone[0]  # and again as Hydra does when the block is over


def test_what_a_job_composed_is_no_part_of_the_loader_that_is_sent_to_another_process():
    with loading_by(CheckedLoader), composing() as loader:
        sweep = loader.load_configuration("config", ["seed=0,1"], RunMode.MULTIRUN)
        loader.load_sweep_config(sweep, ["seed=1", "hydra.job.num=0"])
        assert "_bases" in vars(loader)
        for twin in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
            assert type(twin) is CheckedLoader and "_bases" not in vars(twin)


def test_what_is_inside_of_a_target_that_takes_a_config_is_not_made_first():
    """For the functions of this package alone: another target's layers are made first, as ever."""
    inner = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    ours = {"_target_": "modelfactory.build", "cfg": {"model": inner}}
    config = OmegaConf.create({"ours": ours, "theirs": {"_target_": "torch.nn.Sequential", "_args_": [inner]}})
    allowed: dict[str, Any] = {"_execution_whitelist_": ["modelfactory.*", "torch.*"]} if OF_1_4 else {}
    made = instantiate(config, **allowed)
    assert isinstance(made.ours, torch.nn.Linear) and isinstance(made.theirs[0], torch.nn.Linear)
    assert getattr(instantiate_module.instantiate_node, "for_configs", None), "Hydra calls another function"
