"""How many layers a config makes, told before any of them is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_LAYERS = 100_000  # that one `repeat` makes, with all that is in it: ten times the depth of the deepest published networks


def count_layers(config: Any) -> int:
    """How many modules there are in a layer of the config with itself, repeats multiplied; what is wrong with it counts as one.

    Example:
        >>> count_layers({"repeat": 3, "layers": {"fc": {}, "twice": {"repeat": 2, "_target_": "torch.nn.ReLU"}}})
        16
    """
    if not isinstance(config, Mapping):
        return 0 if config is None else 1
    layers, times = config.get("layers"), config.get("repeat")
    inside = sum(map(count_layers, layers.values())) if isinstance(layers, Mapping) else 0
    inside += 1 + count_layers(config.get("shortcut"))
    return inside * times + 1 if isinstance(times, int) and times > 1 else inside
