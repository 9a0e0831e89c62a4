"""The loss of an epoch, and of an accumulated step, is that of all its samples at once, whatever its mean is over."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import modelfactory.training.loss
from modelfactory.config.errors import ConfigError, TrainingError
from modelfactory.data import Data, Split
from modelfactory.training.loss_mean import find_mean, known_mean
from modelfactory.training.trainer import train_model
from modelfactory.training.training_spec import training_spec

WEIGHT = torch.tensor([0.2, 1.0, 4.0])
SGD = {"_target_": "torch.optim.SGD", "lr": 0.1}
NAMES = __name__


class Weighted(nn.Module):
    """A mean over class weights, which it does not tell."""

    def forward(self, output, y):
        weight = WEIGHT[y]
        return (weight * F.cross_entropy(output, y, reduction="none")).sum() / weight.sum()


class Declared(Weighted):
    def denominator(self, y):
        return WEIGHT[y].sum()


class WronglyDeclared(Weighted):
    def denominator(self, y):
        return len(y)


class Wrapped(nn.Module):
    """Holds a loss of torch's that weights."""

    def __init__(self):
        super().__init__()
        self.inner = nn.CrossEntropyLoss(weight=WEIGHT)

    def forward(self, output, y):
        return 1.5 * self.inner(output, y)


class Focal(nn.Module):
    def forward(self, output, y):
        loss = F.cross_entropy(output, y, reduction="none")
        return ((1 - (-loss).exp()) ** 2 * loss).mean()


class Summed(nn.Module):
    def forward(self, output, y):
        return F.cross_entropy(output, y, reduction="sum") / 50


class Dice(nn.Module):
    """A ratio of sums over the batch: no mean at all."""

    def forward(self, output, y):
        shares, right = output.softmax(1), F.one_hot(y, output.shape[1]).float()
        return 1 - (2 * (shares * right).sum() + 1) / ((shares + right).sum() + 1)


def make(kind="classes", n=36, nval=37) -> Any:
    source = torch.Generator().manual_seed(3)
    x = torch.randn(n + nval, 6, generator=source)
    y = (x @ torch.randn(6, 3, generator=source) + torch.tensor([3.0, 0.0, 0.0])).argmax(1)
    num_classes, task = 3, "classification"
    if kind == "ignored":
        y[torch.rand(len(y), generator=source) < 0.4] = -100
    elif kind == "tokens":  # [N, 5], of which some samples have none that counts
        y = torch.randint(3, (len(y), 5), generator=source)
        y[torch.rand(len(y), 5, generator=source) < 0.6] = -100
        y[::6] = -100
    elif kind == "labels":
        y, task = (x[:, :3] > 0.3).float(), "regression"
    elif kind == "shares":
        y, task = F.one_hot(y, 3) * 0.9 + 0.1 / 3, "regression"
    return Data(Split(x[:n], y[:n]), Split(x[n:], y[n:]), task, num_classes, (6,), batch_size=12)


def net(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 15), nn.Unflatten(1, (3, 5))) if kind == "tokens" else nn.Sequential(nn.Linear(6, 3))


def train(data, loss, kind, **trainer):
    settings = {"device": "cpu", "progress": "none", "max_epochs": 2, "loss": loss, **trainer}
    model = net(kind)
    return model, train_model(model, data, training_spec(optimizer=SGD, trainer=settings))


def torchs(name, **arguments):
    return {"_target_": f"torch.nn.{name}", **arguments}


def own(kind):
    return {"_target_": f"{NAMES}.{kind.__name__}"}


def bce(**arguments):
    return lambda output, y: F.binary_cross_entropy_with_logits(output, y, **arguments)


