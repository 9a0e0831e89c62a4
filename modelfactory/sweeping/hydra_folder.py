"""What Hydra leaves in the folder of a job, for one that is trained with others: the launcher is called for the first of them alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from modelfactory.config.compose import plain_yaml
from modelfactory.sweeping.folders import quoted
from modelfactory.sweeping.records import Job

_Key = tuple[int, tuple[str, ...], Path]


class HydraFolders:
    """The files of jobs, as texts: kept when a job is composed and checked, and left when it is to be trained.

    Args:
        load: composes the config of a job from its overrides.
    """

    def __init__(self, load: Callable[[list[str]], DictConfig]):
        self._load = load
        self._kept: dict[_Key, dict[str, str]] = {}

    def keep(self, job: Job, config: DictConfig, root: Path) -> None:
        """Keep the files of a job, which was composed without the word for its folder in the sweep's `root`."""
        found: Any = OmegaConf.to_container(config, enum_to_str=True)
        own = found["hydra"]
        own["sweep"]["subdir"] = os.path.relpath(job.folder, root)
        own["overrides"]["hydra"].insert(-1, folder_override(job.folder, root))
        self._kept[_key(job)] = _files(found)

    def leave(self, job: Job, words: Sequence[str]) -> None:
        """Write the files of a job; `words` are those to compose it from, where it goes on in a folder of before."""
        files = self._kept.pop(_key(job), None)
        if files is None:
            files = _files(OmegaConf.to_container(self._load(list(words)), enum_to_str=True))
        for name, text in files.items():
            place = job.folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")

    def forget(self) -> None:
        """Let go of the files of jobs for which the launcher is called: Hydra writes those itself."""
        self._kept.clear()


def folder_override(folder: Path, root: Path) -> str:
    """The override by which a job is told its folder, so that it is the one that is recorded."""
    return f"hydra.sweep.subdir={quoted(os.path.relpath(folder, root))}"


def number_override(number: int) -> str:
    """The override that tells a job its number when its config is composed, where Hydra would tell it afterwards."""
    return f"hydra.job.num={number}"


def _key(job: Job) -> _Key:
    return job.number, job.overrides, job.folder


def _files(config: Any) -> dict[str, str]:
    """The files, below the job's folder, with what Hydra writes into each."""
    own = config["hydra"]
    folder = own["output_subdir"]
    if folder is None:
        return {}
    parts = {"config": {key: value for key, value in config.items() if key != "hydra"}, "hydra": {"hydra": own}}
    parts["overrides"] = own["overrides"]["task"]
    return {f"{folder}/{name}.yaml": plain_yaml(part) for name, part in parts.items()}
