"""Connections that say nothing are closed; those that speak are not."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from adapterdistill.registry.server import doorkeeper
from adapterdistill.registry.server.doorkeeper import Doorkeeper, Doors

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@contextlib.contextmanager
def connected(server: socket.socket, number: int) -> Iterator[list[Pair]]:
    with contextlib.ExitStack() as stack:
        pairs = []
        for _ in range(number):
            client = stack.enter_context(socket.create_connection(server.getsockname()))
            accepted, _ = server.accept()
            pairs.append((client, stack.enter_context(accepted)))
        yield pairs


def is_closed(pair: Pair) -> bool:
    client, _ = pair
    client.settimeout(0.05)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False


def keeper(server: socket.socket, **doors: Any) -> Doorkeeper:
    return Doorkeeper(server.getsockname()[1], Doors(**doors))


def test_an_address_may_have_some_silent_connections_for_a_while(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(doorkeeper.time, "monotonic", lambda: now[0])
    doors = keeper(listening, silent_each=4, silent_s=10.0)
    with connected(listening, 10) as pairs:
        speaking = pairs[0]
        speaking[0].sendall(b"x")
        assert speaking[1].recv(1) == b"x"
        assert doors.sweep() == 5  # all but the speaking one and four
        assert sum(map(is_closed, pairs)) == 5 and not is_closed(speaking)
        for client, accepted in pairs:
            if is_closed((client, accepted)):
                accepted.close()
        now[0] = 9.0
        assert doors.sweep() == 0
        now[0] = 11.0
        assert doors.sweep() == 4
        assert not is_closed(speaking)


def test_an_address_may_have_so_many_connections(listening: socket.socket) -> None:
    with connected(listening, 6) as pairs:
        for client, accepted in pairs:
            client.sendall(b"x")
            accepted.recv(1)
        assert keeper(listening, each=4).sweep() == 2
        assert sum(map(is_closed, pairs)) == 2


def test_other_sockets_and_files_of_the_process_are_left_alone(listening: socket.socket) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        connected(other, 3) as pairs,
        socket.socket(socket.AF_UNIX) as local,
    ):
        assert keeper(listening, silent_each=0, each=0).sweep() == 0
        assert not any(map(is_closed, pairs)) and local.fileno() > 0


def test_it_starts_and_stops(listening: socket.socket) -> None:
    doors = keeper(listening)
    doors.start()
    doors.stop()
    keeper(listening).stop()  # never started
