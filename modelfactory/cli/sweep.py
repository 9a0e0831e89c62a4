"""Run a sweep from Python or a notebook, as `modelfactory train -m` does, and rank it."""

from __future__ import annotations

import os
from pathlib import Path

from modelfactory.cli.hydra_app import run_application
from modelfactory.cli.main import check_config, train_config
from modelfactory.config.errors import ConfigError
from modelfactory.reporting.report import Report, report
from modelfactory.sweeping.folders import quoted


def sweep(*overrides: str, folder: str | os.PathLike[str] | None = None, config_dir: str | os.PathLike[str] | None = None) -> Report:
    """Train every job of a sweep, each in a process of its own, and rank its schemes; jobs that failed are named in the report.

    The same call goes on with a sweep that was interrupted.

    Args:
        overrides: as after `modelfactory train -m`: "init=kaiming_normal,xavier_normal", "seed=0,1,2".
        folder: where the sweep goes; None: multirun/DATE/TIME.
        config_dir: a project's own folder of configs, beside ours.

    Raises:
        ConfigError: the config of any job is wrong; none has been started then.

    Example:
        >>> sweep("init=zeroes,ones")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        modelfactory.config.errors.ConfigError: init: 'zeroes' is not a config of init; did you mean 'zeros'? (in 1 of 2 jobs, ...)
    """
    words = ["-m", *(["--config-dir", str(config_dir)] if config_dir is not None else []), *overrides]
    if folder is not None:
        words.append(f"hydra.sweep.dir={quoted(str(Path(folder).resolve()))}")
    folders: list[Path] = []
    try:
        run_application(train_config, words, check_config, folders.append)
    except ConfigError:
        raise
    except Exception:
        if not folders:  # else the jobs that failed are in the report
            raise
    return report(folders[0])
