"""Several trainings at once: what they ask for at the same time is answered by one forward and backward pass of all their models."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from modelfactory.config.errors import ConfigError, ModelFactoryError, first_line
from modelfactory.training.device import kept_random_state, training_context
from modelfactory.training.joint_step import JointStep
from modelfactory.training.one_by_one import Stream
from modelfactory.training.requests import Evaluation, Gradients, Request, Step
from modelfactory.training.setup import Run
from modelfactory.training.stacked import Stacked
from modelfactory.training.stopping import Terminated, signals_handled

R = TypeVar("R")
Training = Generator[Request, Any, R]
Around = Callable[[int], contextlib.AbstractContextManager[Any]]


class CannotStack(ModelFactoryError, RuntimeError):
    """Trainings that cannot be answered together, though each can by itself."""


@dataclass(eq=False)
class _Member(Generic[R]):
    """One of the trainings, the request that it waits for, and how it ended."""

    place: int
    training: Training[R]
    around: Around
    request: Request | None = None
    stream: Stream = field(default_factory=Stream)
    result: R | None = None
    error: BaseException | None = None
    draws: bool = True

    def begin(self) -> None:
        """Has the training work until it asks for something."""
        with self.around(self.place):
            self._work(lambda: next(self.training))

    def go_on(self, answer: Any = None) -> None:
        """Gives the training what it asked for, and has it work until it asks for more."""
        with self.around(self.place):
            if self.draws and self.request is not None:  # what it seeds, or records of its generator, is its own
                self.stream.put(self.request.run.device)
            self._work(lambda: self.training.send(answer))

    def _work(self, work: Callable[[], Request]) -> None:
        try:
            self.request = work()
            if self.draws:
                self.stream.take(self.request.run.device)
        except StopIteration as done:
            self.request, self.result = None, done.value
        except (Exception, Terminated) as error:
            self.request, self.error = None, error

    def end(self, error: BaseException) -> None:
        """Tells the training that nobody goes on with it."""
        with self.around(self.place), contextlib.suppress(StopIteration, type(error)):
            self.training.throw(error)
        self.request = None


@training_context()
def train_together(trainings: Sequence[Training[R]], around: Around | None = None) -> list[R | Exception]:
    """Train models of one architecture together; each ends for itself, and harms no other.

    The numbers of a training are bit-identical whichever others there are (on the CPU), and those of the training alone to the accuracy of
    float32.

    Args:
        trainings: generators such as `modelfactory.training.trainer.training`.
        around: gives a context for each piece of work of the training of a place, such as where it logs to.

    Returns:
        What each training returned, or the error that it ended with.

    Raises:
        Terminated: a signal asked them to end, and each has saved the step that it was at.
        CannotStack: their models or what they ask for cannot be stacked; every training has been told, and has recorded it as its end.

    Example:
        >>> import modelfactory as mf
        >>> from modelfactory.training.trainer import training
        >>> from modelfactory.training.training_spec import training_spec
        >>> data = mf.build_data(mf.compose("data=wine"))
        >>> models = [torch.nn.Sequential(torch.nn.Linear(13, 3)) for _ in range(2)]
        >>> settings = training_spec(trainer={"max_epochs": 1, "device": "cpu", "progress": "none"})
        >>> [result.final["epoch"] for result in train_together([training(model, data, settings) for model in models])]
        [1, 1]
    """
    members = [_Member(place, training, around or _nothing) for place, training in enumerate(trainings)]
    with kept_random_state(torch.device("cpu")), signals_handled(only_unhandled=True):
        try:
            for member in members:
                member.begin()
            waiting = [member for member in members if member.request is not None]
            if waiting:
                _answer_all(waiting)
        except BaseException as error:
            for member in members:
                if member.request is not None:
                    member.end(error)
            raise
    for member in members:
        if isinstance(member.error, Terminated):
            raise member.error
    return [member.result if member.error is None else member.error for member in members]  # pyright: ignore[reportReturnType]


def _answer_all(waiting: list[_Member[Any]]) -> None:
    """Answers until every training has ended."""
    with _told_as_cannot_stack():
        stacked = _stack(waiting)
    with kept_random_state(_run_of(waiting[0]).device):
        steps = JointStep()
        for member in waiting:
            member.draws = stacked.draws
        while waiting:
            _answer(waiting, stacked, steps)
            if any(member.request is None for member in waiting):
                left = [place for place, member in enumerate(waiting) if member.request is None]
                waiting = [member for member in waiting if member.request is not None]
                if waiting:
                    stacked = stacked.without(left)


def _run_of(member: _Member[Any]) -> Run:
    if member.request is None:
        raise RuntimeError("the training has ended")
    return member.request.run


def _stack(members: Sequence[_Member[Any]]) -> Stacked:
    runs = [_run_of(member) for member in members]
    for run in runs:
        if run.spec.precision != "fp32" or run.spec.compile or run.scaler is not None:
            raise CannotStack("trainer: models in another precision than fp32, and compiled ones, are trained alone")
    return Stacked([run.trained for run in runs], [run.loss for run in runs], [member.stream for member in members])


@contextlib.contextmanager
def _told_as_cannot_stack():
    try:
        yield
    except CannotStack:
        raise
    except (ConfigError, RuntimeError) as error:  # of torch.vmap: an operator without a batching rule
        raise CannotStack(first_line(error)) from error


def _answer(waiting: Sequence[_Member[Any]], stacked: Stacked, steps: JointStep) -> None:
    """Answers one kind of what is waited for: gradients come last, when all wait for them, so that they stay together."""
    for kind in (Step, Evaluation, Gradients):
        places = [place for place, member in enumerate(waiting) if isinstance(member.request, kind)]
        if not places:
            continue
        if kind is Step:
            steps.take([waiting[place].request for place in places])  # pyright: ignore[reportArgumentType]
            for place in places:
                waiting[place].go_on()
            return
        alike: dict[Any, list[int]] = {}
        for place in places:
            request: Any = waiting[place].request
            alike.setdefault((request.x.shape, request.y.shape, request.x.dtype, request.y.dtype), []).append(place)
        for rows in alike.values():
            _answer_alike([waiting[place] for place in rows], rows, stacked)
        return


def _answer_alike(members: Sequence[_Member[Any]], rows: list[int], stacked: Stacked) -> None:
    """Answers requests of one kind with batches of one shape."""
    requests: list[Any] = [member.request for member in members]
    x, y = torch.stack([request.x for request in requests]), torch.stack([request.y for request in requests])
    answers: list[Any]
    with _told_as_cannot_stack():
        if isinstance(requests[0], Gradients):
            answers = list(stacked.backward(x, y, _shares(requests, x), rows).unbind(0))
        else:
            outputs, losses = stacked.evaluate(x, y, rows)
            parts = zip(requests, outputs.unbind(0), losses.unbind(0), strict=True)
            answers = [(output, loss if request.run.mean.is_known else None) for request, output, loss in parts]
    for member, answer in zip(members, answers, strict=True):
        member.go_on(answer)


def _shares(requests: Sequence[Gradients], x: Tensor) -> Tensor | None:
    if all(request.share is None for request in requests):
        return None
    shares = [1.0 if request.share is None else float(request.share) for request in requests]
    return torch.tensor(shares, dtype=torch.float32, device=x.device)


def _nothing(_: int) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext()
