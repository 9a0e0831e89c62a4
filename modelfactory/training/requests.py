"""What a training asks of whoever runs it: the training is a generator that yields requests and is sent their answers.

For one training each request is answered at once, by the model itself (`alone`). Of several trainings the requests that wait are answered
together, by one forward and backward pass of all their models (`modelfactory.training.together`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from modelfactory.training.device import training_context
from modelfactory.training.setup import Run

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Gradients:
    """Add the gradients of the loss of a batch to those of the parameters; the answer is the loss.

    Attributes:
        share: by which the loss is multiplied before the backward pass; None: by nothing.
    """

    run: Run
    x: Tensor
    y: Tensor
    share: Any = None

    def answer(self) -> Tensor:
        run = self.run
        with run.autocast:
            loss = run.loss(run.forward(self.x), self.y)
        part = loss if self.share is None else loss * self.share
        (part if run.scaler is None else run.scaler.scale(part)).backward()
        return loss.detach()


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Give the output for a batch and its loss, without gradients; of a loss that batches do not add up to, no loss."""

    run: Run
    x: Tensor
    y: Tensor

    def answer(self) -> tuple[Any, Tensor | None]:
        run = self.run
        with torch.no_grad(), run.autocast:
            output = run.forward(self.x)
            return output, run.loss(output, self.y) if run.mean.is_known else None


@dataclass(frozen=True, eq=False)
class Step:
    """Take a step of the optimizer.

    Attributes:
        take: does it.
    """

    run: Run
    take: Callable[[], Any]

    def answer(self) -> None:
        self.take()


Request = Gradients | Evaluation | Step


def alone(training: Callable[P, Generator[Request, Any, R]]) -> Callable[P, R]:
    """The training as a function, each request of which is answered by the model itself.

    Example:
        >>> def nothing():
        ...     yield from ()
        ...     return 3
        >>> alone(nothing)()
        3
    """

    @functools.wraps(training)
    def run(*args: P.args, **settings: P.kwargs) -> R:
        with training_context():
            requests = training(*args, **settings)
            try:
                request = next(requests)
                while True:
                    try:
                        answer = request.answer()
                    except BaseException as error:  # the training records how it ended
                        request = requests.throw(error)
                    else:
                        request = requests.send(answer)
            except StopIteration as done:
                return done.value

    return run
