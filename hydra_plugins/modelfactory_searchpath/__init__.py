"""Lets Hydra find modelfactory's configs: another project can say `model=resnet` beside its own groups."""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class ModelFactorySearchPath(SearchPathPlugin):
    """Appends modelfactory's configs to the search path, unless they are on it already."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from modelfactory.config.search_path import config_folder

        folder = config_folder()
        for element in search_path.get_path():
            path = str(element.path).removeprefix("file://")
            if element.provider == "modelfactory" or (path and "://" not in path and Path(path).resolve() == folder.resolve()):
                return
        search_path.append(provider="modelfactory", path=f"file://{folder}")
