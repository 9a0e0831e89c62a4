"""FLOPs and output shapes of models that are run on the meta device, against torch's own counter on a real forward."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from modelfactory.planning.overview.trace import BATCH, trace


class Attending(nn.Module):
    """Attention by torch's functions and written out, and a product of weights alone, which is done once for all samples."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, add_bias_kv=True, add_zero_attn=True, batch_first=True)
        self.mixing = nn.Parameter(torch.ones(12, 12))

    def forward(self, x):
        x, _ = self.attention(x, x, x, average_attn_weights=False)
        x = nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]
        mixing = self.mixing @ self.mixing
        return torch.einsum("ntd,de->nte", torch.softmax(x @ x.transpose(1, 2), -1) @ x, mixing)


CASES = {
    "grouped and transposed": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1, groups=2), nn.ConvTranspose2d(8, 6, 3, groups=2), nn.Conv2d(6, 6, 5, groups=6)),
        (1, 4, 9, 9),
    ),
    "recurrent": (lambda: nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True), (1, 7, 6)),
    "projected": (lambda: nn.LSTM(6, 5, proj_size=3, batch_first=True), (1, 7, 6)),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (1, 5, 8)),
    "attention": (Attending, (1, 5, 12)),
    "linear and conv1d": (lambda: nn.Sequential(nn.Linear(6, 7), nn.Unflatten(1, (1, 7)), nn.Conv1d(1, 3, 2)), (1, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_flops_are_those_of_torchs_counter_on_a_batch_of_one(name: str):
    make, shape = CASES[name]
    example = torch.empty(shape, device="meta")
    with torch.device("meta"):
        model = make()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(example)  # in training mode: in evaluation mode fused kernels hide their products from the counter
    found = trace(model, example)
    assert found.failure is None
    assert sum(seen.flops for seen in found.seen.values()) == counter.get_total_flops() > 0


def test_a_trace_leaves_the_model_and_random_state_as_they_were():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.BatchNorm1d(3)).to("meta")
    model[2].eval()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    trace(model, torch.empty(2, 3, device="meta"))
    assert torch.equal(before, torch.get_rng_state())
    assert [module.training for module in model] == [True, True, False]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Choosing(nn.Module):
    def __init__(self):
        super().__init__()
        self.before, self.after = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.before(x)
        return self.after(x if x.sum() > 0 else -x)


def test_what_was_seen_before_values_are_needed_is_kept_and_why_it_ended_is_told():
    found = trace(Choosing().to("meta"), torch.empty(2, 4, device="meta"))
    assert found.failure is not None and "meta" in found.failure
    assert found.seen["before"].flops == 2 * 4 * 6 and found.seen["before"].output == torch.Size([BATCH, 6])
    assert "after" not in found.seen
