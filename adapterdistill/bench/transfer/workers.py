"""Cells on several processes of one thread each, with the cache as their meeting point.

One thread a process: the matrix products of one step are too small to share, and threads of one
product wait for each other whenever the machine does something else.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import torch

from adapterdistill.bench.cache import ResultCache
from adapterdistill.bench.tenants import BenchTenant
from adapterdistill.bench.transfer.cells import Cell, Workbench
from adapterdistill.testbed.encoder_options import EncoderOptions

Runner = Callable[[Sequence[Cell], Callable[[Cell], None], float | None], bool]
"""(cells, called after each, deadline by `time.monotonic`) to whether all were run."""

_bench: Workbench | None = None


def end_with_parent() -> None:
    """Let this process end when the one that started it does, however that ended.

    A killed benchmark would otherwise leave workers that compute for nobody.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _start(encoder: EncoderOptions, tenants: Mapping[str, BenchTenant], cache: Path) -> None:
    global _bench
    end_with_parent()
    torch.set_num_threads(1)
    _bench = Workbench(encoder.load(), tenants, ResultCache(cache))


def _run_one(cell: Cell) -> None:
    assert _bench is not None
    _bench.run(cell)


def run_here(bench: Workbench) -> Runner:
    """Runs cells in this process, one after the other."""

    def run(cells: Sequence[Cell], done: Callable[[Cell], None], deadline: float | None) -> bool:
        for cell in cells:
            if deadline is not None and time.monotonic() > deadline:
                return False
            bench.run(cell)
            done(cell)
        return True

    return run


@contextmanager
def worker_processes(
    encoder: EncoderOptions, count: int, tenants: Mapping[str, BenchTenant], cache: Path
) -> Iterator[Runner]:
    """Start worker processes for the length of a `with`; each loads the encoder once."""
    pool = ProcessPoolExecutor(
        count,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(encoder, tenants, cache),
    )

    def run(cells: Sequence[Cell], done: Callable[[Cell], None], deadline: float | None) -> bool:
        waiting = list(reversed(cells))
        running: dict[Future[None], Cell] = {}
        while waiting or running:
            late = deadline is not None and time.monotonic() > deadline
            while waiting and not late and len(running) < 2 * count:
                cell = waiting.pop()
                running[pool.submit(_run_one, cell)] = cell
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
