import math

import pytest
import torch
from torch import nn

from modelfactory.config.errors import ConfigError, Problems, TrainingError
from modelfactory.training.loss import Correct, LossSum, are_class_shares, check_fit, check_num_classes, make_loss, read_loss


def loss_of(mapping, task):
    problems = Problems()
    spec = read_loss(mapping, problems)
    problems.raise_if_any()
    loss = make_loss(spec, task, problems)
    problems.raise_if_any()
    assert loss is not None
    return loss


@pytest.mark.parametrize(("task", "kind"), [("classification", nn.CrossEntropyLoss), ("regression", nn.MSELoss)])
def test_null_is_chosen_from_the_task(task, kind):
    assert type(loss_of(None, task)) is kind


def test_a_list_of_class_weights_becomes_a_tensor():
    loss = loss_of({"_target_": "torch.nn.CrossEntropyLoss", "weight": [1, 2.5]}, "classification")
    assert isinstance(loss.weight, torch.Tensor) and loss.weight.tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("mapping", "task", "message"),
    [
        ({"_target_": "torch.nn.MSELoss"}, "classification", "trainer.loss: MSELoss wants float targets"),
        ({"_target_": "torch.nn.CrossEntropyLoss"}, "regression", "trainer.loss: CrossEntropyLoss wants classes"),
        ({"_target_": "torch.nn.CrosEntropyLoss"}, None, "trainer.loss._target_: .*did you mean 'torch.nn.CrossEntropyLoss'"),
        ({"_target_": "torch.load"}, None, "trainer.loss._target_: 'torch.load' is refused"),
        (
            {"_target_": "torch.nn.CrossEntropyLoss", "smoothing": 0.1},
            None,
            "trainer.loss.smoothing: .*did you mean 'label_smoothing'",
        ),
        ({"_target_": "torch.nn.CrossEntropyLoss", "reduction": "none"}, None, "trainer.loss.reduction: 'none'"),
        ({"_target_": "torch.nn.CrossEntropyLoss", "weight": ["a"]}, None, "trainer.loss.weight: "),
        (3, None, "trainer.loss: 3 is not a mapping"),
    ],
)
def test_a_wrong_loss_says_what_is_wrong(mapping, task, message):
    with pytest.raises(ConfigError, match=message):
        loss_of(mapping, task)


@pytest.mark.parametrize(
    ("loss", "output", "y", "message"),
    [
        (nn.MSELoss(), torch.zeros(4), torch.zeros(4, 1), r"MSELoss compares equal shapes, .*\[4\] and the targets are \[4, 1\]"),
        (nn.CrossEntropyLoss(), torch.zeros(4), torch.zeros(4).long(), r"wants \[N, classes\] against \[N\]"),
        (nn.CrossEntropyLoss(), torch.zeros(4, 3, 2), torch.zeros(4).long(), r"wants \[N, classes\] against \[N\]"),
        (nn.BCEWithLogitsLoss(), torch.zeros(4, 1), torch.zeros(4), "compares equal shapes"),
        (nn.MSELoss(), (torch.zeros(4), 1), torch.zeros(4), "model: returns tuple, not a tensor"),
        (nn.CosineEmbeddingLoss(), torch.zeros(4, 2), torch.zeros(4, 2), "model|trainer.loss"),
        (
            nn.CrossEntropyLoss(),
            torch.zeros(2, 3),
            torch.tensor([0, 3]),
            "trainer.loss: CrossEntropyLoss cannot compare them.*Target 3",
        ),
    ],
)
def test_an_output_that_does_not_fit_the_targets_is_refused(loss, output, y, message):
    with pytest.raises(ConfigError, match=message):
        check_fit(loss, output, y)


def test_what_fits_passes():
    check_fit(nn.CrossEntropyLoss(), torch.zeros(4, 3, 5), torch.zeros(4, 5).long())
    check_fit(nn.MSELoss(), torch.zeros(4, 1), torch.zeros(4, 1))
    check_num_classes(torch.zeros(4, 10), 10)
    with pytest.raises(ConfigError, match="model: gives 9 classes and the data has 10"):
        check_num_classes(torch.zeros(4, 9), 10)


