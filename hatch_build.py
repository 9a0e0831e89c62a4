"""Puts conf/ into the wheel as modelfactory/conf, and the project that `modelfactory new` writes beside it.

An editable install reads both where they are, so that no copy grows stale.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            build_data["force_include"]["conf"] = "modelfactory/conf"
            build_data["force_include"]["examples/other_project"] = "modelfactory/other_project"
