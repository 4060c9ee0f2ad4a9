"""A queue of loads, one for each tenant, bounded by the time that they take."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from adapterdistill.errors import OverloadedError
from adapterdistill.serve.engine.live import LiveTenant

MAX_WAIT_S = 3.0
"""Longest wait of a load; one that would wait longer is refused at once. It is well within a
request's time, because the request then waits for a batch."""
_NICENESS = 10
_FIRST_LOAD_S = 0.01
_FORGOTTEN_PER_LOAD = 0.05


@dataclass
class PagingCounts:
    """Counts since the start, readable at any time. Hits are exact while one thread admits."""

    hits: int = 0
    """Admissions of tenants in memory."""
    waits: int = 0
    """Admissions that wait for a load; several may share one."""
    loads: int = 0
    failures: int = 0
    evictions: int = 0
    overloads: int = 0
    """Admissions refused because too many loads wait."""


class LoadQueue:
    """Runs `load` on its own threads. Thread-safe."""

    def __init__(
        self, load: Callable[[str], LiveTenant], counts: PagingCounts, *, threads: int
    ) -> None:
        self._load = load
        self._counts = counts
        self._num_threads = threads
        self._threads = ThreadPoolExecutor(
            threads, thread_name_prefix="load", initializer=_give_way
        )
        self._lock = threading.Lock()  # held for a look-up only
        self._loads: dict[str, Future[LiveTenant]] = {}
        self._load_s = _FIRST_LOAD_S  # duration of a load, mostly of the last twenty

    @property
    def wait_s(self) -> float:
        """About how long one more load would wait."""
        return len(self._loads) * self._load_s / self._num_threads

    def join(self, key: str) -> Future[LiveTenant]:
        """The load of `key`, which all requests for it share.

        Raises:
            OverloadedError: it would wait for too long.
        """
        with self._lock:
            load = self._loads.get(key)
            if load is None:
                wait_s = self.wait_s
                if wait_s > MAX_WAIT_S:
                    self._counts.overloads += 1
                    raise OverloadedError(
                        "too many adapters are being loaded", retry_after_s=wait_s
                    )
                load = self._threads.submit(self._timed, key)
                self._loads[key] = load
                load.add_done_callback(lambda _: self._loads.pop(key, None))
            self._counts.waits += 1
        return load

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _timed(self, key: str) -> LiveTenant:
        began = time.monotonic()
        try:
            return self._load(key)
        finally:
            took_s = time.monotonic() - began
            with self._lock:
                self._load_s += _FORGOTTEN_PER_LOAD * (took_s - self._load_s)


def _give_way() -> None:
    """Lower this thread's priority: tenants in memory are answered before others are loaded."""
    with contextlib.suppress(OSError):  # only on Linux does a thread have a priority
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
