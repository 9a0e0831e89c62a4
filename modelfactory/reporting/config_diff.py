"""What differs between the configs of a sweep's jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from modelfactory.sweeping.records import Sweep


def flatten(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """A config's values by their path, as JSON; an empty mapping or list is a value, a list of plain values is one too.

    Example:
        >>> list(flatten({"a": {"b": 1, "c": []}, "d": [{"e": None}], "f": [1, 2]}))
        [('a.b', '1'), ('a.c', '[]'), ('d.0.e', 'null'), ('f', '[1, 2]')]
    """
    nested = isinstance(config, list) and any(isinstance(value, (Mapping, list)) for value in config)
    items = list(config.items()) if isinstance(config, Mapping) else list(enumerate(config)) if nested else []
    if not items:
        yield path, json.dumps(config, default=str)
    for name, value in items:
        yield from flatten(value, f"{path}.{name}" if path else str(name))


def config_table(sweep: Sweep) -> dict[str, Any]:
    """The values that are not the same in all jobs, each written once.

    Returns:
        keys: the config paths; values: the texts there are for each key; jobs: for each job, for each key the index of its
        text, -1 where its config has no such key; shared: how many keys all have alike; known: whether each job has a config.

    Example:
        >>> from pathlib import Path
        >>> from modelfactory.sweeping.records import Job
        >>> jobs = (Job(0, Path("0"), (), config={"seed": 0, "x": 1}), Job(1, Path("1"), (), config={"seed": 1, "x": 1}))
        >>> config_table(Sweep(Path("."), jobs))
        {'keys': ['seed'], 'values': [['0', '1']], 'jobs': [[0], [1]], 'shared': 1, 'known': [True, True]}
    """
    flat = [dict(flatten(job.config)) if job.config else {} for job in sweep.jobs]
    known = [values for values in flat if values]
    keys = list(dict.fromkeys(key for values in known for key in values))
    varying = [key for key in keys if len({values.get(key) for values in known}) > 1]
    texts = {key: list(dict.fromkeys(values[key] for values in known if key in values)) for key in varying}
    index = {key: {text: place for place, text in enumerate(found)} for key, found in texts.items()}
    return {
        "keys": varying,
        "values": [texts[key] for key in varying],
        "jobs": [[index[key][values[key]] if key in values else -1 for key in varying] for values in flat],
        "shared": len(keys) - len(varying),
        "known": [bool(values) for values in flat],
    }
