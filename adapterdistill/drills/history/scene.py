"""What concurrent callers of one registry share: its address, their certificates, the record."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import grpc

from adapterdistill.drills.history.record import Call, History, Incarnation, Told
from adapterdistill.errors import AdapterDistillError, UnauthenticatedError
from adapterdistill.manifest import Manifest
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.client.watch import RESTORED
from adapterdistill.registry.trust.credentials import read_credentials
from adapterdistill.registry.v1 import registry_pb2_grpc


@dataclass
class Scene:
    """The state of a run. The lock guards the record and the counts."""

    address: str
    limit: int
    """Number of calls to make."""
    credentials: dict[str, tuple[int, Path]]
    """The newest certificate of each caller: its number, and its folder."""
    history: History = field(default_factory=History)
    uploads: dict[str, tuple[Manifest, bytes]] = field(default_factory=dict)
    """Everything that was sent, by name."""
    incarnations: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    numbers: "count[int]" = field(default_factory=count)
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: threading.Event = field(default_factory=threading.Event)
    """Unset while the registry is down."""
    ended: threading.Event = field(default_factory=threading.Event)
    clients: list[RegistryClient] = field(default_factory=list)
    begun: int = 0
    open_calls: int = 0

    @property
    def now(self) -> Incarnation:
        return self.history.incarnations[-1]

    def known(self, prefix: str = "") -> list[str]:
        """List the names of what was sent, oldest first, of one tenant or of all."""
        with self.lock:
            return [name for name in self.uploads if name.startswith(prefix)]

    @contextmanager
    def one_more(self) -> Iterator[bool]:
        """Wait for the registry; yield whether there is a call to make, which is open meanwhile."""
        self.running.wait(0.1)
        with self.lock:
            more = self.running.is_set() and self.begun < self.limit
            self.begun += more
            self.open_calls += more
        try:
            yield more
        finally:
            with self.lock:
                self.open_calls -= more

    def opened(self, client: RegistryClient) -> None:
        """Have the client closed at the end, which ends its watch."""
        with self.lock:
            self.clients.append(client)
            if self.ended.is_set():
                client.close()

    def end(self) -> None:
        """End calls and watches."""
        self.limit = 0
        self.running.set()
        with self.lock:
            self.ended.set()
            for client in self.clients:
                client.close()

    def record(self, incarnation: Incarnation, call: Call) -> None:
        with self.lock:
            incarnation.calls.append(call)

    def tell(self, caller: str, incarnation: str, one: Told) -> None:
        """Record an event of a watch."""
        with self.lock:
            if incarnation not in self.incarnations:
                self.faults.append(f"the watch of {caller} named another incarnation")
                return
            told = self.history.incarnations[self.incarnations.index(incarnation)].told
            told.setdefault(caller, []).append(one)


class Client:
    """The connections of one thread, opened again when its caller has a new certificate."""

    def __init__(self, scene: Scene, caller: str) -> None:
        self._scene, self._caller = scene, caller
        self._channel: Any = None
        self.certificate = -1
        self.registry: RegistryClient
        self.once: Any
        """The calls as they are: none is repeated."""

    def renew(self) -> None:
        number, folder = self._scene.credentials[self._caller]
        if number == self.certificate:
            return
        self.close()
        self.certificate = number
        self.registry = RegistryClient(self._scene.address, credentials=folder)
        secure = read_credentials(folder).for_grpc()
        options = [
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        self._channel = grpc.secure_channel(self._scene.address, secure, options=options)
        stub: Any = registry_pb2_grpc.RegistryServiceStub
        self.once = stub(self._channel)

    def close(self) -> None:
        if self._channel is not None:
            self.registry.close()
            self._channel.close()


def watch(scene: Scene, caller: str) -> None:
    """Record what a watch tells until its client is closed, across restarts and certificates."""
    revision, incarnation = 0, ""
    while not scene.ended.is_set():
        number, folder = scene.credentials[caller]
        client = RegistryClient(scene.address, credentials=folder)
        scene.opened(client)
        try:
            for event in client.watch(revision, incarnation=incarnation):
                at_s = time.monotonic()
                if event.kind != RESTORED:
                    revision, incarnation = event.revision, event.incarnation
                    one = Told(at_s, event.revision, event.kind, event.name, number)
                    scene.tell(caller, incarnation, one)
        except UnauthenticatedError:
            while scene.credentials[caller][0] == number and not scene.ended.wait(0.05):
                pass
        except AdapterDistillError as error:
            if not scene.ended.is_set():
                scene.faults.append(f"the watch of {caller} ended: {error.reason}")
                return
        finally:
            client.close()
