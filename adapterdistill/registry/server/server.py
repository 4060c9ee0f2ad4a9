"""The registry's process: listening, readiness and shutdown around `RegistryService`."""

import asyncio
import contextlib
import ipaddress
import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from adapterdistill.errors import ConfigError, RegistryError
from adapterdistill.registry.admission.admission import Limits
from adapterdistill.registry.admission.quotas import Quotas
from adapterdistill.registry.index.database import INDEX, UNREADABLE, URL
from adapterdistill.registry.server.doorkeeper import Doorkeeper, Doors
from adapterdistill.registry.server.interceptors import ParsesOrMarks, Recorder
from adapterdistill.registry.server.metrics import Metrics
from adapterdistill.registry.server.renewing import Renewing
from adapterdistill.registry.server.service import RegistryService
from adapterdistill.registry.trust.credentials import ServerCredentials
from adapterdistill.registry.trust.pem import AUTHORITY_FOLDER, SERVER_FOLDER
from adapterdistill.registry.v1 import registry_pb2, registry_pb2_grpc
from adapterdistill.registry.wire import MAX_MESSAGE_BYTES

SERVICE_NAME = registry_pb2.DESCRIPTOR.services_by_name["RegistryService"].full_name
DEFAULT_LIMITS = Limits()
DEFAULT_QUOTAS = Quotas()
_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 100),
    # A dead client is noticed within 80 s; clients may ping every 10 s.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    # From the first byte of a connection to the end of TLS.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # A second registry on the same port must fail, not share it.
    ("grpc.so_reuseport", 0),
)
_RENEW_EVERY_S = 3600.0
logger = logging.getLogger(__name__)