LOSSES = [
    ("classes", None, {}),
    ("classes", torchs("CrossEntropyLoss", weight=[0.2, 1, 4]), {"weight": WEIGHT}),
    ("classes", torchs("CrossEntropyLoss", weight=[0.2, 1, 4], label_smoothing=0.2), {"weight": WEIGHT, "label_smoothing": 0.2}),
    ("classes", torchs("CrossEntropyLoss", ignore_index=1), {"ignore_index": 1}),
    ("classes", torchs("CrossEntropyLoss", weight=[0, 1, 4]), {"weight": torch.tensor([0.0, 1.0, 4.0])}),
    ("ignored", None, {}),
    ("ignored", torchs("CrossEntropyLoss", weight=[0.2, 1, 4], label_smoothing=0.1), {"weight": WEIGHT, "label_smoothing": 0.1}),
    ("tokens", None, {}),
    ("tokens", torchs("CrossEntropyLoss", weight=[0.2, 1, 4]), {"weight": WEIGHT}),
    ("shares", torchs("CrossEntropyLoss", weight=[0.2, 1, 4]), {"weight": WEIGHT}),
    ("labels", torchs("BCEWithLogitsLoss", pos_weight=[0.2, 1, 4]), bce(pos_weight=WEIGHT)),
    ("labels", torchs("BCEWithLogitsLoss", weight=[0.2, 1, 4]), bce(weight=WEIGHT)),
    ("labels", torchs("MultiLabelSoftMarginLoss"), F.multilabel_soft_margin_loss),
    ("classes", torchs("MultiMarginLoss", weight=[0.2, 1, 4]), lambda o, y: F.multi_margin_loss(o, y, weight=WEIGHT)),
    ("classes", own(Declared), {"weight": WEIGHT}),
    ("classes", own(Wrapped), lambda o, y: 1.5 * F.cross_entropy(o, y, weight=WEIGHT)),
    ("classes", own(Focal), Focal()),
    ("classes", own(Weighted), {"weight": WEIGHT}),
    ("classes", own(Dice), Dice()),
]


def name_of(case):
    kind, loss, _ = case
    return f"{kind}-{'null' if loss is None else '-'.join([loss['_target_'].rpartition('.')[2], *list(loss)[1:]])}"


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    monkeypatch.setattr("modelfactory.config.target._TRUSTED", {NAMES})


@pytest.mark.parametrize(("kind", "loss", "right"), LOSSES, ids=map(name_of, LOSSES))
def test_the_validation_loss_is_that_of_the_whole_set_for_any_batch_size(kind, loss, right):
    data = make(kind)
    trained = [train(with_val_batch(data, size), loss, kind) for size in (37, 5, 1)]
    with torch.no_grad():
        output, y = trained[0][0](data.val.x), data.val.y
        expected = F.cross_entropy(output, y, **right) if isinstance(right, dict) else right(output, y)
    assert [result.final["val_loss"] for _, result in trained] == pytest.approx([float(expected)] * 3, rel=1e-5)


def with_val_batch(data, size):
    return Data(data.train, data.val, data.task, data.num_classes, data.input_shape, data.batch_size, val_batch_size=size)


ADDING_UP = [case for case in LOSSES if case[1] not in (own(Weighted), own(Dice))]


