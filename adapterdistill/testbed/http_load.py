"""Load over HTTP: a client that does no more than it must, as it shares the cores with the server.

HTTP/1.1 over kept connections, one request at a time on each, responses of a stated length.
"""

import asyncio
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from adapterdistill.errors import ServingError

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_TIMEOUT_S = 60.0
_MOST_SCRAPES = 50
_REPLICA = re.compile(rb'replica="([^"]+)"')


@dataclass(frozen=True)
class Reply:
    """`sent` and `seconds` by `time.perf_counter`; status 0: the connection was lost."""

    status: int
    body: bytes
    sent: float
    seconds: float


class _Exchange(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._received = b""
        self._end = 0  # of the response, once its head is there
        self._body_at = 0
        self._reply: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionResetError("closed before the answer's end"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._end:
            found = self._received.find(_HEAD_END)
            if found < 0:
                return
            length = _LENGTH.search(self._received, 0, found)
            if length is None:
                raise AssertionError("the benchmark reads only answers that state their length")
            self._body_at = found + len(_HEAD_END)
            self._end = self._body_at + int(length[1])
        if len(self._received) >= self._end and self._reply is not None and not self._reply.done():
            body = self._received[self._body_at : self._end]
            self._reply.set_result((int(self._received[9:12]), body))

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        assert self.transport is not None
        self._received, self._end = b"", 0
        self._reply = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self._reply


class Client:
    """One connection to a server on http://HOST:PORT, opened when needed."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        assert parts.hostname is not None and parts.port is not None
        self._host, self._port = parts.hostname, parts.port
        self._exchange = _Exchange()

    async def ask(self, request: bytes) -> Reply:
        """Raises OSError if the connection cannot be made, ends, or brings no answer in time."""
        sent = time.perf_counter()
        if self._exchange.transport is None or self._exchange.transport.is_closing():
            loop = asyncio.get_running_loop()
            _, self._exchange = await loop.create_connection(_Exchange, self._host, self._port)
        try:
            status, body = await asyncio.wait_for(self._exchange.exchange(request), _TIMEOUT_S)
        except TimeoutError:
            self.close()
            raise
        return Reply(status, body, sent, time.perf_counter() - sent)

    def close(self) -> None:
        if self._exchange.transport is not None:
            self._exchange.transport.close()


class ClientPool:
    """Connections to a server that are kept; another is made when all are busy."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._free: list[Client] = []
        self.busy = 0

    async def ask(self, request: bytes) -> Reply:
        """Ask over a free connection; raises as `Client.ask`."""
        client = self._free.pop() if self._free else Client(self._address)
        self.busy += 1
        try:
            return await client.ask(request)
        except OSError:
            client.close()
            raise
        finally:
            self.busy -= 1
            self._free.append(client)

    def close(self) -> None:
        for client in self._free:
            client.close()


def get(path: str) -> bytes:
    """A GET request's bytes."""
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """A POST request's bytes, of JSON."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def scrape(address: str) -> tuple[str, bytes]:
    """The metrics of the replica that a new connection reaches, after its name."""
    client = Client(address)
    try:
        body = (await client.ask(get("/metrics"))).body
    finally:
        client.close()
    found = _REPLICA.search(body)
    return found[1].decode() if found else "", body


async def scrape_all(address: str, replicas: int) -> list[bytes]:
    """The metrics of each of so many replicas. Raises ServingError: not all are reached."""
    bodies: dict[str, bytes] = {}
    for _ in range(_MOST_SCRAPES):
        name, body = await scrape(address)
        bodies[name] = body
        if len(bodies) == replicas:
            return list(bodies.values())
    raise ServingError(f"only {len(bodies)} of {replicas} replicas are reached")


@contextmanager
def clients(address: str, count: int) -> Iterator[list[Client]]:
    """Clients of one event loop, closed at the end."""
    opened = [Client(address) for _ in range(count)]
    try:
        yield opened
    finally:
        for client in opened:
            client.close()


async def load(
    address: str, requests: Sequence[bytes], *, num_clients: int, seconds: float = float("inf")
) -> tuple[list[tuple[int, Reply]], float]:
    """Clients that each ask again when they are answered, until all was asked or time is up.

    Returns what was answered, each with its request's place in `requests`, and the seconds that all
    of it took.
    """
    replies: list[tuple[int, Reply]] = []
    places = iter(range(len(requests)))
    began = time.perf_counter()
    until = began + seconds

    async def work(client: Client) -> None:
        for place in places:
            sent = time.perf_counter()
            try:
                reply = await client.ask(requests[place])
            except OSError:
                reply = Reply(0, b"", sent, time.perf_counter() - sent)
            replies.append((place, reply))
            if time.perf_counter() >= until:
                return

    with clients(address, num_clients) as opened:
        await asyncio.gather(*map(work, opened))
    return replies, time.perf_counter() - began


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    cut = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else [seconds[0]] * 99
    return {
        name: milliseconds(cut[at]) for name, at in (("p50_ms", 49), ("p95_ms", 94), ("p99_ms", 98))
    }


def milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 3)