@pytest.mark.parametrize("reads_each", [True, False])
@pytest.mark.parametrize("is_sum", [True, False])
def test_the_mean_is_over_samples(reads_each, is_sum):
    losses = LossSum(torch.device("cpu"), is_sum=is_sum)
    losses.reads_each = reads_each
    for value, size in ((1.0, 4), (4.0, 2)):
        assert losses.add(torch.tensor(value * (size if is_sum else 1)), size)
    assert losses.mean() == 2.0


@pytest.mark.parametrize("reads_each", [True, False])
@pytest.mark.parametrize("weight", [lambda number: number, torch.tensor], ids=["number", "tensor"])
def test_the_numerator_and_the_denominator_are_summed_apart(reads_each, weight):
    losses = LossSum(torch.device("cpu"))
    losses.reads_each = reads_each
    for value, count in ((1.0, 4.0), (math.nan, 0.0), (4.0, 0.5)):  # the second is the mean of nothing
        assert losses.add(torch.tensor(value), weight(count))
    assert losses.read() is None and losses.mean() == pytest.approx((1.0 * 4 + 4.0 * 0.5) / 4.5)


def test_the_mean_of_nothing_is_an_error():
    losses = LossSum(torch.device("cpu"))
    losses.add(torch.tensor(math.nan), 0)
    with pytest.raises(TrainingError, match="ignores every target"):
        losses.mean()


def test_on_the_cpu_a_loss_that_is_not_finite_is_known_at_once():
    losses = LossSum(torch.device("cpu"))
    assert losses.add(torch.tensor(1.0), 1) and not losses.add(torch.tensor(math.nan), 1)


def test_elsewhere_the_first_loss_that_is_not_finite_is_found_when_read():
    losses = LossSum(torch.device("cpu"))
    losses.reads_each = False
    for value in (1.0, 2.0, math.inf, math.nan, 3.0):
        assert losses.add(torch.tensor(value), 1)
    assert losses.read() == (2, math.inf) and losses.read() is None


def test_accuracy_is_over_all_targets():
    correct = Correct()
    correct.add(torch.eye(3), torch.tensor([0, 1, 1]))
    correct.add(torch.eye(2)[None], torch.tensor([[0, 0]]))
    assert correct.share() == 3 / 5


def test_ignored_targets_are_neither_right_nor_wrong():
    correct = Correct(ignored=-100)
    correct.add(torch.eye(3), torch.tensor([0, 2, -100]))
    correct.add(torch.eye(3), torch.tensor([-100, -100, -100]))
    assert correct.share() == 1 / 2


@pytest.mark.parametrize(
    ("y", "hint"),
    [
        (torch.eye(3, dtype=torch.int64), r"one-hot vectors: return their argmax\(1\)"),
        (torch.zeros(3, 1, dtype=torch.int64), "return a class as a number"),
    ],
)
def test_classes_in_another_shape_are_told(y, hint):
    with pytest.raises(ConfigError, match=hint):
        check_fit(nn.CrossEntropyLoss(), torch.zeros(3, 3), y)


def test_values_without_a_dimension_are_told():
    with pytest.raises(ConfigError, match=r"return targets of shape \[1\] from the data set"):
        check_fit(nn.MSELoss(), torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (torch.eye(4), True),
        (torch.rand(5, 3).softmax(1), True),
        (torch.ones(4, 1), False),
        (torch.tensor([[1.5, -0.5]]), False),
        (torch.tensor([[1.0, 1.0]]), False),
        (torch.eye(3).long(), False),
        (torch.tensor([[math.nan, 1.0]]), False),
    ],
)
def test_class_shares_are_told_from_other_values(y, expected):
    assert are_class_shares(y) is expected
