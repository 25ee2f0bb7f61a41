"""Pieces of work that do not depend on one another, several at once, each on cores of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar

T = TypeVar("T")

MOST_AT_ONCE = 4
"""Pieces at work at once: each takes some hundred megabytes."""


def at_once(pieces: int) -> int:
    """How many of so many pieces are worked on at once: as many as torch may use cores, up to :data:`MOST_AT_ONCE`."""
    import torch

    return max(1, min(torch.get_num_threads(), MOST_AT_ONCE, pieces))


def by_threads(work: Iterable[Callable[[], T]], threads: int) -> Iterator[T]:
    """Results in order; no more work is taken than threads are free.

    Threads at pieces of their own wait less than many at one. Work sees the context variables of whoever asks.

    Examples
    --------
    >>> list(by_threads([lambda: 1, lambda: 2], threads=2))
    [1, 2]
    """
    import torch
    from threadpoolctl import threadpool_limits

    before, waiting = torch.get_num_threads(), deque[Future[T]]()
    cores = max(1, before // threads)
    # limits of BLAS are the process's and are put back; OpenMP's are each thread's own and end with it
    limited, start = threadpool_limits(cores, user_api="blas"), partial(_keep_to, cores)
    with limited, ThreadPoolExecutor(threads, initializer=start) as pool:
        try:
            for piece in work:
                waiting.append(pool.submit(copy_context().run, piece))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)


def _keep_to(cores: int) -> None:
    """Have what a thread calls use so many cores."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(cores)
    threadpool_limits(cores, user_api="openmp")
