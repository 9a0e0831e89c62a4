"""Where samples of a batch meet, told from one run on the meta device, for what people write in a forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelfactory.model.batch_axis import BatchAxis, TooLong, batch_for


class Forward(nn.Module):
    """A module with one layer and a forward that is given."""

    def __init__(self, function: Callable[..., Any], layer: nn.Module | None = None):
        super().__init__()
        self.function, self.layer = function, layer

    def forward(self, x: Tensor) -> Any:
        return self.function(x) if self.layer is None else self.function(x, self.layer)


def written(x: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
    out = torch.zeros(x.shape[0], 9, 8)
    for time in range(9):
        out[:, time] = part(x[:, time])
    return out


def recurrent(x: Tensor, cell: nn.Module) -> Tensor:
    h = torch.zeros(x.shape[0], 6)
    for time in range(9):
        h = cell(x[:, time], h)
    return h


def encoder(**arguments: Any) -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, **arguments), 2, enable_nested_tensor=False)


APART: dict[str, Any] = {
    name: (Forward(*made), (9, 8))
    for name, made in {
        "an LSTM that is batch first": (lambda x, lstm: lstm(x)[0][:, -1], nn.LSTM(8, 6, batch_first=True)),
        "its last state": (lambda x, lstm: lstm(x)[1][0][-1], nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)),
        "an LSTM between transposes": (lambda x, lstm: lstm(x.transpose(0, 1))[0].transpose(0, 1), nn.LSTM(8, 6)),
        "a GRU after a permute": (lambda x, gru: gru(x.permute(1, 0, 2))[0][-1], nn.GRU(8, 6)),
        "attention that is batch first": (lambda x, attend: attend(x, x, x)[0], nn.MultiheadAttention(8, 2, batch_first=True)),
        "an encoder that is batch first": (lambda x, encode: encode(x), encoder(batch_first=True)),
        "an encoder after a transpose": (lambda x, encode: encode(x.transpose(0, 1)).mean(0), encoder()),
        "a transformer": (lambda x, both: both(x, x), nn.Transformer(8, 2, 1, 1, 16, batch_first=True)),
        "fused attention": (lambda x: F.scaled_dot_product_attention(x, x, x),),
        "attention by hand": (lambda x: (x @ x.mT).softmax(-1) @ x,),
        "einsum": (lambda x: torch.einsum("ntd,nsd->nts", x, x),),
        "heads in the batch": (lambda x: x.view(-1, 9, 2, 4).transpose(1, 2).reshape(-1, 9, 4).mean(1).view(-1, 2, 4),),
        "places in the batch": (lambda x, fc: fc(x.transpose(0, 1).reshape(-1, 8)).view(9, -1, 6).transpose(0, 1), nn.Linear(8, 6)),
        "a softmax over time": (lambda x: x.softmax(1),),
        "a norm of each": (lambda x: F.normalize(x.flatten(1)),),
        "layers by turns": (lambda x: x.flip(1).roll(1, 2).cumsum(-1),),
        "cells": (recurrent, nn.GRUCell(8, 6)),
        "writes": (lambda x: written(x, lambda part: part * 2),),
        "a loop over the samples": (lambda x, fc: torch.stack([fc(sample) for sample in x]), nn.Linear(8, 6)),
        "a loop by numbers": (lambda x, fc: torch.cat([fc(x[place : place + 1]) for place in range(len(x))]), nn.Linear(8, 6)),
        "a loop over a split": (lambda x, fc: torch.cat([fc(part) for part in x.split(1)]), nn.Linear(8, 6)),
        "one step of each": (lambda x: x[torch.arange(x.shape[0]), 3],),
        "a loss beside it": (lambda x: (x.sum(-1), x.mean()),),
        "a loss beside it by name": (lambda x: {"logits": x.sum(-1), "loss": x.std()},),
        "statistics that are kept": (lambda x, norm: (norm.running_mean.add_(x.mean((0, 1)).mean() * 0), x * 2)[1], nn.BatchNorm1d(9)),
        "batch norm": (lambda x, norm: norm(x), nn.BatchNorm1d(9)),
        "batch norm without statistics": (lambda x, norm: norm(x), nn.BatchNorm1d(9, track_running_stats=False)),
        "dropout": (lambda x: F.dropout(x, training=True),),
        "shapes of it": (lambda x: x * torch.ones_like(x).mean() * x.new_ones(3).sum(),),
    }.items()
} | {
    "a convolutional net": (
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        (3, 8, 8),
    ),
    "norms of images": (
        nn.Sequential(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Upsample(scale_factor=2), nn.PixelShuffle(2)),
        (4, 6, 6),
    ),
}

MET: dict[str, tuple[nn.Module, str]] = {
    name: (Forward(*made), how)
    for name, (made, how) in {
        "an LSTM": ((lambda x, lstm: lstm(x)[0][:, -1], nn.LSTM(8, 6)), "lstm takes the batch for time"),
        "its last step": ((lambda x, lstm: lstm(x)[0][-1], nn.LSTM(8, 6)), "lstm takes the batch for time"),
        "a GRU": ((lambda x, gru: gru(x)[0], nn.GRU(8, 6)), "gru takes the batch for time"),
        "an RNN": ((lambda x, rnn: rnn(x)[0], nn.RNN(8, 6)), "rnn_tanh takes the batch for time"),
        "a turned LSTM": ((lambda x, lstm: lstm(x.transpose(0, 1))[0], nn.LSTM(8, 6, batch_first=True)), "lstm takes the batch for time"),
        "attention": ((lambda x, attend: attend(x, x, x)[0], nn.MultiheadAttention(8, 2)), "attention takes the batch for the positions"),
        "an encoder": ((lambda x, encode: encode(x), encoder()), "attention takes the batch for the positions"),
        "turned attention": (
            (lambda x: F.scaled_dot_product_attention(*(x.transpose(0, 1),) * 3).transpose(0, 1),),
            "attention takes the batch for the positions",
        ),
        "similarities": ((lambda x: x.flatten(1) @ x.flatten(1).T,), "matmul pairs the samples"),
        "einsum": ((lambda x: torch.einsum("ntd,mtd->nm", x, x),), "einsum pairs the samples"),
        "the batch's mean": ((lambda x: x - x.mean(0),), "mean takes samples together"),
        "the largest of all": ((lambda x: x / x.abs().max(),), "max takes samples together"),
        "the spread of a minibatch": ((lambda x: x * x.std(0, keepdim=True).mean(),), "std takes samples together"),
        "a softmax": ((lambda x: torch.softmax(x, dim=0),), "softmax works along the batch"),
        "a softmax that chooses": ((lambda x: F.softmax(x, _stacklevel=5),), "softmax works along the batch"),
        "a softmax of the turned": ((lambda x: x.flatten(1).T.softmax(1).T,), "softmax works along the batch"),
        "a running sum": ((lambda x: x.cumsum(0),), "cumsum works along the batch"),
        "a flip": ((lambda x: x.flip(0),), "flip works along the batch"),
        "a roll": ((lambda x: x.roll(1, 0),), "roll works along the batch"),
        "a norm": ((lambda x: F.normalize(x, dim=0),), "normalize works along the batch"),
        "the largest in order": ((lambda x: x.topk(x.shape[0], dim=0)[0],), "topk works along the batch"),
        "neighbours": ((lambda x: torch.cat([x[1:], x[:1]]),), "getitem takes samples together, or some of them out"),
        "the first": ((lambda x: x - x[0],), "sub puts one sample to others"),
        "another order": ((lambda x: torch.stack([x[place] for place in reversed(range(len(x)))]),), "stack puts one sample to others"),
        "a view in place of a transpose": ((lambda x, lstm: lstm(x.reshape(9, -1, 8))[0], nn.LSTM(8, 6)), "reshape cuts the batch"),
        "writes": ((lambda x: written(x, lambda part: part - part.mean(0)),), "mean takes samples together"),
        "nothing but a mean": ((lambda x: x.mean(),), "mean takes samples together"),
    }.items()
}


def follow(model: nn.Module, shape: tuple[int, ...]) -> BatchAxis:
    model = model.to("meta").eval()
    run = BatchAxis(batch_for(model, shape))
    run.follow(model, torch.empty(run.batch, *shape, device="meta"))
    return run


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("what", APART)
def test_samples_that_stay_apart_do_not_meet(what: str):
    assert follow(*APART[what]).meeting is None


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("what", MET)
def test_samples_that_meet_are_told_with_where_and_how(what: str):
    model, how = MET[what]
    meeting = follow(model, (9, 8)).meeting
    assert meeting is not None and meeting.how.startswith(how)


def test_a_meeting_names_the_innermost_module_and_the_shape():
    meeting = follow(Forward(lambda x, encode: encode(x), encoder()), (9, 8)).meeting
    assert meeting is not None
    assert (meeting.layer, meeting.kind, meeting.shape) == ("layer.layers.0.self_attn", "MultiheadAttention", "[N, 9, 8]")


def test_a_forward_without_end_is_given_up():
    def forever(x: Tensor) -> Tensor:
        while True:
            x = x + 1

    with pytest.raises(TooLong):
        follow(Forward(forever), (2,))


def test_nothing_is_left_of_a_run():
    model, state = Forward(lambda x, fc: fc(x), nn.Linear(8, 6)), torch.random.get_rng_state()
    follow(model, (9, 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_cost_is_that_of_one_sample():
    cost = follow(nn.Sequential(nn.Flatten(), nn.Linear(72, 50), nn.Linear(50, 10)), (9, 8)).cost
    assert cost == pytest.approx(72 * 50 + 50 * 10, rel=0.1)
