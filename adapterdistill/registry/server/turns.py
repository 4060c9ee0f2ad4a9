"""Threads that work for callers in turns."""

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
Work = tuple[Future[Any], Callable[[], Any]]
caller_name: ContextVar[str] = ContextVar("caller_name", default="")
"""The caller whom the current call works for."""


class Turns:
    """Threads that take one piece of work of each caller in turn.

    However much one caller has waiting, another waits for one piece of each caller's at most.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._waiting: OrderedDict[str, deque[Work]] = OrderedDict()
        self._changed = threading.Condition()
        self._ending = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` on a thread, in the turn of the current caller."""
        future: Future[T] = Future()
        with self._changed:
            if self._ending:
                raise RuntimeError("no work is taken after the shutdown")
            self._waiting.setdefault(caller_name.get(), deque()).append((future, work))
            self._changed.notify()
        return await asyncio.wrap_future(future)

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            future, work = taken
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del future, work, taken  # otherwise an idle thread keeps the last result

    def _next(self) -> Work | None:
        with self._changed:
            while not self._waiting:
                if self._ending:
                    return None
                self._changed.wait()
            name, mine = self._waiting.popitem(last=False)
            work = mine.popleft()
            if mine:
                self._waiting[name] = mine  # at the end: the others come first
            return work

    def shutdown(self) -> None:
        """Finish what waits, and end the threads."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
