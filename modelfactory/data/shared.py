"""Data of several jobs in one process, loaded once."""

from __future__ import annotations

from dataclasses import replace

from modelfactory.data.dataset import IGNORED, Data
from modelfactory.data.spec import DataSource, load_source


class SharedData:
    """Loads data as `load_source` does, once for sources that differ in nothing but the order of the batches.

    Example:
        >>> from modelfactory.data.digits import digits
        >>> from modelfactory.data.spec import DataSpec
        >>> load = SharedData()
        >>> both = [load(DataSource(DataSpec(seed=seed), digits, {})) for seed in (0, 1)]
        >>> [data.seed for data in both], both[0].train.x is both[1].train.x
        ([0, 1], True)
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Data] = {}

    def __call__(self, source: DataSource, ignored: int = IGNORED) -> Data:
        keys = source.keys if source.keys.per_class is not None else replace(source.keys, seed=0)  # which samples it takes
        known = repr((replace(source, keys=keys), ignored))
        if known not in self._loaded:
            self._loaded[known] = load_source(source, ignored)
        return replace(self._loaded[known], seed=source.keys.seed)
