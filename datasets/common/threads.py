"""One thread for work on small arrays, which several threads only slow down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

__all__ = ["one_blas_thread", "one_torch_thread"]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Context manager that limits numpy's matrix products to one thread and restores the number of threads."""
    with _blas().limit(limits=1):
        yield


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Context manager that limits PyTorch to one thread and restores the number of threads."""
    import torch  # not above: processes that only render MNIST's digits start without it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")
