"""Read what `init=NAME` stands for: the rules of conf/init/NAME.yaml."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from modelfactory.config.search_path import config_folder


@cache
def recipe_names() -> tuple[str, ...]:
    """Give every NAME of `init=NAME`, in the order of the alphabet.

    Example:
        >>> recipe_names()[:3]
        ('auto', 'bilinear', 'centred_normal')
    """
    return tuple(sorted(path.stem for path in (config_folder() / "init").glob("*.yaml")))


@cache
def recipe(name: str) -> dict[str, Any] | None:
    """Read the `init` group that a name stands for; None where there is none of that name. To be read, not changed.

    Example:
        >>> recipe("zero_head")["rules"]["head"]
        {'role': 'head', 'scheme': 'zeros'}
    """
    if name not in recipe_names():
        return None
    return yaml.safe_load((config_folder() / "init" / f"{name}.yaml").read_text(encoding="utf-8"))
