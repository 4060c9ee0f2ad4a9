"""A TCP proxy on loopback that can lose connections, refuse them, or be slow."""

import contextlib
import random
import socket
import struct
import threading
import time
from typing import Self

# Closing such a socket resets its connection, as a cable that is pulled or a crash does.
_RESETS = struct.pack("ii", 1, 0)
_PIECE_BYTES = 1 << 16
_FLIGHT_BYTES = 10 * 1448
"""What TCP sends before it waits for an answer: its first window, of ten packets (RFC 6928)."""
_RESEND_S = 0.2
"""The least time after which Linux sends again; it doubles with each loss (RFC 6298)."""


class FaultyProxy:
    """A proxy in front of the server at `target` (HOST:PORT); clients connect to `address`."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self._target = (host.strip("[]"), int(port))
        self._delay_s = 0.0
        self._lost_share, self._draw = 0.0, random.Random()
        self.num_lost = 0
        """How often something was lost."""
        self._piece_bytes = _PIECE_BYTES
        self._hurry = threading.Event()
        self.refuses = False
        """Every new connection is reset."""
        self.cut_at: float | None = None
        """The time of its last cut, by `time.monotonic`."""
        self._cut_after: int | None = None
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing alone does not wake `accept`
        self._listener.close()
        accepting, *passing = self._threads
        accepting.join()  # after it no connection comes
        self.speed_up()
        self.cut()
        for thread in passing:
            thread.join(timeout=10)

    def slow_down(self, delay_s: float, piece_bytes: int = _PIECE_BYTES) -> None:
        """Hold back each piece for so long."""
        self._hurry.clear()
        self._delay_s, self._piece_bytes = delay_s, piece_bytes

    def hold(self) -> None:
        """Let nothing pass, and tell nobody, as a network that is cut in two."""
        self.slow_down(threading.TIMEOUT_MAX)

    def lose(self, share: float, draw: random.Random) -> None:
        """Lose this share of what is sent: TCP sends it again after a while, and longer each time.

        What comes after it on the same connection waits for it.
        """
        self._lost_share, self._draw = share, draw

    def speed_up(self) -> None:
        """Let everything pass at once, also what is held back."""
        self._lost_share = 0.0
        self._delay_s, self._piece_bytes = 0.0, _PIECE_BYTES
        self._hurry.set()

    def cut(self) -> None:
        """Reset every connection."""
        with self._lock:
            cut, self._open = self._open, set()
            self.cut_at = time.monotonic()
        for one in cut:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def cut_after(self, passed_bytes: int) -> None:
        """Cut when so many bytes have passed, over all connections and directions."""
        with self._lock:
            self.cut_at, self._cut_after = None, passed_bytes

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            if self.refuses:
                self.cut()
                continue
            for ends in ((client, server), (server, client)):
                self._threads.append(threading.Thread(target=self._pass, args=ends, daemon=True))
                self._threads[-1].start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # one of the two ended
            while data := source.recv(_FLIGHT_BYTES if self._lost_share else self._piece_bytes):
                if self._delay_s:
                    self._hurry.wait(self._delay_s)
                time.sleep(self._resent_after_s())
                if self._is_due(len(data)):
                    self.cut()
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _resent_after_s(self) -> float:
        """Seconds until what may be lost has come through."""
        with self._lock:
            waited_s, timeout_s = 0.0, _RESEND_S
            while self._draw.random() < self._lost_share:
                self.num_lost += 1
                waited_s, timeout_s = waited_s + timeout_s, 2 * timeout_s
            return waited_s

    def _is_due(self, passing_bytes: int) -> bool:
        with self._lock:
            if self._cut_after is None:
                return False
            self._cut_after -= passing_bytes
            due = self._cut_after < 0
            if due:
                self._cut_after = None
            return due
