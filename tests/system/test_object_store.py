"""Objects over S3, and a replica that takes up bundles, loses their store and finds it again.

The server is moto's, in an environment of its own.
"""

import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pyarrow import fs

from adapterdistill.backbone import Encoder
from adapterdistill.errors import ConfigError, StoreError
from adapterdistill.serve.replica import Replica
from adapterdistill.serve.settings import ServeSettings
from adapterdistill.store.bundle import write_bundle
from adapterdistill.store.objects import open_objects
from adapterdistill.store.release import set_live
from tests.contract.running_registry import wait_until
from tests.object_contract import hold_to_the_contract
from tests.serving_store import make_tenant

SEARCH = "/v1/tenants/acme/search"


class Server:
    """moto's S3 server on a port of its own. What it holds ends with it."""

    def __init__(self, command: Path) -> None:
        self._command = command
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [self._command, "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.1)
            else:
                return process
        raise AssertionError("moto's server did not start")

    def uri(self, prefix: str) -> str:
        return f"s3://bucket/{prefix}?endpoint_override=http://127.0.0.1:{self.port}"

    def pause(self) -> None:
        """Stop answering, without closing a socket: the silent kind of loss."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("moto")
    venv.create(home, symlinks=True)
    install = ["-m", "pip", "--disable-pip-version-check", "--python", str(home / "bin/python")]
    done = subprocess.run(
        [sys.executable, *install, "install", "-q", "moto[s3]", "flask", "flask-cors"],
        capture_output=True,
        timeout=500,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("moto cannot be installed here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        made = Server(home / "bin" / "moto_server")
        system = fs.S3FileSystem(
            endpoint_override=f"127.0.0.1:{made.port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )
        system.create_dir("bucket")
        yield made
        made.stop()


@pytest.mark.timeout(600)
def test_s3_keeps_the_contract_of_objects(server: Server) -> None:
    hold_to_the_contract(open_objects(server.uri("contract")))
    large = bytes(range(256)) * 60_000  # more than one part of an upload
    objects = open_objects(server.uri("large"))
    objects.write("blobs/acme/large", large)
    assert objects.read("blobs/acme/large") == large
    for number in range(1_010):  # more than one page of a listing
        objects.write(f"live/t{number}.json", b"{}")
    assert len(list(objects.list("live"))) == 1_010
    absent = open_objects(server.uri("x").replace("bucket", "absent"))
    with pytest.raises(StoreError, match="there is no such bucket"):
        absent.write("changed", b"1")


@pytest.mark.timeout(600)
def test_a_replica_takes_up_what_an_owner_writes_and_serves_on_while_the_store_is_lost(
    server: Server, tmp_path: Path, tiny_encoder: Encoder, tiny_encoder_folder: Path
) -> None:
    made = make_tenant(tiny_encoder, "acme", seed=1, scorer=True).bundle
    store = server.uri("serving")
    args = {
        "store": store, "copies": str(tmp_path / "copies"), "encoder": str(tiny_encoder_folder),
        "dtype": "float32", "refresh_s": 0.2, "open_to_all": True,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"s3://bucket/serving: no such store"):
        Replica(ServeSettings.of(args))
    replica = Replica(ServeSettings.of(args | {"create_store": True}))
    restarted = None
    try:
        with TestClient(replica.build_http_app()) as client:

            def version() -> str | None:
                found = client.post(SEARCH, json={"query": "hi"}).json()
                return found.get("adapter", {}).get("version")

            assert version() is None
            set_live(store, "acme", write_bundle(store, made))
            wait_until(lambda: version() == made.manifest.version)
            assert client.get("/healthz").json()["store"] == "ok"
            server.pause()
            wait_until(lambda: client.get("/healthz").json()["store"] != "ok", 120)
            assert version() == made.manifest.version
            said = client.get("/metrics").text
            assert "adapterdistill_store_lost_seconds" in said
            restarted = Replica(ServeSettings.of(args))  # without the store, from its copies
            assert restarted._engine.snapshot.num_tenants == 1
            server.go_on()
            wait_until(lambda: client.get("/healthz").json()["store"] == "ok", 120)
            new = replace(make_tenant(tiny_encoder, "acme", seed=2).bundle)
            set_live(store, "acme", write_bundle(store, new))
            wait_until(lambda: version() == new.manifest.version)
    finally:
        server.go_on()
        replica.close()
        if restarted is not None:
            restarted.close()
    copies = [*(tmp_path / "copies").rglob("*")]
    assert copies and not any(path.stat().st_mode & 0o077 for path in copies)
