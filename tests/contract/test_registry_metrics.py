"""`registry serve --metrics-port`: what Prometheus reads of a registry, and what it never reads."""

import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from adapterdistill.errors import AdapterDistillError, RegistryError
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.server.server import RegistryServer
from adapterdistill.registry.trust.authority import create
from tests.contract.running_registry import Running, wait_until
from tests.enrolment import ACME, enrolled
from tests.unit.registry.samples import sample

Value = Callable[..., float]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Scraped:
    def __init__(self, root: Path) -> None:
        self.port = free_port()
        self.registry = Running(root, metrics_at=("127.0.0.1", self.port), readiness_interval_s=0.1)

    def text(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def value(self, name: str, **labels: str) -> float:
        found = [
            one.value
            for family in text_string_to_metric_families(self.text())
            for one in family.samples
            if one.name == f"adapterdistill_registry_{name}" and one.labels == labels
        ]
        return found[0] if found else 0.0


@pytest.fixture
def scraped(tmp_path: Path) -> object:
    create(tmp_path, ["localhost", "127.0.0.1"])
    one = Scraped(tmp_path)
    yield one
    one.registry.close()


def test_calls_are_counted_by_outcome_and_what_is_stored_is_measured(
    scraped: Scraped, tmp_path: Path
) -> None:
    enrolled(tmp_path, tmp_path / "keys", ACME)
    manifest, payload = sample(1)
    with RegistryClient(
        scraped.registry.address, timeout_s=10, credentials=tmp_path / "keys"
    ) as acme:
        acme.publish(manifest, payload)
        with pytest.raises(AdapterDistillError):
            acme.withdraw(sample(2, tenant="other")[0].ref, "not mine")
        assert scraped.value("calls_total", call="Publish", outcome="OK") == 1
        assert scraped.value("calls_total", call="Withdraw", outcome="NOT_PERMITTED") == 1
        assert scraped.value("call_seconds_count", call="Publish") == 1
        assert scraped.value("call_seconds_count", call="Withdraw") == 0
        assert scraped.value("versions", state="active") == 1
        assert scraped.value("stored_bytes") == len(payload)
        assert (scraped.value("owners"), scraped.value("adapters")) == (1, 1)
        acme.withdraw(manifest.ref, "wrong rows")
    assert (scraped.value("versions", state="active"), scraped.value("revision")) == (0, 2)
    assert scraped.value("versions", state="withdrawn") == 1
    assert scraped.value("audit_log_bytes") > 100
    assert scraped.value("disk_free_bytes") > 0
    assert 0 < scraped.value("server_certificate_seconds") < 366 * 86400
    assert 0 < scraped.value("caller_certificate_seconds") < 366 * 86400
    assert (scraped.value("ready"), scraped.value("open")) == (1, 1)


def test_a_watch_runs_until_it_is_cancelled(scraped: Scraped, tmp_path: Path) -> None:
    enrolled(tmp_path, tmp_path / "keys", ACME)
    with RegistryClient(
        scraped.registry.address, timeout_s=10, credentials=tmp_path / "keys"
    ) as acme:
        acme.publish(*sample(1))
    watch = scraped.registry.client.watch(0, [])
    next(iter(watch))
    assert scraped.value("running_calls", call="Watch") == 1
    watch.close()  # type: ignore[attr-defined]  # the iterator is a generator
    wait_until(lambda: scraped.value("running_calls", call="Watch") == 0)
    assert scraped.value("calls_total", call="Watch", outcome="CANCELLED") == 1


def test_no_owner_and_no_adapter_is_named(scraped: Scraped, tmp_path: Path) -> None:
    enrolled(tmp_path, tmp_path / "keys", ACME)
    with RegistryClient(
        scraped.registry.address, timeout_s=10, credentials=tmp_path / "keys"
    ) as acme:
        acme.publish(*sample(1))
    text = scraped.text()
    assert "acme" not in text and "faq" not in text
    labels = {
        label
        for family in text_string_to_metric_families(text)
        for one in family.samples
        for label in one.labels
    }
    assert labels == {"call", "outcome", "state", "le"}


def test_a_registry_that_cannot_write_is_not_ready(scraped: Scraped, tmp_path: Path) -> None:
    (tmp_path / "staging").rmdir()
    wait_until(lambda: scraped.value("ready") == 0)
    (tmp_path / "staging").mkdir()
    wait_until(lambda: scraped.value("ready") == 1)


def test_a_silent_connection_holds_up_a_scrape_for_two_seconds_only(scraped: Scraped) -> None:
    with socket.create_connection(("127.0.0.1", scraped.port)):
        assert scraped.value("ready") == 1


def test_without_a_port_there_are_no_metrics_and_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RegistryError, match=f"metrics on 127.0.0.1:{port}"):
            Running(tmp_path, metrics_at=("127.0.0.1", port))
    assert RegistryServer(tmp_path)._metrics_at is None
    Running(tmp_path).close()  # the failed start released the folder
