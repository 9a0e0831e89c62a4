"""Faults as they were reported of real code are found where they are, and the same modules without them are clean."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import modelfactory as mf
from modelfactory.auditing import audit as auditing
from tests.auditing.faulty import (
    Adapted,
    Experts,
    Gated,
    Language,
    Mixture,
    Multiplied,
    Registers,
    Rotary,
    ZeroCentred,
    alike,
    all_of,
    by_last_fan,
    dense,
    grouped,
    language,
    scale_by_depth,
)

IDS = torch.arange(24).reshape(2, 12)
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def of_blocks(name: str, kind: str, first: int = 0) -> set[tuple[str, str]]:
    return {(f"h.{place}.{name}", kind) for place in range(first, 6)}


def draw_block_of_heads(weight: torch.Tensor) -> None:
    weight[:32] = weight[:8].repeat(4, 1)


FAULTS = {
    "a norm missed by name": (
        language(lambda model: model.h[2].n1.weight.normal_(0, 0.02)),
        {("h.2.n1.weight", "norm_scale")},
    ),
    "a norm missed, NaN": (
        language(lambda model: model.h[2].n1.weight.fill_(torch.nan)),
        {("h.2.n1.weight", "not_finite")},
    ),
    "memory as it lay there": (
        language(lambda model: model.h[1].fc.weight.view(-1)[:50].fill_(3e34)),
        {("h.1.fc.weight", "never_written")},
    ),
    "memory of tiny numbers": (
        language(lambda model: model.h[1].fc.weight.view(-1)[:500].fill_(1e-41)),
        {("h.1.fc.weight", "never_written")},
    ),
    "one number": (language(lambda model: model.h[1].fc.weight.fill_(0.01)), {("h.1.fc.weight", "identical_units")}),
    "identical heads": (
        language(lambda model: draw_block_of_heads(model.h[1].qkv.weight)),
        {("h.1.qkv.weight", "identical_units")},
    ),
    "shards from one seed, by rows": (
        language(lambda model: model.h[1].fc.weight[64:].copy_(model.h[1].fc.weight[:64])),
        {("h.1.fc.weight", "identical_units")},
    ),
    "shards from one seed, by columns": (
        language(lambda model: model.h[1].c_proj.weight[:, 64:].copy_(model.h[1].c_proj.weight[:, :64])),
        {("h.1.c_proj.weight", "identical_units")},
    ),
    "a shard of the vocabulary twice": (
        language(lambda model: model.wte.weight[25:].copy_(model.wte.weight[:25])),
        {("wte.weight", "identical_units")},
    ),
    "a depth scale whose name matches one of two": (
        language(scale_by_depth("c_proj.weight")),
        of_blocks("proj.weight", "depth_scale"),
    ),
    "a depth scale on the wrong matrix": (language(scale_by_depth("fc.weight")), of_blocks("fc.weight", "depth_scale")),
    "a depth scale that misses the last blocks": (
        language(scale_by_depth("proj.weight", "c_proj.weight", last=4)),
        of_blocks("proj.weight", "depth_scale", 4) | of_blocks("c_proj.weight", "depth_scale", 4),
    ),
    "ends at 0 in a part of the blocks": (
        language(all_of("c_proj.weight", nn.init.zeros_, first=4)),
        of_blocks("c_proj.weight", "not_zero", 4),
    ),
    "a tied embedding of std 1": (
        language(lambda model: model.wte.weight.normal_(), tied=True),
        {("wte.weight", "tied_scale")},
    ),
    "fans of x @ W by torch": (lambda: Multiplied(nn.init.kaiming_normal_), {("up", "wrong_fans"), ("down", "wrong_fans")}),
    "fans of x @ W by torch's default": (
        lambda: Multiplied(lambda tensor: nn.init.kaiming_uniform_(tensor, a=5**0.5)),
        {("up", "wrong_fans"), ("down", "wrong_fans")},
    ),
    "fans of a stack of experts": (lambda: Experts(nn.init.kaiming_normal_), {("up", "wrong_fans"), ("down", "wrong_fans")}),
    "experts drawn alike in one tensor": (lambda: Experts(alike), {("up", "identical_units"), ("down", "identical_units")}),
    "experts copied": (
        lambda: Mixture(copied=True),
        {(f"experts.{place}.{layer}.weight", "duplicate") for place in (1, 2) for layer in (0, 2)},
    ),
    "fans of grouped convolutions": (lambda: grouped(normed=False), {("1.weight", "wrong_fans"), ("3.weight", "wrong_fans")}),
    "an adapter whose B is drawn": (lambda: Adapted(1, 1), {("lora_B.weight", "adapter")}),
    "an adapter of two zeros": (lambda: Adapted(0, 0), {("lora_B.weight", "dead")}),
    "registers of 0": (lambda: Registers(torch.zeros(1, 4, 16)), {("tokens", "identical_units")}),
    "registers repeated": (lambda: Registers(torch.randn(1, 1, 16).repeat(1, 4, 1)), {("tokens", "identical_units")}),
    "a gate that is shut": (lambda: Gated(-12.0), {("gate.bias", "saturated"), ("share", "saturated")}),
    "a norm that adds 1, at 20": (lambda: ZeroCentred(20.0), {("weight", "norm_scale")}),
    "rotary frequencies lost": (lambda: Rotary(empty=True), {("inv_freq", "empty_buffer")}),
    "a matrix of std 1": (dense(lambda model: model[0].weight.normal_()), {("0.weight", "scale")}),
    "a matrix next to 0": (dense(lambda model: model[0].weight.normal_(0, 1e-6)), {("0.weight", "scale")}),
    "a matrix of 0 in the way": (dense(lambda model: model[0].weight.zero_()), {("0.weight", "dead")}),
    "a norm's variance of 0": (dense(lambda model: model[1].running_var.zero_(), norm=True), {("1.running_var", "empty_buffer")}),
    "a norm's scale of 0.01": (dense(lambda model: model[1].weight.fill_(0.01), norm=True), {("1.weight", "norm_scale")}),
}
CLEAN = {
    "a language model": (language(), IDS),
    "a tied language model": (language(tied=True), IDS),
    "depth scales on all ends": (language(scale_by_depth("proj.weight", "c_proj.weight")), IDS),
    "all ends at 0": (language(lambda model: [nn.init.zeros_(end) for b in model.h for end in (b.proj.weight, b.c_proj.weight)]), IDS),
    "scales that fall with depth": (
        language(lambda model: [block.proj.weight.div_((2 * place + 2) ** 0.5) for place, block in enumerate(model.h)]),
        IDS,
    ),
    "a head of 0": (language(lambda model: model.head.weight.zero_()), IDS),
    "x @ W by xavier": (lambda: Multiplied(nn.init.xavier_normal_), torch.randn(8, 64)),
    "x @ W by its own fans": (lambda: Multiplied(lambda tensor: nn.init.normal_(tensor, std=tensor.shape[0] ** -0.5)), torch.randn(8, 64)),
    "experts by their own fans": (lambda: Experts(by_last_fan), torch.randn(8, 32)),
    "experts as modules": (lambda: Mixture(copied=False), torch.randn(8, 16)),
    "grouped convolutions under norms": (lambda: grouped(normed=True), IMAGES),
    "an adapter whose B is 0": (lambda: Adapted(1, 0), torch.randn(8, 32)),
    "registers drawn": (lambda: Registers(torch.randn(1, 4, 16) * 0.02), TOKENS),
    "a gate at -2": (lambda: Gated(-2.0), torch.randn(8, 16)),
    "a norm that adds 1, at 0": (lambda: ZeroCentred(0.0), torch.randn(8, 16)),
    "rotary frequencies": (lambda: Rotary(empty=False), torch.randn(2, 5, 16)),
    "dense layers by kaiming": (dense(lambda model: nn.init.kaiming_normal_(model[0].weight)), torch.randn(32, 64)),
    "norms drawn around 1": (dense(lambda model: model[1].weight.normal_(1, 0.02), norm=True), torch.randn(32, 64)),
    "a recurrent layer": (lambda: nn.LSTM(8, 16, batch_first=True), TOKENS),
    "a transposed convolution": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 4, 2), nn.ReLU(), nn.Conv2d(8, 3, 1)), IMAGES),
    "weights in half precision": (lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).bfloat16(), None),
}


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_nothing_else(fault: str):
    make, expected = FAULTS[fault]
    found = mf.audit(make())
    assert {(finding.name, finding.kind) for finding in found} == expected
    assert not found
    assert all(finding.message and finding.fix and finding.level in ("error", "warn") for finding in found)


@pytest.mark.parametrize("name", CLEAN)
def test_what_is_meant_is_clean_with_and_without_a_batch(name: str):
    make, batch = CLEAN[name]
    model = make()
    for found in (mf.audit(model), mf.audit(model, batch)):
        assert found, str(found)
        assert not found.notes


def test_copies_that_see_one_input_are_an_error_and_others_a_warning():
    levels = {finding.name: finding.level for finding in mf.audit(Mixture(copied=True))}
    assert levels["experts.1.0.weight"] == "error"
    assert levels["experts.1.2.weight"] == "warn"


def test_a_frozen_twin_is_no_duplicate():
    student = nn.Linear(16, 16)
    pair = nn.ModuleDict({"student": student, "teacher": copy.deepcopy(student).requires_grad_(False)})
    assert mf.audit(pair)


def test_every_parameter_on_the_meta_device_was_never_written():
    with torch.device("meta"):
        model = Language()
    found = mf.audit(model)
    assert {finding.name for finding in found} == {name for name, _ in model.named_parameters()}
    assert {finding.kind for finding in found} == {"never_written"}


def test_a_first_loss_is_that_of_the_targets_given():
    model = Language(tied=True)
    nn.init.normal_(model.wte.weight)
    (loss,) = (finding for finding in mf.audit(model, IDS) if finding.kind == "first_loss")
    assert "ln 50 = 3.91" in loss.message
    wide = nn.Sequential(nn.LayerNorm(64), nn.Linear(64, 10))
    nn.init.normal_(wide[1].weight, std=0.4)
    x = torch.randn(32, 64)
    assert "first_loss" in {finding.kind for finding in mf.audit(wide, (x, torch.randint(0, 10, (32,))))}
    assert "first_loss" not in {finding.kind for finding in mf.audit(wide, (x, wide(x).argmax(1)))}  # what it says already


def test_a_signal_that_vanishes_is_told_with_its_layer():
    layers = [layer for _ in range(30) for layer in (nn.Linear(32, 32), nn.ReLU())]
    for layer in layers[::2]:
        nn.init.normal_(layer.weight, std=0.05)
    model = nn.Sequential(*layers, nn.Linear(32, 4))
    (finding,) = (finding for finding in mf.audit(model, torch.randn(64, 32)) if finding.kind == "signal")
    assert finding.level == "error"
    assert "vanishes" in finding.message


def test_the_model_and_the_random_state_stay_as_they_were():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    mf.audit(model, IMAGES)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_cannot_be_traced_is_looked_at_as_far_as_it_goes():
    class Unrunnable(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)

        def forward(self, x):
            raise RuntimeError("not today")

    model = Unrunnable()
    nn.init.normal_(model.norm.weight, std=0.02)
    model.one.weight.data[0, 0] = torch.inf
    found = mf.audit(model)
    assert {(finding.name, finding.kind) for finding in found} == {("one.weight", "not_finite"), ("norm.weight", "norm_scale")}
    assert any("not today" in note for note in found.notes)


def test_a_check_that_fails_is_a_note_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch):
    def find_trouble(subject):
        raise IndexError("nothing there")
        yield

    monkeypatch.setattr(auditing, "CHECKS", (find_trouble, *auditing.CHECKS))
    layer = nn.Linear(8, 2)
    nn.init.constant_(layer.weight, 0.1)
    found = mf.audit(layer)
    assert [finding.kind for finding in found] == ["identical_units"]
    assert found.notes == ("the look at trouble: IndexError: nothing there",)


def test_a_module_without_parameters_is_clean():
    assert mf.audit(nn.ReLU())
    assert mf.audit(nn.Sequential(), torch.zeros(1, 2))


class Strided(nn.Module):
    """Six repeats of a grouped convolution of one shape, of which each third halves the picture and one looks further apart."""

    def __init__(self, groups: int = 1):
        super().__init__()
        strides = (2, 1, 1, 2, 1, 1)
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(32, 32, 3, stride, 1 + (stride == 1), 1 + (stride == 1), groups) for stride in strides)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        for block in self.blocks:
            x = block(x).relu()
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize("scheme", ["xavier_normal", "kaiming_normal", "xavier_uniform", "orthogonal", "auto"])
def test_repeats_with_other_strides_have_other_scales_by_right(scheme: str, groups: int):
    images, model = torch.zeros(2, 3, 32, 32), Strided(groups)
    mf.initialize(model, scheme, example=images)
    assert mf.audit(model), mf.audit(model)
    model.blocks[4].weight.data.mul_(0.4)
    assert [(finding.name, finding.kind) for finding in mf.audit(model)] == [("blocks.4.weight", "depth_scale")]


def test_a_law_that_one_repeat_fits_by_chance_is_no_finding():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.ReLU()) for _ in range(6)))
    for place, block in enumerate(model):  # scales of their own, of which one is that of kaiming's fan_out of the shape
        nn.init.normal_(block[0].weight, std=(2 / 432) ** 0.5 * 1.3 ** (place - 2))
    assert not [finding for finding in mf.audit(model) if finding.kind == "wrong_fans"]
    for block in model:
        nn.init.kaiming_normal_(block[0].weight, mode="fan_out")
    assert {finding.kind for finding in mf.audit(model)} >= {"wrong_fans"}