class RegistryServer:
    """A registry on one folder. Call `start` and `stop` in the same event loop."""

    def __init__(
        self,
        root: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        socket: Path | None = None,
        limits: Limits = DEFAULT_LIMITS,
        quotas: Quotas = DEFAULT_QUOTAS,
        reflection: bool = False,
        max_concurrent_rpcs: int = 4096,  # each caller's own limit is much lower
        readiness_interval_s: float = 5.0,
        record: Path | None = None,
        passphrase: bytes | None = None,
        announce: bool = True,
        metrics_at: tuple[str, int] | None = None,
    ) -> None:
        """Prepare the server: mutual TLS if `root` holds a server's credentials, else plain text.

        Args:
            port: 0 takes any free one.
            socket: listen on this Unix socket instead, in plain text; whoever may enter its folder
                may do everything.
            reflection: list the calls to every client that connects.
            record: a file to which every message is written.
            passphrase: opens the authority's key, if it is in `root` and encrypted: the registry
                then renews certificates.
            announce: log where it listens, and to whom.
            metrics_at: host and port at which Prometheus may scrape it, in plain text.

        Raises:
            ConfigError: the credentials are unusable, or there are none and `host` is not loopback.
        """
        self._announce = announce
        self._credentials = _credentials_in(root)
        if self._credentials is None and not is_loopback(host):
            raise ConfigError(
                f"plain text is for loopback only, and {host} is not loopback: make certificates"
                f" first with `adapterdistill registry init --root {root}`"
            )
        self._root = root
        self._address = f"[{host}]" if ":" in host else host
        self._port = port
        self._socket = socket
        self._limits = limits
        self._quotas = quotas
        self._reflection = reflection
        self._max_concurrent_rpcs = max_concurrent_rpcs
        self._readiness_interval_s = readiness_interval_s
        self._recorder = None if record is None else Recorder(record)
        self._metrics = Metrics(root)
        self._metrics_at = metrics_at
        self._passphrase = passphrase

    async def start(self) -> str:
        """Start to serve; return the address.

        Raises:
            RegistryError: the port or the folder is in use, or unusable.
        """
        try:
            self._service = await asyncio.to_thread(
                RegistryService,
                self._root,
                self._limits,
                self._quotas,
                self._credentials,
                metrics=self._metrics,
                passphrase=self._passphrase,
            )
        except UNREADABLE as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise RegistryError(f"cannot open the registry folder {self._root}: {why}") from None
        self._health = health.aio.HealthServicer()
        await self._set_serving(False)
        self._server: Any = grpc.aio.server(
            interceptors=[*filter(None, [self._recorder]), ParsesOrMarks(SERVICE_NAME)],
            options=_OPTIONS,
            maximum_concurrent_rpcs=self._max_concurrent_rpcs,
        )
        add_service: Any = registry_pb2_grpc.add_RegistryServiceServicer_to_server  # untyped
        add_service(self._service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self._reflection:
            names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        asked = f"{self._address}:{self._port}" if self._socket is None else f"unix:{self._socket}"
        try:
            port = self._listen(asked)
        except RuntimeError:
            self._service.close()
            raise RegistryError(f"cannot listen on {asked}") from None
        try:
            self._end_metrics = self._serve_metrics()
        except RegistryError:
            self._service.close()
            raise
        await self._server.start()
        address = f"{self._address}:{port}" if self._socket is None else asked
        if self._announce:
            self._say_who_may_call(address)
        await self._set_serving(await self._is_ready())
        self._doorkeeper = Doorkeeper(port, Doors(), self._metrics.closed_connections.inc)
        if self._socket is None:
            self._doorkeeper.start()
        self._watch = asyncio.create_task(self._watch_readiness())
        self._renewal = asyncio.create_task(self._keep_certified())
        self._following = asyncio.create_task(self._service.follow_others())
        return address

    def _listen(self, address: str) -> int:
        if self._credentials is None or self._socket is not None:
            return int(self._server.add_insecure_port(address))
        return int(self._server.add_secure_port(address, self._credentials.for_grpc()))

    def _serve_metrics(self) -> Callable[[], None]:
        if self._metrics_at is None:
            return lambda: None
        port, end = self._metrics.serve(*self._metrics_at)
        logger.info("metrics on %s:%d, in plain text", self._metrics_at[0], port)
        return end

    async def stop(self, grace_s: float = 5.0) -> None:
        """Refuse new calls, give those in progress `grace_s` to end, and release the folder."""
        for task in (self._watch, self._renewal, self._following):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await asyncio.to_thread(self._doorkeeper.stop)
        await asyncio.to_thread(self._end_metrics)
        await self._health.enter_graceful_shutdown()
        self._service.end_watches()
        await self._server.stop(grace_s)
        await asyncio.to_thread(self._service.close)
        logger.info("stopped")

    async def _set_serving(self, serving: bool) -> None:
        statuses = health_pb2.HealthCheckResponse
        status = statuses.SERVING if serving else statuses.NOT_SERVING
        for name in ("", SERVICE_NAME):
            await self._health.set(name, status)

    async def _is_ready(self) -> bool:
        ready = True
        try:
            async with asyncio.timeout(10):
                await self._service.check()
        except UNREADABLE as error:  # TimeoutError is an OSError
            logger.error("not ready: %s", type(error).__name__)
            ready = False
        self._metrics.checked(ready=ready, closed=bool(self._service.closed))
        return ready

    def _say_who_may_call(self, address: str) -> None:
        if self._credentials is None:
            logger.warning(
                "listening on %s in plain text, for loopback only: everyone who connects may do"
                " everything",
                address,
            )
        else:
            logger.info(
                "listening on %s, for callers that the registry's authority enrolled", address
            )

    async def _watch_readiness(self) -> None:
        while True:
            await asyncio.sleep(self._readiness_interval_s)
            await self._set_serving(await self._is_ready())

    async def _keep_certified(self) -> None:
        while self._credentials is not None:
            await asyncio.to_thread(Renewing(self._root, self._passphrase).keep_server)
            await asyncio.sleep(_RENEW_EVERY_S)


def _credentials_in(root: Path) -> ServerCredentials | None:
    """Read the server's credentials; None if it never had any."""
    folder = root / SERVER_FOLDER
    # If there is an authority, credentials were lost: that must not open the registry to everyone.
    if folder.exists() or (root / AUTHORITY_FOLDER).exists():
        return ServerCredentials(folder)
    return None


def is_registry(root: Path) -> bool:
    """Say whether a registry was begun in the folder, by certificates or by serving it."""
    return any((root / name).exists() for name in (SERVER_FOLDER, AUTHORITY_FOLDER, INDEX, URL))


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def serve(server: RegistryServer, ready: Callable[[str], None]) -> None:
    """Run `server` until SIGTERM or SIGINT; call `ready` with its address."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    address = await server.start()
    try:
        ready(address)
        await stopping.wait()
    finally:
        await server.stop()
