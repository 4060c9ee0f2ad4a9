"""The Prometheus metrics of a registry: numbers and names of calls, never of owners or adapters.

They are served on a port of their own, because callers of the registry's port need certificates.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from adapterdistill.errors import ConfigError, RegistryError
from adapterdistill.registry.index.database import UNREADABLE, connect_for_reading
from adapterdistill.registry.index.schema import State
from adapterdistill.registry.trust.pem import SERVER_FOLDER, SERVER_PEM, read_server
from adapterdistill.registry.upkeep.audit_verify import LOG

_PREFIX = "adapterdistill_registry_"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LATELY_S = 24 * 3600
_MAX_CERTIFICATES = 4096
_GAUGES = {
    "stored_bytes": "Payloads of all versions, withdrawn ones too.",
    "owners": "Tenants that have published.",
    "adapters": "Adapters that have a version.",
    "revision": "Number of the newest change.",
    "audit_log_bytes": "Size of the audit log.",
    "disk_free_bytes": "Left on the disk of the registry's folder.",
    "server_certificate_seconds": "Until the server's certificate expires; none: plain text.",
}


class Metrics:
    """The metrics of one registry process. Its event loop counts calls, other threads the rest."""

    def __init__(self, root: Path) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(_Folder(root))
        self._calls = Counter(
            _PREFIX + "calls",
            "Ended calls. Outcome: OK, CANCELLED, or the reason of the refusal.",
            ["call", "outcome"],
            registry=registry,
        )
        self._running = Gauge(
            _PREFIX + "running_calls", "Calls that run now.", ["call"], registry=registry
        )
        self._seconds = Histogram(
            _PREFIX + "call_seconds",
            "Of answered calls, watches apart.",
            ["call"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.closed_connections = Counter(
            _PREFIX + "closed_connections",
            "Connections closed because they were silent or too many.",
            registry=registry,
        )
        self._ends: dict[str, tuple[float, float]] = {}
        registry.register(_Ends(self._ends))
        self._ready = Gauge(
            _PREFIX + "ready", "1: index, audit log and disk can be used.", registry=registry
        )
        self._open = Gauge(
            _PREFIX + "open", "0: restored, and closed to all but operators.", registry=registry
        )

    @contextmanager
    def call(self, name: str) -> Iterator[Callable[[str], None]]:
        """Count a call while the block runs; gives the function that takes its outcome.

        A call that ends without one was cancelled by its caller.
        """
        outcomes = ["CANCELLED"]
        started_at = time.perf_counter()
        running = self._running.labels(name)
        running.inc()
        try:
            yield outcomes.append
        finally:
            running.dec()
            self._calls.labels(name, outcomes[-1]).inc()
            if outcomes[-1] == "OK" and name != "Watch":
                self._seconds.labels(name).observe(time.perf_counter() - started_at)

    def called_with(self, certificate: str | None, ends_at: Callable[[], float]) -> None:
        """Keep until when the certificate of a valid call is valid.

        Args:
            certificate: names it; None over plain text.
            ends_at: returns the end, in seconds since 1970; called when it is new alone.
        """
        if certificate is None:
            return
        known = self._ends.pop(certificate, None)
        self._ends[certificate] = (ends_at() if known is None else known[0], time.time())
        if len(self._ends) > _MAX_CERTIFICATES:
            del self._ends[next(iter(self._ends))]

    def checked(self, *, ready: bool, closed: bool) -> None:
        """Keep the result of the newest check of readiness."""
        self._ready.set(ready)
        self._open.set(not closed)

    def serve(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """Answer `GET /metrics` on a thread; return the port, and the function that ends it.

        Raises:
            RegistryError: the port is in use, or the host is not one of this machine.
        """
        kind = _OverIPv6 if ":" in host else WSGIServer
        try:
            server = make_server(host, port, make_wsgi_app(self.registry), kind, _Scrape)
        except OSError as error:
            raise RegistryError(
                f"cannot serve the metrics on {host}:{port}: {error.strerror}"
            ) from None
        thread = threading.Thread(target=server.serve_forever, name="registry-metrics", daemon=True)
        thread.start()

        def end() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return server.server_port, end


class _OverIPv6(WSGIServer):
    address_family = socket.AF_INET6


class _Scrape(WSGIRequestHandler):
    """One scrape at a time, and none that says nothing: together they hold one thread."""

    timeout = 2

    def log_message(self, *_: object) -> None:
        """Write no line for each scrape."""


class _Ends(Collector):
    """The certificate that ends first, of those that callers used lately."""

    def __init__(self, ends: dict[str, tuple[float, float]]) -> None:
        self._of = ends

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            _PREFIX + "caller_certificate_seconds",
            "Until the first certificate expires, of those that called within a day.",
        )
        now = time.time()
        if ends := [end for end, seen in [*self._of.values()] if now - seen < _LATELY_S]:
            family.add_metric([], min(ends) - now)
        yield family


class _Folder(Collector):
    """What the folder holds, read at each scrape on a connection of its own.

    What cannot be read is absent: `ready` says that it cannot.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._counted: tuple[int, dict[str, float], dict[str, int]] = -1, {}, {}

    def collect(self) -> Iterator[Metric]:
        values: dict[str, float] = {}
        states: dict[str, int] = {}
        try:
            values, states = self._in_index()
            disk = os.statvfs(self._root)
            values["disk_free_bytes"] = disk.f_bavail * disk.f_frsize
            values["audit_log_bytes"] = (self._root / "audit" / LOG).stat().st_size
            values |= _until_expiry(self._root)
        except (*UNREADABLE, ConfigError):
            pass
        versions = GaugeMetricFamily(_PREFIX + "versions", "Versions by state.", labels=["state"])
        for state, count in states.items():
            versions.add_metric([state], count)
        yield versions
        for name, text in _GAUGES.items():
            family = GaugeMetricFamily(_PREFIX + name, text)
            if name in values:
                family.add_metric([], values[name])
            yield family

    def _in_index(self) -> tuple[dict[str, float], dict[str, int]]:
        """Count the rows of the index, again only after a change: it reads all of them."""
        with closing(connect_for_reading(self._root)) as db:
            revision = db.execute("SELECT coalesce(max(revision), 0) FROM events").fetchone()[0]
            if revision != self._counted[0]:
                counts = db.execute("SELECT state, count(*) FROM versions GROUP BY state")
                states = dict.fromkeys(get_args(State), 0) | dict(counts.fetchall())
                stored, owners, adapters = db.execute(
                    "SELECT CAST(coalesce(sum(payload_bytes), 0) AS BIGINT),"
                    " count(DISTINCT tenant), count(DISTINCT tenant || '/' || adapter)"
                    " FROM versions"
                ).fetchone()
                values = {"stored_bytes": stored, "owners": owners, "adapters": adapters}
                self._counted = revision, values, states
        return self._counted[1] | {"revision": revision}, self._counted[2]


def _until_expiry(root: Path) -> dict[str, float]:
    file = root / SERVER_FOLDER / SERVER_PEM
    if not file.exists():
        return {}
    left = read_server(file)[1].not_valid_after_utc - datetime.now(UTC)
    return {"server_certificate_seconds": left.total_seconds()}
