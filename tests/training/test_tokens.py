"""Losses of token models: classes last, whoever wrote the model; accuracy, bits and perplexity by target."""

import csv
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import modelfactory as mf
from modelfactory.data.dataset import Data, Split
from modelfactory.training.evaluate import measure_split
from modelfactory.training.loss import class_dim_of
from modelfactory.training.trainer import train_model
from modelfactory.training.training_spec import training_spec

QUIET = {"device": "cpu", "progress": "none", "signal": "none"}


def tokens(count: int, length: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randint(classes, (count, length + 1), generator=torch.Generator().manual_seed(seed))
    return x[:, :-1].clone(), x[:, 1:].clone()


def rows_of(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))


class Foreign(nn.Module):
    """A model of tokens as other libraries give them: classes last."""

    def __init__(self, classes: int):
        super().__init__()
        self.embed, self.head = nn.Embedding(classes, 8), nn.Linear(8, classes)

    def forward(self, ids):
        return self.head(self.embed(ids))


@pytest.mark.parametrize(("length", "classes"), [(5, 11), (7, 7), (11, 5)])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_over_tokens_is_one_of_the_mean_over_all_of_them(length, classes, accumulate):
    torch.manual_seed(0)
    model = Foreign(classes)
    x, y = tokens(10, length, classes)
    y = torch.where(torch.rand(y.shape) < 0.3, -100, y)  # ignored targets, as padding has
    by_hand = [parameter.detach().clone() for parameter in model.parameters()]
    loss = F.cross_entropy(model(x).transpose(1, 2), y)
    grads = torch.autograd.grad(loss, list(model.parameters()))
    data = Data(Split(x, y), Split(x, y), "classification", classes, (length,), batch_size=-(-10 // accumulate))
    sgd = {"_target_": "torch.optim.SGD", "lr": 1.0}
    train_model(model, data, training_spec(sgd, trainer={**QUIET, "max_epochs": 1, "accumulate": accumulate}))
    for parameter, before, grad in zip(model.parameters(), by_hand, grads, strict=True):
        assert torch.allclose(parameter, before - grad, atol=1e-6)


def test_metrics_of_text_are_per_target(tmp_path):
    x, y = tokens(12, 6, 9)
    y[:, 0] = -100
    model = Foreign(9)
    data = Data(Split(x, y), Split(x, y), "classification", 9, (6,), batch_size=5, val_batch_size=5)
    result = train_model(model, data, training_spec(trainer={**QUIET, "max_epochs": 1}), run_dir=tmp_path)
    with torch.no_grad():
        output = model(x)
    loss = F.cross_entropy(output.transpose(1, 2), y).item()
    right = (output.argmax(-1) == y)[y != -100].float().mean().item()
    row = rows_of(tmp_path)[-1]
    assert result.final["val_loss"] == pytest.approx(loss, rel=1e-5) and result.final["val_accuracy"] == pytest.approx(right)
    assert float(row["val_perplexity"]) == pytest.approx(math.exp(loss), rel=1e-4) and "val_bits_per_byte" not in row
    measured = measure_split(model, data)
    assert measured["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4) and measured["accuracy"] == pytest.approx(right)


def test_bytes_have_bits(tmp_path):
    text = tmp_path / "text"
    text.write_bytes(b"hello, world " * 200)
    small = ("model.width=8", "model.hidden=16", "model.depth=1", "model.heads=2", "data.context=16", f"data.path={text}")
    cfg = mf.compose("model=gpt", "data=bytes", *small, "trainer.device=cpu", "trainer.progress=none", "trainer.max_epochs=2")
    result = mf.train(cfg, tmp_path / "run")
    row = rows_of(tmp_path / "run")[-1]
    assert float(row["val_bits_per_byte"]) == pytest.approx(result.final["val_loss"] / math.log(2))
    loaded = mf.load(tmp_path / "run" / "model.safetensors")
    assert loaded.head.weight is loaded.tokens.weight
    assert mf.evaluate(tmp_path / "run")["bits_per_byte"] == pytest.approx(result.best["val_loss"] / math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    ("output", "x", "y", "dim"),
    [
        ((2, 5), (2, 3), (2,), 1),
        ((2, 5, 3), (2, 3), (2, 3), 1),  # torch's order, as a convolution over a sequence gives it
        ((2, 3, 5), (2, 3), (2, 3), -1),
        ((2, 5, 4, 4), (2, 1, 4, 4), (2, 4, 4), 1),  # segmentation
        ((2, 4, 4, 4), (2, 4, 4, 4), (2, 4, 4), 1),
    ],
)
def test_where_the_classes_are_follows_from_the_shapes(output, x, y, dim):
    assert class_dim_of(torch.zeros(output), torch.zeros(x), torch.zeros(y, dtype=torch.int64)) == dim


def test_where_both_fit_token_ids_have_them_last():
    y = torch.zeros(2, 4, dtype=torch.int64)
    assert class_dim_of(torch.zeros(2, 4, 4), y, y) == -1 and class_dim_of(torch.zeros(2, 4, 4), torch.zeros(2, 4), y) == 1


def test_a_loss_of_ones_own_is_given_the_output_as_it_is():
    seen = []

    class Own(nn.Module):
        def forward(self, output, y):
            seen.append(tuple(output.shape))
            return F.cross_entropy(output.flatten(0, 1), y.flatten())

    mf.trust("tests")
    globals()["Own"] = Own
    Own.__module__, Own.__qualname__ = __name__, "Own"
    x, y = tokens(6, 4, 5)
    data = Data(Split(x, y), Split(x, y), "classification", 5, (4,), batch_size=6)
    own = {"loss": {"_target_": f"{__name__}.Own"}}
    train_model(Foreign(5), data, training_spec(trainer={**QUIET, "max_epochs": 1, **own}))
    assert (6, 4, 5) in seen and all(shape[1:] == (4, 5) for shape in seen)
