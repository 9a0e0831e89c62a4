"""QR of large matrices, quicker than LAPACK's and the same whatever the number of threads.

Householder reflections are gathered in blocks of columns and applied as matrix products (Schreiber & Van Loan 1989), to slices of
columns of a fixed width. Each product runs on one thread; which thread computes a slice changes no bit of it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import torch
from torch import Tensor

from modelfactory.numerics.threads import one_lapack_thread, spare_cores

_BLOCK = 128  # columns factorised at once by LAPACK
_SLICE = 512  # columns that one product works on


def orthonormal(matrix: Tensor) -> Tensor:
    """Q of the QR of a matrix [m, n], m >= n, in which R has a positive diagonal: unique, and Haar for a Gaussian matrix.

    The matrix is overwritten.

    Example:
        >>> a = torch.randn(300, 200, generator=torch.Generator().manual_seed(0))
        >>> q = orthonormal(a.clone())
        >>> torch.allclose(q.T @ q, torch.eye(200), atol=1e-5), bool(((q.T @ a).diagonal() > 0).all())
        (True, True)
    """
    m, n = matrix.shape
    signs = matrix.new_empty(n)
    reflections: list[tuple[int, Tensor, Tensor]] = []
    with one_lapack_thread(), ExitStack() as stack:
        helpers = stack.enter_context(spare_cores())
        pool = stack.enter_context(ThreadPoolExecutor(helpers)) if helpers else None
        for start in range(0, n, _BLOCK):
            panel, tau = torch.geqrf(matrix[start:, start : start + _BLOCK])
            width = panel.shape[1]
            signs[start : start + width] = panel.diagonal().sign()
            v, t = _compact(panel, tau)
            reflections.append((start, v, t))
            if start + width < n:
                _reflect(matrix[start:, start + width :], v, t.T.contiguous(), pool, helpers)
        q = torch.eye(m, n, dtype=matrix.dtype)
        for start, v, t in reversed(reflections):
            _reflect(q[start:, start:], v, t, pool, helpers)
    return q.mul_(signs)


def _compact(panel: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """V^T [k, m] and T [k, k] with H_1 ... H_k = I - V T V^T, from LAPACK's factor [m, k]: T^-1 is striu(V^T V) + diag(1/tau)."""
    v = panel.T.triu(1)
    v.diagonal().fill_(1)
    none = tau == 0  # H = I: a reflection along 0
    v[none] = 0
    inverse = (v @ v.T).triu_(1)
    inverse.diagonal().copy_(1 / torch.where(none, torch.ones_like(tau), tau))
    return v, torch.linalg.solve_triangular(inverse, torch.eye(len(tau), dtype=tau.dtype), upper=True)


def _reflect(columns: Tensor, v: Tensor, t: Tensor, pool: ThreadPoolExecutor | None, helpers: int) -> None:
    """columns -= V T V^T columns, slice by slice."""
    slices = iter(columns.split(_SLICE, 1))

    def work() -> None:
        for part in slices:
            part.addmm_(v.T, t @ (v @ part), alpha=-1)

    def help_out() -> None:
        with torch.no_grad(), one_lapack_thread():
            work()

    others = [] if pool is None else [pool.submit(help_out) for _ in range(min(helpers, columns.shape[1] // _SLICE))]
    work()
    for other in others:
        other.result()

