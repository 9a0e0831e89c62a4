"""What a config says beside a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Definition:
    """The `init` and `freeze` beside a layer: the rules "at definition".

    Attributes:
        path: the config path of the layer.
        init: parameter of the layer (a glob relative to it) -> scheme.
        freeze: True or False, or None when nothing is said.
    """

    path: str
    init: Mapping[str, Any] = field(default_factory=dict)
    freeze: bool | None = None

    @property
    def says_something(self) -> bool:
        return bool(self.init) or self.freeze is not None
