"""The registry as its own process: starts, stops, is killed, and keeps what it acknowledged."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from adapterdistill import errors
from adapterdistill.drills.registry.kills import kill_repeatedly
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.server.server import RegistryServer
from tests.unit.registry.samples import encoder_fields, manifest_of, payload_of, sample

MEMORY_LIMIT_BYTES = 250 * 10**6


class Process:
    """`adapterdistill registry serve` on one folder, ready when constructed."""

    def __init__(self, root: Path, *options: str) -> None:
        command = [sys.executable, "-m", "adapterdistill", "registry", "serve", "--create"]
        self._child = subprocess.Popen(
            [*command, "--root", str(root), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._child.stdout is not None
        self.address = self._child.stdout.readline().strip()
        self.pid = self._child.pid

    def end(self, number: int) -> tuple[int, str]:
        """Exit status and log."""
        self._child.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        _, log = self._child.communicate(timeout=20)
        return self._child.returncode, log


Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[Process] = []

    def start_one(root: Path, *options: str) -> Process:
        started.append(Process(root, *options))
        return started[-1]

    yield start_one
    for process in started:
        if process._child.poll() is None:
            process.end(signal.SIGKILL)


def test_restart_keeps_versions_aliases_and_lineage(start: Start, tmp_path: Path) -> None:
    first = start(tmp_path / "root", "--port-file", str(tmp_path / "address"))
    assert (tmp_path / "address").read_text().strip() == first.address
    with RegistryClient(first.address) as client:
        teacher, payload = sample(1, tenant="teacher")
        client.publish(teacher, payload)
        student = client.publish(*sample(2, teachers=[teacher.ref.name]))
        etag = client.set_alias(student.ref, "live")
    status, log = first.end(signal.SIGTERM)
    assert status == 0
    assert "loopback only" in log
    assert "Traceback" not in log
    with RegistryClient(start(tmp_path / "root").address) as client:
        assert client.fetch(teacher.ref) == (teacher, payload)
        assert client.resolve_alias("acme", "faq", "live") == (student.ref, etag)
        assert client.lineage(teacher.ref).descendants[0].ref == student.ref
        assert list(client.list()) == [student, teacher]


def test_kill_9_amid_publishes_loses_nothing_acknowledged(tmp_path: Path) -> None:
    root = tmp_path / "root"
    report = kill_repeatedly(root, kills=3, publishers=3, seed=0)
    assert report.faults == []
    assert (report.kills, report.found) == (3, report.acknowledged)
    assert report.acknowledged > 0
    assert report.unacknowledged <= 3 * 3
    kept = {path.name for path in (root / "blobs").glob("*/*")}
    assert len(kept) == report.acknowledged + report.unacknowledged
    assert not list((root / "staging").rglob("*"))  # too little of any upload was left


def test_client_rides_out_a_restart(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path / "root")
    port = process.address.rpartition(":")[2]
    with RegistryClient(process.address, timeout_s=20) as client:
        client.publish(*sample(1))
        process.end(signal.SIGKILL)
        restart = threading.Timer(0.3, start, (tmp_path / "root", "--port", port))
        restart.start()
        assert client.publish(*sample(2)) == sample(2)[0]
        restart.join()


def test_process_stays_within_its_memory(start: Start, tmp_path: Path) -> None:
    """16 uploads at once of 4 MiB each."""
    process = start(tmp_path / "root")
    hidden, bottleneck = 4096, 64
    zeros = np.zeros((2, bottleneck, hidden), "float32")
    encoder = encoder_fields() | {"hidden_size": hidden}

    def publish_one(number: int) -> None:
        tensors = {
            "down.weight": zeros,
            "down.bias": zeros[:, :, 0],
            "up.weight": zeros.reshape(2, hidden, bottleneck),
            "up.bias": np.full((2, hidden), number, "float32"),
        }
        tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        payload = payload_of(tensors)
        manifest = manifest_of(payload, tensors, tenant=f"t{number}", encoder=encoder)
        with RegistryClient(process.address) as client:
            client.publish(manifest, payload)
            assert client.fetch(manifest.ref)[1] == payload

    threads = [threading.Thread(target=publish_one, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    with RegistryClient(process.address) as client:
        assert len(list(client.list())) == 16
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak_bytes = int(status.split("VmHWM:")[1].split()[0]) * 1024
    assert peak_bytes < MEMORY_LIMIT_BYTES
    libraries = Path(f"/proc/{process.pid}/maps").read_text()
    assert "cygrpc" in libraries
    assert "libtorch" not in libraries and "_raylet" not in libraries


def test_second_process_on_one_folder_or_port_is_refused(start: Start, tmp_path: Path) -> None:
    first = start(tmp_path / "root")
    port = first.address.rpartition(":")[2]
    for root, options, said in (
        ("root", [], "another registry"),
        ("other", ["--port", port], "cannot listen"),
    ):
        second = start(tmp_path / root, *options)
        status, log = second.wait()
        assert (second.address, status) == ("", errors.RegistryError.exit_code)
        assert said in log
        assert "Traceback" not in log


def test_plain_text_beyond_loopback_is_refused(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "registry.example"):
        with pytest.raises(errors.ConfigError, match="loopback"):
            RegistryServer(tmp_path / "root", host=host)
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.9"):
        RegistryServer(tmp_path / "root", host=host)
    assert not (tmp_path / "root").exists()


def test_absent_registry_is_reported_at_the_deadline() -> None:
    with RegistryClient("127.0.0.1:1", timeout_s=0.5) as client:
        started = time.monotonic()
        with pytest.raises(errors.RegistryUnavailableError, match=r"127\.0\.0\.1:1"):
            client.list().__next__()
        assert time.monotonic() - started < 10
        assert client.health() is False


def test_silent_registry_is_reported_at_the_deadline() -> None:
    """Something accepts the connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with RegistryClient(address, timeout_s=0.5) as client:
            started = time.monotonic()
            with pytest.raises(errors.RegistryUnavailableError):
                client.get(sample(1)[0].ref)
            assert time.monotonic() - started < 10
