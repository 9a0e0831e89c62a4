"""Faults as they were reported of public code in 2025 and 2026: each is found, and the same module without it is clean."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.auditing.intended import find_intended_scale
from tests.auditing.faulty import ZeroCentred, language
from tests.auditing.reported import (
    Always,
    Bottleneck,
    Buffered,
    Distilled,
    Looked,
    Merged,
    Never,
    Optional,
    PackedGates,
    Placed,
    Queries,
    SelfDistilled,
    multilayer,
    recurrent,
)

IDS = torch.arange(24).reshape(2, 12)
WIDE, NARROW = (
    torch.randn(8, 32, generator=torch.Generator().manual_seed(0)),
    torch.randn(8, 16, generator=torch.Generator().manual_seed(1)),
)
TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
DEEP = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
FREQUENCIES = 10000 ** -(torch.arange(16) / 16)
WAVES = torch.outer(torch.arange(12).float(), FREQUENCIES)
trunc = nn.init.trunc_normal_

Made = Callable[[], nn.Module]
Case = tuple[Made, Made, torch.Tensor, set[tuple[str, str]]]


def all_of(names: str, kind: str) -> set[tuple[str, str]]:
    return {(name, kind) for name in names.split()}


def of_blocks(*names: str, kind: str) -> set[tuple[str, str]]:
    return {(f"h.{place}.{name}", kind) for place in range(6) for name in names}


def blocks(name: str, do: Callable[[torch.Tensor], object]) -> Made:
    return language(lambda model: [do(block.get_parameter(name)) for block in model.h])


def twice(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("proj.weight"):
            parameter.mul_(12**-0.5 if ".proj." in name else 1 / 12)


def once(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if name.endswith("proj.weight"):
            parameter.mul_(12**-0.5)


LAYERS = "0.weight 2.weight 4.weight"
REPORTED: dict[str, Case] = {
    "a normal cut at one std": (
        multilayer(lambda weight: trunc(weight, std=0.125, a=-0.125, b=0.125)),
        multilayer(lambda weight: trunc(weight, std=0.125, a=-0.25, b=0.25)),
        DEEP,
        all_of(LAYERS, "truncated"),
    ),
    "bounds in units of 1 that cut all": (
        multilayer(lambda weight: trunc(weight, std=0.125, a=-0.02, b=0.02)),
        multilayer(lambda weight: trunc(weight, std=0.125)),  # these cut nothing, and harm nothing
        DEEP,
        all_of(LAYERS, "truncated"),
    ),
    "a depth scale whose name never matched": (Never, Always, IDS, of_blocks("proj.weight", "c_proj.weight", kind="depth_scale")),
    "a depth scale done twice": (language(twice), language(once), IDS, of_blocks("c_proj.weight", kind="depth_scale")),
    "a teacher drawn apart": (
        lambda: SelfDistilled(False, "student", "teacher"),
        lambda: SelfDistilled(True, "student", "teacher"),
        NARROW,
        all_of("teacher.0.weight teacher.0.bias teacher.3.weight teacher.3.bias", "teacher"),
    ),
    "a key encoder drawn apart": (
        lambda: SelfDistilled(False, "encoder_q", "encoder_k"),
        lambda: SelfDistilled(True, "encoder_q", "encoder_k"),
        NARROW,
        all_of("encoder_k.0.weight encoder_k.0.bias encoder_k.3.weight encoder_k.3.bias", "teacher"),
    ),
    "a momentum teacher drawn apart that no one froze": (
        lambda: SelfDistilled(False, "backbone", "momentum_backbone", frozen=False),
        lambda: SelfDistilled(True, "backbone", "momentum_backbone", frozen=False),
        NARROW,
        all_of("momentum_backbone.0.weight momentum_backbone.0.bias momentum_backbone.3.weight momentum_backbone.3.bias", "teacher"),
    ),
    "queries of 0": (
        lambda: Queries(torch.zeros(1, 5, 16)),
        lambda: Queries(torch.zeros(1, 5, 16), positions=True),
        TOKENS,
        all_of("queries", "identical_units"),
    ),
    "an adapter in its matrix whose B is drawn": (lambda: Merged(0.1, 0.1), lambda: Merged(0.1, 0), WIDE, all_of("lora_B", "adapter")),
    "an adapter in its matrix of two zeros": (lambda: Merged(0, 0), lambda: Merged(0, 0.1), WIDE, all_of("lora_B", "dead")),
    "an adapter of an embedding": (lambda: Looked(1, 1), lambda: Looked(1, 0), IDS, all_of("second.weight", "adapter")),
    "an adapter of an embedding of two zeros": (lambda: Looked(0, 0), lambda: Looked(0, 1), IDS, all_of("second.weight", "dead")),
    "a bottleneck in a frozen model": (lambda: Bottleneck(1), lambda: Bottleneck(0.01), WIDE, all_of("up.weight", "adapter")),
    "a forget gate stuck open, packed": (lambda: PackedGates(10.0), lambda: PackedGates(2.0), NARROW, all_of("gates.bias", "saturated")),
    "a forget gate stuck open": (recurrent(nn.LSTM, 12.0), recurrent(nn.LSTM, 1.0), TOKENS, all_of("bias_hh_l0", "saturated")),
    "an update gate stuck shut": (
        recurrent(nn.GRU, -12.0),
        recurrent(nn.GRU, torch.linspace(0, 8, 16)),  # as chrono draws them
        TOKENS,
        all_of("bias_hh_l0", "saturated"),
    ),
    "a norm that adds 1, at 1": (lambda: ZeroCentred(1.0), lambda: ZeroCentred(0.0), NARROW, all_of("weight", "norm_scale")),
    "frequencies of memory": (
        lambda: Buffered("inv_freq", torch.cat([FREQUENCIES[:8], torch.full((8,), 8e-45)])),
        lambda: Buffered("inv_freq", FREQUENCIES),
        IDS,
        all_of("inv_freq", "empty_buffer"),
    ),
    "frequencies below 0": (
        lambda: Buffered("inv_freq", FREQUENCIES - 0.5),
        lambda: Buffered("inv_freq", torch.cat([FREQUENCIES[:8], torch.zeros(8)])),  # positions on a part alone
        IDS,
        all_of("inv_freq", "empty_buffer"),
    ),
    "waves of memory": (
        lambda: Buffered("cos", WAVES.cos() * 1e12),
        lambda: Buffered("cos", WAVES.cos()),
        IDS,
        all_of("cos", "empty_buffer"),
    ),
    "positions of memory": (
        lambda: Buffered("position_ids", torch.arange(16) - 2**40),
        lambda: Buffered("position_ids", torch.arange(16)),
        IDS,
        all_of("position_ids", "empty_buffer"),
    ),
    "positions all alike": (
        lambda: Buffered("position_ids", torch.full((16,), 7)),
        lambda: Buffered("position_ids", torch.arange(16)),
        IDS,
        all_of("position_ids", "empty_buffer"),
    ),
    "a table of waves of 0": (
        lambda: Buffered("pe", torch.zeros(12, 16)),
        lambda: Buffered("pe", WAVES.sin()),
        IDS,
        all_of("pe", "empty_buffer"),
    ),
}


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("fault", REPORTED)
def test_a_reported_fault_is_found_and_nothing_else(fault: str):
    make, _, _, expected = REPORTED[fault]
    assert {(finding.name, finding.kind) for finding in mf.audit(make())} == expected


@pytest.mark.parametrize("fault", REPORTED)
def test_the_module_without_its_fault_is_clean(fault: str):
    _, make, batch, _ = REPORTED[fault]
    model = make()
    for found in (mf.audit(model), mf.audit(model, batch)):
        assert found, str(found)
        assert not found.notes


CLEAN = {
    "a depth scale behind a setting that is off": (Optional, IDS),
    "a target that is another network": (Distilled, NARROW),
    "registers of 0 with positions": (Placed, TOKENS),
    "a bottleneck in a model that trains": (lambda: Bottleneck(1, frozen=False), WIDE),
    "a uniform draw by fans": (multilayer(lambda weight: nn.init.kaiming_uniform_(weight, a=5**0.5)), DEEP),
    "a uniform draw of the scale of its fans": (multilayer(lambda weight: nn.init.uniform_(weight, -0.2, 0.2)), DEEP),
    "a normal cut at two stds": (blocks("fc.weight", lambda weight: trunc(weight, std=0.02, a=-0.04, b=0.04)), IDS),
    "a value that an old trunc_normal_ gave at its bound": (blocks("fc.weight", lambda weight: weight.view(-1)[7].fill_(2.0)), IDS),
    "twin encoders": (lambda: nn.ModuleDict({"image": nn.Linear(16, 16), "text": nn.Linear(16, 16)}), None),
}


@pytest.mark.parametrize("name", CLEAN)
def test_what_looks_like_a_fault_and_is_meant_is_clean(name: str):
    make, batch = CLEAN[name]
    found = mf.audit(make(), batch)
    assert found, str(found)


def test_a_pretrained_teacher_is_another_model_on_purpose():
    model = SelfDistilled(False, "student", "teacher")
    with torch.no_grad():
        for parameter in model.teacher.parameters():  # as training leaves it
            parameter.add_(torch.randn_like(parameter) * 0.3)
    assert mf.audit(model)


def test_a_trainable_twin_of_a_student_is_no_duplicate():
    assert mf.audit(SelfDistilled(True, "net", "net_ema", frozen=False))
    assert {finding.kind for finding in mf.audit(SelfDistilled(True, "one", "other", frozen=False))} == {"duplicate"}


def test_the_fix_of_a_teacher_makes_it_its_student():
    model = SelfDistilled(False, "student", "teacher")
    (fix,) = {finding.fix for finding in mf.audit(model)}
    exec(fix, {"mf": mf, "model": model})  # noqa: S102
    assert mf.audit(model)


def test_what_the_code_means_to_scale_is_told_with_its_test():
    found = find_intended_scale(Never())
    assert found == ("Never.init_by_name", "name == 'c_proj.weight'")
    (message,) = {finding.message.partition(",")[2] for finding in mf.audit(Never()) if finding.name == "h.0.proj.weight"}
    assert "Never.init_by_name scales by depth `if name == 'c_proj.weight'`" in message


def test_code_that_cannot_be_read_is_no_trouble(monkeypatch: pytest.MonkeyPatch):
    def no_source(method: object) -> str:
        raise OSError("source code not available")

    monkeypatch.setattr(inspect, "getsource", no_source)
    assert find_intended_scale(Never()) is None
    assert mf.audit(Never())


def test_the_head_of_a_first_loss_is_the_one_whose_output_it_is():
    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.norm = nn.Linear(16, 64), nn.LayerNorm(64)
            self.aux, self.head = nn.Linear(64, 10), nn.Linear(64, 10)
            nn.init.normal_(self.head.weight, std=0.4)

        def forward(self, x):
            x = self.norm(self.body(x))
            aux = self.aux(x)
            return self.head(x), aux

    found = [finding.name for finding in mf.audit(Auxiliary(), NARROW) if finding.kind == "first_loss"]
    assert found == ["head.weight"]


class HeldBack(nn.Module):
    """Tokens that reach the class token through scales of layers that start next to 0, as in CaiT."""

    def __init__(self, start: float):
        super().__init__()
        self.embed, self.norm, self.out, self.head = nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.token, self.scale = nn.Parameter(torch.randn(1, 16) * 0.02), nn.Parameter(torch.full((16,), start))
        self.middle = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.middle(torch.relu(self.embed(x))))
        return self.head(self.norm(self.token + self.scale * self.out(x)))


@pytest.mark.parametrize("start", [1e-5, 1e-6, 0.1])
def test_a_gradient_that_a_scale_of_a_layer_holds_back_is_meant(start: float):
    found = mf.audit(HeldBack(start), torch.randn(32, 16))
    assert not [finding for finding in found if "the gradient vanishes" in finding.message], str(found)


def test_of_a_large_batch_as_many_inputs_are_looked_at_as_it_takes():
    seen: list[int] = []
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    model.register_forward_hook(lambda module, args, output: None if output.is_meta else seen.append(len(output)))
    for batch in (torch.randn(256, 16), (torch.randn(256, 16), torch.randint(0, 4, (256,)))):
        assert mf.audit(model, batch)
    assert set(seen) == {32}
