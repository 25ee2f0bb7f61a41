"""Work that threads share: all of it, once, in order, as if it had been done in turn."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from functools import partial

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from stgnn.threads import MOST_AT_ONCE, at_once, by_threads
from stgnn.train import shared


def test_results_come_in_order_and_two_pieces_are_at_work_at_once():
    both = threading.Barrier(2, timeout=20)  # which one alone would wait for in vain

    def piece(number: int) -> int:
        both.wait()
        return number

    assert list(by_threads([partial(piece, number) for number in range(6)], 2)) == list(range(6))


@pytest.mark.parametrize(("cores", "own"), [(1, 1), (2, 1), (5, 2)])
def test_work_sees_the_context_and_its_part_of_the_cores(two_threads, cores, own):
    torch.set_num_threads(cores)
    asked: ContextVar[int] = ContextVar("asked", default=0)
    asked.set(3)
    blas = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    seen = list(by_threads([lambda: (asked.get(), torch.get_num_threads())] * 2, 2))
    assert seen == [(3, own)] * 2
    assert torch.get_num_threads() == cores
    assert [pool for pool in threadpool_info() if pool["user_api"] == "blas"] == blas


def test_what_fails_is_heard_of_and_what_waits_is_not_begun():
    begun = []

    def piece(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise ValueError("one")
        return number

    with pytest.raises(ValueError, match="one"):
        list(by_threads((partial(piece, number) for number in range(50)), 2))
    assert len(begun) < 50


def test_no_more_at_once_than_pieces_cores_or_what_memory_allows(two_threads):
    assert [at_once(n) for n in (0, 1, 2, 9)] == [1, 1, 2, 2]
    torch.set_num_threads(64)
    assert at_once(100) == MOST_AT_ONCE


def test_threads_share_as_one_would_do_in_turn(two_threads):
    def draw(seed: int) -> np.ndarray:
        x = np.random.default_rng(seed).normal(size=(300, 40))
        return np.linalg.svd(x.T @ x)[1]

    work = [partial(draw, seed) for seed in range(5)]
    for alone, together in zip(shared(work), shared(work, threads=True), strict=True):
        np.testing.assert_allclose(alone, together, rtol=1e-10)


def test_within_shared_work_nothing_is_shared(two_threads):
    def inner() -> str:
        return threading.current_thread().name

    def outer() -> set[str]:
        return {inner(), *shared([inner, inner, inner], threads=True)}

    assert all(len(names) == 1 for names in shared([outer, outer], threads=True))
