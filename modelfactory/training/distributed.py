"""The processes of one training: a `World`, passed down to whatever has to know, which does nothing where there is one process.

Each process has the whole model and a part of each batch. Gradients are summed over the processes once a step, after the last
backward pass of it, each loss weighted by what it counts for in the whole step. Torch's DistributedDataParallel averages over
processes instead, which is another step where a batch does not divide evenly or targets are ignored, and it waits forever for a
process that has nothing to learn from.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from modelfactory.config.errors import ConfigError, Problem, RankFailed
from modelfactory.training.launched import launched
from modelfactory.training.status import process_is_alive, status_of, told, who

_BUCKET_BYTES = 25 * 2**20  # of gradients that are summed at once, as in DistributedDataParallel
_POLL_SECONDS = 0.02
_REASON_SECONDS = 5.0  # a process that fails says why within this time, or is gone
calls = itertools.count()  # the same in every process, as all of them do the same


class Disconnected(RuntimeError):
    """A collective operation failed: another process has ended, or cannot be reached."""


@dataclass(frozen=True)
class World:
    """The processes that train together, as one of them sees them.

    Attributes:
        rank: the number of this process, from 0.
        size: how many there are.
        processes: host and pid of each.
        training: the number of this training among those of the process group.

    Example:
        >>> ALONE.is_first, ALONE.sum_numbers(1.5, 2), ALONE.gather("x")
        (True, [1.5, 2], ['x'])
    """

    rank: int = 0
    size: int = 1
    processes: tuple[dict[str, Any], ...] = ()
    training: int = field(default=0, repr=False)

    @property
    def local_rank(self) -> int:
        """The number of this process among those of its machine."""
        return launched().local_rank if launched().size == self.size else self.rank

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, shows and logs."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over the processes in place, to the same bits in each of them."""
        if self.size > 1:
            with _connected():
                dist.all_reduce(tensor)
        return tensor

    def sum_numbers(self, *values: float) -> list[float]:
        """The sums of numbers over the processes, in float64."""
        if self.size == 1:
            return list(values)
        return self.sum(torch.tensor(values, dtype=torch.float64)).tolist()

    def totals(self, weights: Sequence[Any], device: torch.device) -> Sequence[Any]:
        """What each of the batches of a step counts for in all processes together; numbers on the CPU, else tensors of one."""
        if self.size == 1:
            return weights
        if device.type == "cpu":
            return self.sum_numbers(*map(float, weights))
        return self.sum(torch.stack([torch.as_tensor(weight, dtype=torch.float32, device=device) for weight in weights])).unbind()

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sums the gradients of the parameters that train; one that has none in any process keeps none."""
        if self.size > 1:
            for bucket in _buckets([parameter for parameter in parameters if parameter.requires_grad]):
                self._sum_bucket(bucket)

    def _sum_bucket(self, bucket: Sequence[Tensor]) -> None:
        flags = torch.tensor([parameter.grad is not None for parameter in bucket]).to(bucket[0])
        grads = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in bucket]
        flat = self.sum(torch.cat([*(grad.reshape(-1) for grad in grads), flags]))
        *summed, counts = flat.split([*(grad.numel() for grad in grads), len(flags)])
        elsewhere = counts.tolist() if any(parameter.grad is None for parameter in bucket) else [1] * len(bucket)
        for parameter, grad, total, count in zip(bucket, grads, summed, elsewhere, strict=True):
            if count:
                parameter.grad = grad.copy_(total.view_as(grad))

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Gives each tensor the values that it has in the first process."""
        if self.size > 1:
            with _connected(), torch.no_grad():
                for tensor in tensors:
                    whole = tensor.detach().contiguous()
                    dist.broadcast(whole, 0)
                    tensor.copy_(whole)

    def gather(self, value: Any) -> list[Any]:
        """Plain data of every process, in the order of ranks; waits for all of them.

        Raises:
            Disconnected: one of them has ended.
        """
        if self.size == 1:
            return [value]
        store, call = _store(), next(calls)
        keys = [f"modelfactory/{call}/{rank}" for rank in range(self.size)]
        store.set(keys[self.rank], json.dumps(value))
        while not store.check(keys):
            if (self._failed() or self._gone()) and not store.check(keys):  # one that has gone on from here has not failed
                raise Disconnected("a process has ended")
            time.sleep(_POLL_SECONDS)
        return [json.loads(store.get(key)) for key in keys]

    def wait(self) -> None:
        """Waits until every process is here."""
        self.gather(None)

    @contextlib.contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Has the first process of each machine go through the block before the others, who then find what it fetched."""
        if self.local_rank:
            self.wait()
        try:
            yield
        finally:
            if not self.local_rank:
                self.wait()

    @contextlib.contextmanager
    def agreed(self) -> Iterator[None]:
        """Raises in every process what the block raises in one, so that none of them goes on alone."""
        if self.size == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as found:
            error = found
        problems = [[problem.path, problem.message] for problem in error.problems] if isinstance(error, ConfigError) else None
        found = self.gather(None if error is None else {"problems": problems, "told": told(error), "status": status_of(error)})
        if error is not None:
            raise error
        for rank, failure in enumerate(found):
            if failure is not None and failure["problems"] is not None:
                raise ConfigError(Problem(path, f"{message} (process {rank} of {self.size})") for path, message in failure["problems"])
            if failure is not None:
                raise RankFailed(f"process {rank} of {self.size} failed: {failure['told']}", failure["status"])

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Tells the other processes why the block failed here; where it failed elsewhere first, raises that.

        Raises:
            RankFailed: another process failed, with its reason.
        """
        if self.size == 1:
            yield
            return
        try:
            yield
        except BaseException as error:
            hold_signals()
            if isinstance(error, Disconnected):
                raise self._reason(_REASON_SECONDS, str(error)) from error
            elsewhere = self._reason(0.0) if isinstance(error, KeyboardInterrupt) else None
            if elsewhere is not None and elsewhere.status != "killed" or elsewhere is not None and self._failed() is None:
                raise elsewhere from error  # the signal came because of it
            self._say(error)
            raise

    def _say(self, error: BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the store was with a process that is gone
            if self._failed() is None:
                said = {"rank": self.rank, "told": told(error), "status": status_of(error)}
                _store().set(self._failure_key, json.dumps(said))

    @property
    def _failure_key(self) -> str:
        return f"modelfactory/failure/{self.training}"

    def _failed(self) -> dict[str, Any] | None:
        """What a process said before it ended."""
        try:
            store = _store()
            return json.loads(store.get(self._failure_key)) if store.check([self._failure_key]) else None
        except RuntimeError:  # the store was with a process that is gone
            return None

    def _gone(self) -> list[int]:
        """The ranks of processes of this machine that ended."""
        host = who()["host"]
        return [rank for rank, its in enumerate(self.processes) if its["host"] == host and not process_is_alive(its["pid"])]

    def _reason(self, seconds: float, lost: str = "") -> Any:
        """Why another process ended, for which it is waited `seconds`; None where none did and no connection is `lost`."""
        end = time.monotonic() + seconds
        while True:
            said = self._failed()
            if said is not None and said["rank"] != self.rank:
                return RankFailed(f"process {said['rank']} of {self.size} failed: {said['told']}", said["status"])
            gone = self._gone()
            if gone and said is None:
                its = self.processes[gone[0]]
                why = f"process {gone[0]} of {self.size} (pid {its['pid']} on {its['host']}) ended without a word, as one that is killed"
                return RankFailed(f"{why} from outside or when memory runs out", "killed")
            if time.monotonic() >= end:
                return RankFailed(f"the connection to another process was lost: {lost}", "failed") if lost else None
            time.sleep(_POLL_SECONDS)

    def leave(self) -> None:
        """Closes the connections; the first process, with which the store may be, is the last to go."""
        store, keys = _store(), [f"modelfactory/left/{rank}" for rank in range(1, self.size)]
        dist.destroy_process_group()
        if self.rank:
            with contextlib.suppress(RuntimeError):
                store.set(keys[self.rank - 1], "")
            return
        end = time.monotonic() + _REASON_SECONDS
        while not store.check(keys) and not self._gone() and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)


ALONE = World()


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise Disconnected(str(error)) from error


def _buckets(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Parameters of one dtype and device, in parts of at most 25 MiB or one parameter."""
    kinds: dict[tuple[Any, ...], list[Tensor]] = {}
    for parameter in parameters:
        kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    for alike in kinds.values():
        bucket: list[Tensor] = []
        size = 0
        for parameter in alike:
            own = parameter.numel() * parameter.element_size()
            if bucket and size + own > _BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
            bucket.append(parameter)
            size += own
        yield bucket


def _store() -> Any:
    """What the processes tell each other by, beside collective operations; torch has no public name for it."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


_held: dict[int, Any] = {}


def hold_signals() -> None:
    """Has this process write why it ends before a launcher's signal ends it, which follows when any process has failed."""
    if threading.current_thread() is threading.main_thread() and not _held:
        for name in ("SIGTERM", "SIGHUP"):
            if (number := getattr(signal, name, None)) is not None:
                _held[number] = signal.signal(number, signal.SIG_IGN)


def release_signals() -> None:
    """Gives signals back to who handled them before."""
    for number, handler in _held.items():
        signal.signal(number, handler)
    _held.clear()
