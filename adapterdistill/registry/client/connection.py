"""A client's channel to the registry: mutual TLS with credentials, plain text without."""

import contextlib
import logging
import re
import socket
import ssl
import threading
import weakref
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from adapterdistill.errors import AdapterDistillError, ConfigError, UnauthenticatedError
from adapterdistill.registry.status import from_call
from adapterdistill.registry.trust import pem
from adapterdistill.registry.trust.certificates import serial_of
from adapterdistill.registry.trust.credentials import (
    Credentials,
    Reread,
    credential_files,
    read_credentials,
)
from adapterdistill.registry.v1 import registry_pb2_grpc
from adapterdistill.registry.wire import MAX_MESSAGE_BYTES

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # By default gRPC waits up to 2 minutes before it reconnects, longer than any deadline here.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Calls between owners must never pass through a web proxy that the environment names.
    ("grpc.enable_http_proxy", 0),
)
_NOT_THE_ONE = "is not the one that these credentials are for"
_SERVER_REFUSED = {
    "WRONG_VERSION_NUMBER": "speaks no TLS",
    "CERTIFICATE_VERIFY_FAILED": f"{_NOT_THE_ONE}: another authority issued its certificate",
    "Hostname Verification Check failed": f"{_NOT_THE_ONE}: its certificate names other hosts",
    "TSI_PROTOCOL_FAILURE": f"{_NOT_THE_ONE}, or speaks no TLS",
    "security handshaker": f"{_NOT_THE_ONE}, or speaks no TLS",
}
"""Parts of gRPC's message when the client itself refused the server, for good; in plain words."""
_PROBE_TIMEOUT_S = 2.0
_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_SOCKET = "unix:/"  # of a registry inside a process: `server.embedded`
logger = logging.getLogger(__name__)


class Channel:
    """A channel and its stubs, which are generated without types."""

    def __init__(self, channel: Any) -> None:
        registry: Any = registry_pb2_grpc.RegistryServiceStub
        self.registry: Any = registry(channel)
        self.health: Any = health_pb2_grpc.HealthStub(channel)
        self.grpc: Any = channel


class Connection:
    """A channel that is replaced whenever the credentials change. Thread-safe.

    Calls that began on the earlier channel may end on it.
    """

    def __init__(
        self, address: str, credentials: Path | None, server_name: str | None = None
    ) -> None:
        """Open the first channel.

        `server_name` is the name in the server's certificate, if it is not the address's host.

        Raises:
            ConfigError: the address is malformed, or the credentials folder is unusable.
        """
        found = _ADDRESS.fullmatch(address)
        known = address.startswith(_SOCKET) or (found is not None and 0 < int(found[1]) < 65536)
        if not known:
            raise ConfigError(
                f"not an address of a registry: expected HOST:PORT, got {address!r:.80}"
            )
        self._address = address
        self._options = _OPTIONS
        if server_name is not None:
            self._options += (("grpc.ssl_target_name_override", server_name),)
        self.closed = False
        self._folder = credentials
        self._lock = threading.Lock()
        self._now: Channel | None = None
        # Earlier channels, as long as calls on them last: gRPC closes a channel without references.
        self._channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        self._read: Reread[Credentials] | None = None
        if credentials is not None:
            files = credential_files(credentials)
            self._read = Reread(files, lambda: read_credentials(credentials))
        self.channel()

    def channel(self) -> Channel:
        """Return the channel for the next call.

        gRPC for Python reads a channel's certificate only once (grpc issue 41779), so a renewed
        certificate needs a new channel.
        """
        with self._lock:
            if self._read is None:
                return self._now or self._opened(None)
            try:
                credentials, changed = self._read()
            except ConfigError as error:
                if self._now is None:
                    raise
                # The files may be half copied; the earlier credentials are good until they expire.
                logger.warning("the client keeps its earlier credentials: %s", error)
                return self._now
            if changed or self._now is None:
                return self._opened(credentials)
            return self._now

    def _opened(self, credentials: Credentials | None) -> Channel:
        if credentials is None:
            channel = grpc.insecure_channel(self._address, options=self._options)
        else:
            secure = credentials.for_grpc()
            channel = grpc.secure_channel(self._address, secure, options=self._options)
        self._now = Channel(channel)
        self._channels.add(self._now)
        return self._now

    @property
    def credentials(self) -> Credentials | None:
        """The credentials that were last read; None for plain text."""
        return None if self._read is None else self._read.value

    def close(self) -> None:
        self.closed = True
        with self._lock:
            for channel in self._channels:
                channel.grpc.close()

    def explain(self, error: Any, subject: str) -> AdapterDistillError:
        """Return the domain error of a failed call; `subject` says what was called.

        Args:
            error: a `grpc.RpcError`.
        """
        return self._refusal(error) or from_call(error, subject)

    def _refusal(self, error: Any) -> UnauthenticatedError | None:
        """Return why a connection is impossible; None if a later attempt may succeed.

        A server that refuses a certificate closes the connection without an alert (TLS 1.3 in
        gRPC), just like a server that died. `_probe` tells the two apart.
        """
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            return None
        details = str(error.details())
        credentials = self.credentials
        where = f"registry {self._address}"
        if credentials is None:
            if _hung_up(details) and self._probe() is not None:
                return UnauthenticatedError(
                    f"{where} speaks TLS only: a credentials folder is needed"
                )
            return None
        try:
            credentials.check()
        except UnauthenticatedError as fault:
            return UnauthenticatedError(
                f"{self._folder}: {fault}; it cannot renew itself any more: `adapterdistill owner"
                f" show {self._folder}` says what to do"
            )
        refused = next((told for part, told in _SERVER_REFUSED.items() if part in details), None)
        if refused is not None:
            return UnauthenticatedError(f"{where} {refused}")
        if _hung_up(details) and self._probe() == b"":
            return UnauthenticatedError(
                f"{where} refuses certificate {serial_of(credentials.certificate)} of"
                f" {credentials.caller}: another authority's, one of an authority that was"
                " replaced, or expired by its clock"
            )
        return None

    def _probe(self) -> bytes | None:
        """Return the server's first byte over TLS, b"" if it closes; None if there is no TLS."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # gRPC verifies the name itself
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        host, _, port = self._address.rpartition(":")
        try:
            if self._folder is not None:
                context.load_cert_chain(self._folder / pem.CERTIFICATES, self._folder / pem.TLS_KEY)
            found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except (OSError, ValueError):
            return None
        for family, kind, protocol, _, address in found:
            # Wrap the socket before it connects: wrapping one that was reset leaks it.
            with context.wrap_socket(socket.socket(family, kind, protocol)) as secured:
                secured.settimeout(_PROBE_TIMEOUT_S)
                with contextlib.suppress(OSError):
                    secured.connect(address)
                    return secured.recv(1)
        return None


def _hung_up(details: str) -> bool:
    return "Socket closed" in details or "Connection reset" in details
