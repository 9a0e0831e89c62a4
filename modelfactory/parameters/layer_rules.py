"""What a config says beside a layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Definition:
    """The `init`, `freeze`, `roles`, `blocks` and `fans` beside a layer: the rules "at definition", and what its parts are there for.

    Attributes:
        path: the config path of the layer.
        init: parameter of the layer (a glob relative to it) -> scheme.
        freeze: True or False, or None when nothing is said.
        roles: role -> globs, relative to the layer, of the parameters (or modules) that have it.
        blocks: glob of a parameter that packs several matrices -> their names.
        fans: the axes of its matrices that are summed over and come out, or those of each that a glob picks.
        tie: parameter of the layer -> the full name of the one that it is, such as a head's weight -> that of the embedding.
    """

    path: str
    init: Mapping[str, Any] = field(default_factory=dict)
    freeze: bool | None = None
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    blocks: Mapping[str, Any] = field(default_factory=dict)
    fans: Mapping[str, Any] = field(default_factory=dict)
    tie: Mapping[str, str] = field(default_factory=dict)

    @property
    def says_something(self) -> bool:
        return bool(self.init) or self.freeze is not None or bool(self.roles or self.blocks or self.fans)
