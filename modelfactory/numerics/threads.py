"""One LAPACK thread: what a factorisation returns depends, in its last bits, on how many threads work on it."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch


@contextmanager
def one_lapack_thread() -> Iterator[None]:
    """LAPACK calls of this thread use no others; several matrices may still be factorised at once, one a thread.

    With MKL only this thread's own setting changes, and is put back. `torch.set_num_threads` would also turn off MKL's
    choice of fewer threads for small sizes, for the rest of the process; it is what is left with other libraries.

    Example:
        >>> with one_lapack_thread():
        ...     q, r = torch.linalg.qr(torch.eye(2))
        >>> r.abs()
        tensor([[1., 0.],
                [0., 1.]])
    """
    torch.get_num_threads()  # a thread's first parallel kernel sets its numbers; have that behind us
    set_for_this_thread = _mkl_setter() or _set_for_torch
    openmp = _openmp()
    before, elementwise = set_for_this_thread(1), openmp.omp_get_max_threads() if openmp is not None else 0
    if openmp is not None:  # what is around a factorisation is small: meeting other threads costs more than they save
        openmp.omp_set_num_threads(1)
    try:
        yield
    finally:
        if openmp is not None:
            openmp.omp_set_num_threads(elementwise)
        set_for_this_thread(before)


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_FREE = threading.Semaphore(num_cores())


@contextmanager
def one_core() -> Iterator[None]:
    """Work that keeps a core busy, so that others do not count on it."""
    taken = _FREE.acquire(blocking=False)
    try:
        yield
    finally:
        if taken:
            _FREE.release()


@contextmanager
def spare_cores() -> Iterator[int]:
    """How many cores are free for helpers beside this thread; nobody else counts on them meanwhile.

    Example:
        >>> with spare_cores() as helpers:
        ...     helpers < num_cores()
        True
    """
    taken = 0
    while taken < num_cores() - 1 and _FREE.acquire(blocking=False):
        taken += 1
    try:
        yield taken
    finally:
        for _ in range(taken):
            _FREE.release()


@cache
def _mkl_setter() -> Callable[[int], int] | None:
    """MKL's function that sets this thread's number and returns the one before, 0 for none of its own; None without MKL."""
    if not torch.backends.mkl.is_available():
        return None
    folder = Path(torch.__file__).parent / "lib"
    for name in ("libtorch_cpu.so", "torch_cpu.dll", "libtorch_cpu.dylib"):
        if (folder / name).exists():
            setter = getattr(ctypes.CDLL(str(folder / name)), "MKL_Set_Num_Threads_Local", None)
            if setter is not None:
                setter.argtypes, setter.restype = (ctypes.c_int,), ctypes.c_int
                return setter
    return None


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library that torch brings, whose number of threads is each thread's own; None where it is another's."""
    found = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return ctypes.CDLL(str(found[0])) if found else None


def _set_for_torch(number: int) -> int:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    return before