@pytest.mark.parametrize(("kind", "loss", "right"), [*ADDING_UP, ("classes", own(Summed), {})], ids=[*map(name_of, ADDING_UP), "Summed"])
def test_an_accumulated_step_is_that_of_the_larger_batch(kind, loss, right):
    data = make(kind, n=35)  # the last step has 11 samples: 4 + 4 + 3
    small = Data(data.train, data.val, data.task, data.num_classes, data.input_shape, batch_size=4)
    (model, whole), (another, parts) = train(data, loss, kind), train(small, loss, kind, accumulate=3)
    assert whole.final["step"] == parts.final["step"] == 6
    for one, other in zip(model.parameters(), another.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    # of the epoch, too: numerators over denominators, not a mean of means
    assert whole.final["train_loss"] == pytest.approx(parts.final["train_loss"], rel=1e-5)


@pytest.mark.parametrize("kind", [Weighted, Dice])
def test_batches_of_a_loss_that_is_no_mean_over_samples_are_not_added_up(kind):
    with pytest.raises(ConfigError, match=rf"trainer.accumulate: 3 batches do not add up to a step: {kind.__name__} .* denominator\(y\)"):
        train(make(), own(kind), "classes", accumulate=3)


def test_a_denominator_that_is_not_what_the_mean_is_over_is_told():
    (warning,) = [text for text in train(make(), own(WronglyDeclared), "classes")[1].warnings if "trainer.loss" in text]
    assert "WronglyDeclared.denominator is not what its mean is over" in warning
    assert not [text for text in train(make(), own(Declared), "classes")[1].warnings if "trainer.loss" in text]


def test_accuracy_is_over_the_targets_that_count():
    data = make("tokens")
    model, result = train(with_val_batch(data, 4), None, "tokens")
    with torch.no_grad():
        right = model(data.val.x).argmax(1) == data.val.y
    assert result.final["val_accuracy"] == pytest.approx(right[data.val.y != -100].double().mean().item())


def test_accuracy_of_class_shares_is_that_of_the_largest():
    data = make("shares")
    model, result = train(data, torchs("CrossEntropyLoss"), "shares", monitor="val_accuracy")
    with torch.no_grad():
        right = model(data.val.x).argmax(1) == data.val.y.argmax(1)
    assert result.final["val_accuracy"] == pytest.approx(right.double().mean().item())


def only_ignored(place):
    """Batches of 12 in the order of the split, of which one has ignored targets only."""
    data = make()
    y = data.train.y.clone()
    y[place] = -100
    return Data(Split(data.train.x, y), data.val, data.task, 3, (6,), batch_size=12)


def test_a_batch_of_ignored_targets_only_changes_no_weight_and_moves_no_schedule(monkeypatch):
    from modelfactory.data import batches

    monkeypatch.setattr(batches, "keyed_permutation", lambda size, seed, name: torch.arange(size))
    steps = {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.5, "interval": "step"}
    momentum = {**SGD, "momentum": 0.9, "weight_decay": 0.1}
    settings = {"device": "cpu", "progress": "none", "max_epochs": 2}

    def weights(data):
        model = net("classes")
        train_model(model, data, training_spec(momentum, steps, settings))
        return model[0].weight

    data = make()
    without = Data(Split(torch.cat([data.train.x[:12], data.train.x[24:]]), torch.cat([data.train.y[:12], data.train.y[24:]])), data.val,
                   "classification", 3, (6,), batch_size=12)  # fmt: skip
    assert torch.equal(weights(only_ignored(slice(12, 24))), weights(without))


def test_a_training_set_of_ignored_targets_only_is_an_error():
    with pytest.raises(TrainingError, match="the loss ignores every target"):
        train(only_ignored(slice(None)), None, "classes")


@pytest.mark.parametrize(("kind", "loss", "right"), LOSSES[:9], ids=map(name_of, LOSSES[:9]))
def test_on_a_device_that_is_not_waited_for_the_numbers_are_the_same(monkeypatch, kind, loss, right):
    data = with_val_batch(make(kind), 5)
    model, here = train(data, loss, kind, accumulate=2)

    class Later(modelfactory.training.loss.LossSum):
        def __init__(self, *args, **keys):
            super().__init__(*args, **keys)
            self.reads_each = False

    monkeypatch.setattr("modelfactory.training.trainer.LossSum", Later)
    another, there = train(data, loss, kind, accumulate=2)
    for name in ("train_loss", "val_loss", "val_accuracy"):
        assert there.final[name] == pytest.approx(here.final[name], rel=1e-6)
    assert torch.equal(another[0].weight, model[0].weight)


def plain(kind="classes", n=4):
    return make(kind, n=n, nval=n)


@pytest.mark.parametrize(
    ("loss", "kind", "expected"),
    [
        (nn.CrossEntropyLoss(), "classes", 4),
        (nn.CrossEntropyLoss(ignore_index=7), "classes", 4),
        (nn.NLLLoss(weight=WEIGHT), "classes", None),
        (nn.MSELoss(), "labels", 4),
        (nn.KLDivLoss(reduction="batchmean"), "labels", 4),
        (nn.CrossEntropyLoss(weight=WEIGHT), "shares", 4),
    ],
    ids=str,
)
def test_the_mean_of_torchs_losses_is_known_by_definition(loss, kind, expected):
    data = plain(kind)
    weight = known_mean(loss, data).weight(data.train.y)
    assert float(weight) == pytest.approx(float(WEIGHT[data.train.y].sum()) if expected is None else expected)
    # where all samples count alike the weight is a plain number: no tensor is made at each step
    assert isinstance(weight, (int, float)) == (expected is not None)


@pytest.mark.parametrize(
    ("loss", "is_sum", "weight"),
    [(Focal(), False, 4), (Summed(), True, 4), (Wrapped(), False, float(WEIGHT.sum())), (Dice(), False, None), (Weighted(), False, None)],
    ids=lambda value: type(value).__name__,
)
def test_an_unknown_loss_is_tried(loss, is_sum, weight):
    y = torch.tensor([0, 1, 2])
    mean = find_mean(loss, torch.zeros(3, 3), y, 3)
    assert mean.is_sum == is_sum and mean.is_known == (weight is not None)
    if weight is not None and not is_sum:
        assert float(mean.weight(y)) == pytest.approx(weight if weight != 4 else 3)


def test_trying_a_loss_leaves_it_as_it_was():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, output, y):
            self.calls += 1
            return F.mse_loss(output, y)

    loss = Counts()
    assert find_mean(loss, torch.zeros(2, 1), torch.zeros(2, 1), 1).is_known and loss.calls == 0
