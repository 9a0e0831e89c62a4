"""What the guard leaves to configs: Hydra's ordinary use, and what trusted Python or the environment allows."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import modelfactory as mf
from modelfactory.config.errors import ConfigError
from modelfactory.config.hydra_patches import OF_1_4
from modelfactory.config.target import trusted, trusted_variables
from tests.contract.conftest import run

LOG = "+hydra.job_logging.handlers.own={class: %s, filename: '%s'}"
ROOT = "hydra.job_logging.root.handlers=[console,file,own]"
COLOURED = """defaults: [small, _self_]
hydra:
  job_logging:
    formatters: {colour: {'()': colorlog.ColoredFormatter, format: '%(log_color)s%(message)s', log_colors: {INFO: green}}}
    handlers: {console: {formatter: colour}, own: {class: logging.FileHandler, filename: '${hydra.runtime.output_dir}/own.log', mode: w}}
    loggers: {queue: {level: DEBUG, propagate: true}}
    root: {handlers: [console, file, own], level: INFO}
  callbacks: {kept: {_target_: trusted_here.Thing, more: {names: [a, b], inner: {_target_: trusted_here.Thing}}}}
"""
HYDRAS_OWN = (  # which 1.4 has no more
    ("+hydra.callbacks.x._target_=hydra.experimental.callbacks.LogJobReturnCallback",),
    ("+hydra.callbacks.x._target_=hydra.experimental.callbacks.PickleJobInfoCallback",),
)
ORDINARY = [
    (),
    ("hydra/job_logging=none",),
    ("hydra/job_logging=disabled", "hydra/hydra_logging=disabled"),
    ("hydra/job_logging=stdout", "hydra/hydra_logging=none"),
    (LOG % ("logging.FileHandler", "${hydra.runtime.output_dir}/own.log"), ROOT),
    (LOG % ("logging.FileHandler", "${hydra.run.dir}/deep/../own.log"), ROOT, "hydra.run.dir=run/more"),
    (LOG % ("logging.handlers.RotatingFileHandler", "${hydra:run.dir}/own.jsonl"), ROOT),
    (LOG % ("logging.FileHandler", "own.log"), ROOT),
    (LOG % ("logging.FileHandler", "deep/../own.log"), ROOT, "hydra.job.chdir=true"),
    (LOG % ("logging.FileHandler", "own.log"), ROOT, "hydra.run.dir=."),
    ("hydra.job.chdir=true",),
    ("hydra.output_subdir=null",),
    ("hydra.output_subdir=about/it",),
    ("hydra.run.dir={here}/some where/else",),
    ("hydra.verbose=[hydra,modelfactory]",),
    *(() if OF_1_4 else HYDRAS_OWN),
    ("+hydra.callbacks.x={_target_: trusted_here.Thing, more: {deep: [1, a]}}",),
    ("hydra.searchpath=[pkg://modelfactory,file://own,own]",),
    ("+hydra.job.env_set={CUDA_VISIBLE_DEVICES: '', OMP_NUM_THREADS: '1', WANDB_MODE: offline, MLFLOW_TRACKING_URI: 'file:mlruns'}",),
    ("hydra/launcher=submitit_local", "hydra/sweeper=optuna"),
    ("hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", "hydra.launcher.gpus_per_node=1"),
    ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.launcher.pre_dispatch=1.5*n_jobs"),
    ("hydra/launcher=ray_cluster", "hydra.launcher.ray.remote.num_cpus=2", "+hydra.launcher.ray.init.include_dashboard=false"),
    ("-cn", "colour"),
]


@pytest.mark.parametrize("words", ORDINARY, ids=" ".join)
def test_ordinary_use_of_hydra_goes_on(here: Path, words: tuple[str, ...]):
    (here / "own" / "colour.yaml").write_text(COLOURED)
    environment = dict(os.environ)
    assert len(run(*(word.replace("{here}", str(here)) for word in words))) == 1
    assert dict(os.environ) == environment


@pytest.mark.parametrize("name", ["${hydra.runtime.output_dir}/own.log", "own.log", "../run/own.log"])
def test_a_log_of_ones_own_is_written_below_the_run_directory(here: Path, name: str):
    run(LOG % ("logging.FileHandler", name), ROOT)
    logging.getLogger("modelfactory").warning("it is written")
    assert (here / "run" / "own.log").read_text() == "it is written\n" and not (here / "own.log").exists()
    assert (here / "run" / ".hydra" / "hydra.yaml").exists()


def test_variables_that_python_or_the_environment_adds_may_be_set(here: Path, monkeypatch: pytest.MonkeyPatch):
    word = "+hydra.job.env_set={MY_CACHE: here, OTHER: x}"
    with pytest.raises(ConfigError, match=r"(?s)hydra.job.env_set.MY_CACHE: is refused.*hydra.job.env_set.OTHER: is refused"):
        run(word)
    mf.trust(variables=["MY_*"])
    with pytest.raises(ConfigError, match="^hydra.job.env_set.OTHER: is refused"):
        run(word)
    monkeypatch.setenv("MODELFACTORY_TRUST_VARIABLES", " OTHER,")
    assert trusted_variables() == ("MY_*", "OTHER") and len(run(word)) == 1
    mf.trust(variables="*")
    with pytest.raises(ConfigError, match="hydra.job.env_set.MODELFACTORY_TRUST: is refused: what is trusted is for Python"):
        run("+hydra.job.env_set.MODELFACTORY_TRUST=payload")
    for wrong in ("a b", "1x", "", "X=1"):
        with pytest.raises(ValueError, match="is not the name of an environment variable"):
            mf.trust(variables=[wrong])


def test_a_plugin_that_is_trusted_may_be_told_what_could_run_code(here: Path, monkeypatch: pytest.MonkeyPatch):
    words = ("hydra/launcher=submitit_slurm", "hydra.launcher.setup=[module load cuda]", "hydra.launcher.submitit_folder=elsewhere")
    with pytest.raises(ConfigError, match="MODELFACTORY_TRUST=hydra_plugins.hydra_submitit_launcher"):
        run(*words)
    monkeypatch.setenv("MODELFACTORY_TRUST", "hydra_plugins.hydra_submitit_launcher")
    assert len(run(*words)) == 1


def test_a_package_is_searched_for_configs_once_it_is_trusted(here: Path):
    with pytest.raises(ConfigError, match='say modelfactory.trust\\("payload"\\) in Python or set MODELFACTORY_TRUST=payload'):
        mf.compose("hydra.searchpath=[pkg://payload]")
    assert "payload" not in sys.modules
    mf.trust("payload")
    assert "payload" in trusted()
    with pytest.warns(UserWarning, match="path=payload is not available"):  # a module, not a package with configs
        mf.compose("hydra.searchpath=[pkg://payload]")
    assert (here / "ran").exists()


def test_what_a_config_shows_is_as_it_was_written(here: Path, capsys: pytest.CaptureFixture[str]):
    """Nothing is resolved for a page that Hydra only prints."""
    for words in (("--cfg", "hydra"), ("--cfg", "all")):
        run(*words, "+hydra.job.env_set.WANDB_NAME=${seed}", "hydra.job.name=${nowhere}")
        assert "filename: ${hydra.runtime.output_dir}/${hydra.job.name}.log" in capsys.readouterr().out


def test_every_refusal_of_the_node_is_told_at_once(here: Path):
    with pytest.raises(ConfigError) as refusal:
        run("+hydra.job.env_set.CXX=x", "hydra.output_subdir=../else", "+hydra.callbacks.x._target_=os.system", "hydra.job.name=../x")
    told: list[Any] = [problem.path for problem in refusal.value.problems]
    assert sorted(told) == [
        "hydra.callbacks.x._target_",
        "hydra.job.env_set.CXX",
        "hydra.job_logging.handlers.file.filename",
        "hydra.output_subdir",
    ]
