"""Closes connections that say nothing, and those of an address that has too many.

gRPC accepts every connection and has no limit of its own: a few hundred silent ones would take all
file descriptors of the process. A connection is shut down from outside, as if its client had gone;
gRPC then closes it. This needs no descriptor, so it works when none are left.
"""

import contextlib
import logging
import os
import socket
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_INTERVAL_S = 0.25
_GAP = 256
"""Number of unused descriptors after which there are no more."""
_BYTES_RECEIVED = slice(128, 136)
"""Place of `tcpi_bytes_received` in Linux's `struct tcp_info`."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Doors:
    """Limits on connections that have not, or not yet, sent anything, and on each address."""

    silent_s: float = 10.0
    silent_each: int = 32
    each: int = 512


class Doorkeeper:
    """Watches the connections of one listening port of this process, from `start` to `stop`."""

    def __init__(
        self, port: int, doors: Doors, on_closed: Callable[[int], object] = lambda _: None
    ) -> None:
        """Prepare to watch `port`; `on_closed` is told how many connections were closed."""
        self._port = port
        self._doors = doors
        self._on_closed = on_closed
        self._since: dict[tuple[int, str], float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry-doors", daemon=True)

    def start(self) -> None:
        """Begin; does nothing where the system does not tell what a connection received."""
        if sys.platform == "linux":
            self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_INTERVAL_S):
            closed = self.sweep()
            if closed:
                self._on_closed(closed)
                logger.warning("closed %d silent or superfluous connections", closed)

    def sweep(self) -> int:
        """Shut down and count the connections over the limits, newest first."""
        now, closed = time.monotonic(), 0
        since: dict[tuple[int, str], float] = {}
        all_of, silent_of = Counter[str](), Counter[str]()
        for descriptor, connection in _connections(self._port):
            host, port = connection.getpeername()[:2]
            key = (descriptor, f"{host} {port}")
            since[key] = self._since.get(key, now)
            all_of[host] += 1
            received = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
            is_silent = not any(received[_BYTES_RECEIVED])
            silent_of[host] += is_silent
            if (
                all_of[host] > self._doors.each
                or silent_of[host] > self._doors.silent_each
                or (is_silent and now - since[key] > self._doors.silent_s)
            ):
                connection.shutdown(socket.SHUT_RDWR)
                closed += 1
        self._since = since
        return closed


def _connections(port: int) -> Iterator[tuple[int, socket.socket]]:
    """Yield this process's connections to its port; do not keep them."""
    unused, descriptor = 0, 3
    while unused < _GAP:
        try:
            is_socket = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
            unused = 0
        except OSError:
            is_socket, unused = False, unused + 1
        if is_socket:
            # gRPC owns the descriptor: it may close it at any time, and it must not be closed here.
            with contextlib.suppress(OSError):
                connection = socket.socket(fileno=descriptor)
                try:
                    if (
                        connection.family in (socket.AF_INET, socket.AF_INET6)
                        and connection.getsockname()[1] == port
                        and connection.getpeername()
                    ):
                        yield descriptor, connection
                finally:
                    connection.detach()
        descriptor += 1
