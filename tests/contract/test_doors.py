"""Every row of `bad_input` at its door: each door says what it refuses in exactly these words."""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from adapterdistill import cli
from adapterdistill.backbone import Encoder
from adapterdistill.errors import ConfigError
from adapterdistill.registry.status import from_call
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.http.api import build_api
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.fair_queue import QueueLimits
from adapterdistill.serve.settings import ServeSettings
from tests.contract.bad_input import FAQS, QUERIES, ROWS, Row
from tests.contract.running_registry import Running
from tests.serving_store import make_tenant, put_live

Door = Callable[[Any], str]
Tables = dict[str, dict[str, Any]]


@pytest.fixture
def from_cli(capsys: pytest.CaptureFixture[str]) -> Door:
    def say(arguments: Sequence[str]) -> str:
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code not in (0, None)
        return capsys.readouterr().err.strip()

    return say


@pytest.fixture
def from_toml(from_cli: Door, tmp_path: Path) -> Door:
    def say(content: bytes) -> str:
        (tmp_path / "run.toml").write_bytes(content)
        return from_cli(["onboard", "--local", "--config", str(tmp_path / "run.toml")])

    return say


@pytest.fixture
def from_parquet(from_cli: Door, tmp_path: Path) -> Door:
    def say(given: Tables | Callable[[], Tables] | bytes) -> str:
        folder = tmp_path / "acme"
        folder.mkdir()
        given = given() if callable(given) else given
        changed = {} if isinstance(given, bytes) else given
        pq.write_table(pa.table(FAQS | changed.get("faqs", {})), folder / "faqs.parquet")
        pq.write_table(pa.table(QUERIES | changed.get("queries", {})), folder / "queries.parquet")
        if isinstance(given, bytes):
            (folder / "queries.parquet").write_bytes(given)
        return from_cli(["data", "describe", str(folder)])

    return say


@pytest.fixture(scope="module")
def http(tiny_encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    store = tmp_path_factory.mktemp("store")
    put_live(store, make_tenant(tiny_encoder, "acme", seed=1))
    engine = Engine(tiny_encoder, store)
    engine.refresh()
    batcher = Batcher(engine.search, QueueLimits())
    with TestClient(build_api(engine, batcher, time.monotonic)) as client:
        yield client
    batcher.close()
    engine.close()


@pytest.fixture
def from_http(http: TestClient) -> Door:
    def say(given: object) -> str:
        content = given if isinstance(given, bytes) else json.dumps(given).encode()
        response = http.post(
            "/v1/tenants/acme/search", content=content, headers={"Content-Type": "application/json"}
        )
        body = response.json()
        return f"{response.status_code} {body['reason']} {body['message']}"

    return say


@pytest.fixture
def from_settings() -> Door:
    def say(given: dict[str, object]) -> str:
        with pytest.raises(ConfigError) as refused:
            ServeSettings.of(given)
        return str(refused.value)

    return say


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("registry"))
    yield running
    running.close()


@pytest.fixture
def from_grpc(registry: Running) -> Door:
    def say(given: str | bytes) -> str:
        request = (
            given
            if isinstance(given, bytes)
            else pb.GetVersionRequest(name=given).SerializeToString()
        )
        with grpc.insecure_channel(registry.address) as channel:
            call = channel.unary_unary("/adapterdistill.registry.v1.RegistryService/GetVersion")
            with pytest.raises(grpc.RpcError) as refused:
                call(request, timeout=10)
        error = from_call(refused.value, "get")
        return f"{error.reason} {error}"

    return say


def make_hostile_names() -> None:
    """Make things in the working folder that a person may name by mistake."""
    os.mkfifo("pipe", 0o600)  # nobody writes into it: who waits for that waits for ever
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    Path("file").touch()
    Path("file").chmod(0o644)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.door}: {row.what}")
def test_bad_input_is_refused_in_these_words(
    row: Row, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_hostile_names()
    door: Door = request.getfixturevalue(f"from_{row.door}")
    said = door(row.given)
    assert said == row.said.replace("{here}", str(tmp_path))
    assert "Traceback" not in said
    assert list(tmp_path.glob("*/*.tmp")) == []
