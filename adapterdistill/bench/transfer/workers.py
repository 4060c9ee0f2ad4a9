"""Cells on several processes of one thread each, with the cache as their meeting point.

One thread a process: the matrix products of one step are too small to share, and threads of one
product wait for each other whenever the machine does something else.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import psutil
import torch

J = TypeVar("J")
J_contra = TypeVar("J_contra", contravariant=True)

Runner = Callable[[Sequence[J], Callable[[J], None], float | None], bool]
"""(jobs, called after each, deadline by `time.monotonic`) to whether all were run."""


class Bench(Protocol[J_contra]):
    """Runs one kind of job, and keeps what it makes in the cache."""

    def run(self, job: J_contra, /) -> None: ...


_bench: Bench[Any] | None = None


def end_with_parent() -> None:
    """Let this process end when the one that started it does, however that ended.

    A killed benchmark would otherwise leave workers that compute for nobody, and their registries.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        for child in psutil.Process().children(recursive=True):
            child.terminate()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start(open_bench: Callable[[], Bench[Any]]) -> None:
    global _bench
    end_with_parent()
    torch.set_num_threads(1)
    _bench = open_bench()


def _run_one(job: Any) -> None:
    assert _bench is not None
    _bench.run(job)


def run_here(bench: Bench[J]) -> Runner[J]:
    """Runs jobs in this process, one after the other."""

    def run(jobs: Sequence[J], done: Callable[[J], None], deadline: float | None) -> bool:
        for job in jobs:
            if deadline is not None and time.monotonic() > deadline:
                return False
            bench.run(job)
            done(job)
        return True

    return run


@contextmanager
def worker_processes(open_bench: Callable[[], Bench[J]], count: int) -> Iterator[Runner[J]]:
    """Start worker processes for the length of a `with`; each opens the bench once.

    Args:
        open_bench: is sent to the processes, so it can be pickled.
    """
    pool = ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(open_bench,),
    )

    def run(jobs: Sequence[J], done: Callable[[J], None], deadline: float | None) -> bool:
        waiting = list(reversed(jobs))
        running: dict[Future[None], J] = {}
        while waiting or running:
            late = deadline is not None and time.monotonic() > deadline
            while waiting and not late and len(running) < 2 * count:
                job = waiting.pop()
                running[pool.submit(_run_one, job)] = job
            if not running:
                return False
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                done(running.pop(future))
        return True

    try:
        yield run
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
