"""What is read of small models of `transformers` is what their code says."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

pytest.importorskip("transformers")

from modelfactory.parameters.info import ParamInfo  # noqa: E402
from modelfactory.parameters.roles import describe  # noqa: E402
from tests.tracing.small_transformers import KNOWN  # noqa: E402


@pytest.fixture(scope="module", params=KNOWN)
def model(request: pytest.FixtureRequest):
    known = KNOWN[request.param]
    made, inputs = known.make()
    infos = describe(made, inputs)
    assert infos[0].model.is_read, infos[0].model.reading.graph.reason
    return known, infos


def picked(infos: list[ParamInfo], glob: str) -> list[ParamInfo]:
    found = [info for info in infos if any(fnmatchcase(name, glob) for name in info.names)]
    assert found, f"{glob} is no parameter"
    return found


def test_the_ends_of_the_branches_are_all_there_and_no_others(model):
    known, infos = model
    right = {info.name for end in known.ends for info in picked(infos, end)}
    assert {info.name for info in infos if "residual_out" in info.roles and info.parameter.ndim > 1} == right


def test_packed_projections_are_known_by_their_blocks(model):
    known, infos = model
    for glob, names in known.blocks.items():
        for info in picked(infos, glob):
            assert info.packed == names, info.name
            assert sum(part.size for part in info.parts) == info.parameter.shape[info.parts[0].axis]
    of_attention = {info.name for info in infos if set(info.packed) & {"query", "key", "value", "gate", "up"} and info.parameter.ndim > 1}
    assert of_attention == {info.name for glob in known.blocks for info in picked(infos, glob)}


def test_roles_are_those_of_the_code(model):
    known, infos = model
    for glob, role in known.roles.items():
        for info in picked(infos, glob):
            assert role in info.roles, f"{info.name}: {info.roles}"


def test_fans_count_what_is_summed_over(model):
    known, infos = model
    for glob, fan_in in known.fans.items():
        for info in picked(infos, glob):
            assert info.facts.fans[0].fan_in == fan_in, info.name


def test_nothing_but_what_the_run_leaves_out_is_unknown(model):
    _, infos = model
    unknown = [info.name for info in infos if info.roles[0] == "other"]
    assert all(name.endswith(("mask_token", "masked_spec_embed", "sinks")) for name in unknown), unknown
