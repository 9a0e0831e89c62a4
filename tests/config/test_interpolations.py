"""Interpolations that have no end."""

from __future__ import annotations

import time
from typing import Any

import pytest
from omegaconf import OmegaConf

from modelfactory.config.compose import to_plain
from modelfactory.config.errors import ConfigError
from modelfactory.config.interpolations import MAX_REPEATED


def bomb(of: Any, reference: str) -> dict[str, Any]:
    """Nine keys of which each refers ten times to the one before it."""
    made: dict[str, Any] = {"a": "z"}
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        made[name] = of(reference.replace("KEY", before))
    return {"notes": made}


BOMBS = {
    "lists": bomb(lambda reference: [reference] * 10, "${notes.KEY}"),
    "mappings": bomb(lambda reference: {str(number): reference for number in range(10)}, "${notes.KEY}"),
    "relative": bomb(lambda reference: [reference] * 10, "${..KEY}"),
    "texts": bomb(lambda reference: reference * 10, "${notes.KEY}"),
    "relative texts": bomb(lambda reference: reference * 10, "${.KEY}"),
}


@pytest.mark.parametrize("kind", [dict, OmegaConf.create])
@pytest.mark.parametrize("what", BOMBS)
def test_interpolations_that_multiply_each_other_are_refused_at_once(kind: Any, what: str):
    began = time.process_time()
    with pytest.raises(ConfigError, match=rf"^notes\.\w.*is one too many: the interpolations repeat more than {MAX_REPEATED:,} values$"):
        to_plain(kind(BOMBS[what]))
    assert time.process_time() - began < 1


@pytest.mark.parametrize("reference", ["${model}", "${model.layers}", "${..fc}", "${....model}"])
def test_an_interpolation_to_where_it_stands_is_told_at_its_path(reference: str):
    config = {"model": {"layers": {"fc": {"out_features": reference}}}}
    with pytest.raises(ConfigError, match=r"^model\.layers\.fc\.out_features: .* does not resolve: ") as caught:
        to_plain(config)
    assert len(caught.value.problems) == 1


def test_what_a_person_would_repeat_resolves():
    layers = {f"act{number}": "${activation}" for number in range(2000)}
    plain = to_plain(
        {"activation": {"_target_": "torch.nn.ELU", "alpha": 0.5}, "model": {"layers": layers, "width": "${.twice}${.twice}", "twice": 4}}
    )
    assert plain["model"]["layers"]["act1999"] == {"_target_": "torch.nn.ELU", "alpha": 0.5} and plain["model"]["width"] == "44"
