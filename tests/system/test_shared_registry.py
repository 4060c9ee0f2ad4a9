"""Two registry processes on one PostgreSQL: one index, one audit log, one set of quotas."""

import random
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psycopg", reason="the extra adapterdistill[postgresql] is not installed")

import grpc
from typer.testing import CliRunner

from adapterdistill.cli.registry import app
from adapterdistill.drills.registry.shared import SharedRegistry, kill_shared_registry
from adapterdistill.errors import ConfigError, RegistryError
from adapterdistill.files import write_secret
from adapterdistill.manifest import Manifest
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.index.database import INDEX, URL
from adapterdistill.registry.upkeep.audit_verify import LOG, verify
from adapterdistill.registry.upkeep.backup import backup, restore
from adapterdistill.registry.upkeep.fsck import fsck
from adapterdistill.registry.upkeep.migrate import to_postgresql, to_sqlite
from adapterdistill.registry.v1 import registry_pb2 as pb
from adapterdistill.registry.v1 import registry_pb2_grpc
from adapterdistill.testbed.postgresql import PostgreSQLServer, postgresql_server
from adapterdistill.testbed.random_adapters import SMALL, adapter
from adapterdistill.testbed.registry import registry_process


@pytest.fixture(scope="module")
def database() -> Iterator[PostgreSQLServer]:
    try:
        with postgresql_server() as started:
            yield started
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def shared(
    database: PostgreSQLServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedRegistry]:
    found = SharedRegistry(tmp_path_factory.mktemp("shared"), database)
    yield found
    found.close()


@pytest.fixture(scope="module")
def clients(shared: SharedRegistry) -> Iterator[list[RegistryClient]]:
    with ExitStack() as stack:
        yield [stack.enter_context(RegistryClient(one.address)) for one in shared.processes]


def version(seed: int, tenant: str = "acme", name: str = "faq") -> tuple[Manifest, bytes]:
    return adapter(SMALL, seed, tenant=tenant, name=name)


def test_each_process_serves_what_the_other_took(clients: list[RegistryClient]) -> None:
    one, other = clients
    manifest, payload = version(1)
    one.publish(manifest, payload)
    assert other.fetch(manifest.ref) == (manifest, payload)
    other.withdraw(manifest.ref, "wrong")
    assert one.describe(manifest.ref).state == "withdrawn"


def test_a_watch_tells_the_changes_of_both_in_their_order(clients: list[RegistryClient]) -> None:
    names: list[str] = []
    done = threading.Event()
    with RegistryClient(clients[0].address) as watcher:

        def watch() -> None:
            for event in watcher.watch(adapters=[("watched", "faq")]):
                names.append(event.name)
                if len(names) == 12:
                    done.set()
                    return

        thread = threading.Thread(target=watch)
        thread.start()
        expected = [
            clients[seed % 2].publish(*version(100 + seed, tenant="watched")).ref.name
            for seed in range(12)
        ]
        assert done.wait(30)
        thread.join()
    assert names == expected


def test_many_publishes_by_both_leave_one_audit_chain_and_nothing_at_fault(
    shared: SharedRegistry, clients: list[RegistryClient]
) -> None:
    def publish(writer: int) -> None:
        for seed in range(8):
            made = version(1000 * writer + seed, tenant=f"writer-{writer}")
            clients[(writer + seed) % 2].publish(*made)

    threads = [threading.Thread(target=publish, args=(writer,)) for writer in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([*clients[0].list(latest_only=False)]) >= 32
    verify(shared.root / "audit" / LOG)
    assert fsck(shared.root).findings == ()


def test_an_idempotency_key_holds_at_both(clients: list[RegistryClient]) -> None:
    first = clients[0].publish(*version(30, tenant="once")).ref
    second = clients[0].publish(*version(31, tenant="once")).ref
    name = "tenants/once/adapters/faq/aliases/live"
    request = pb.SetAliasRequest(
        alias=pb.Alias(name=name, version_name=first.name), request_id=str(uuid.uuid4())
    )
    answers = []
    for client in clients:
        with grpc.insecure_channel(client.address) as channel:
            stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)  # type: ignore[no-untyped-call]
            answers.append(stub.SetAlias(request, timeout=10).alias)
        # The other process answers as the first did, though the alias moved since.
        clients[0].set_alias(second, "live", clients[0].resolve_alias("once", "faq", "live")[1])
    assert answers[0] == answers[1]


def test_a_backup_of_a_shared_index_is_a_folder_of_its_own(
    shared: SharedRegistry, clients: list[RegistryClient], tmp_path: Path
) -> None:
    manifest, payload = version(40, tenant="kept")
    clients[1].publish(manifest, payload)
    backup(shared.root, tmp_path / "backup")
    restore(tmp_path / "backup", tmp_path / "new", audit=shared.root / "audit" / LOG)
    with (
        registry_process(tmp_path / "new") as server,
        RegistryClient(server.address) as client,
    ):
        assert client.fetch(manifest.ref) == (manifest, payload)


def test_an_index_moves_to_postgresql_and_back_and_serves_the_same(
    database: PostgreSQLServer, tmp_path: Path
) -> None:
    root, url = tmp_path / "registry", tmp_path / "url"
    write_secret(url, database.new_database("moves").encode())

    def served(seed: int) -> list[Manifest]:
        with registry_process(root) as server, RegistryClient(server.address) as client:
            with pytest.raises(RegistryError, match="another registry process uses"):
                (to_sqlite(root) if (root / URL).exists() else to_postgresql(root, url))
            client.publish(*version(seed))
            return [*client.list(latest_only=False)]

    before = served(1)
    run = CliRunner().invoke(app, ["migrate", str(root), "--postgresql", str(url)])
    assert run.exit_code == 0 and "moved 1 versions and 1 events to PostgreSQL" in run.output
    assert (root / URL).stat().st_mode & 0o777 == 0o600 and not (root / INDEX).exists()
    there = served(2)
    assert there[1:] == before and fsck(root).findings == ()
    with pytest.raises(ConfigError, match="in PostgreSQL already"):
        to_postgresql(root, url)
    run = CliRunner().invoke(app, ["migrate", str(root), "--sqlite", "--format", "json"])
    assert run.exit_code == 0 and '"versions": 2' in run.output
    assert served(3)[1:] == there and fsck(root).findings == ()
    with pytest.raises(ConfigError, match="holds an index already"):
        to_postgresql(root, url)
    with pytest.raises(ConfigError, match="not in PostgreSQL"):
        to_sqlite(root)


def test_what_a_user_gets_wrong_is_said(database: PostgreSQLServer, tmp_path: Path) -> None:
    url = tmp_path / "url"
    write_secret(url, b"not a connection string at all")
    with pytest.raises(ConfigError, match="expected a connection string like"):
        to_postgresql(tmp_path, url)
    write_secret(url, b"postgresql:///postgres?host=/nowhere")
    with pytest.raises(RegistryError, match="PostgreSQL"):
        to_postgresql(tmp_path, url)
    with pytest.raises(ConfigError, match="expected a registry's folder"):
        to_postgresql(tmp_path / "absent", url)
    assert not (tmp_path / URL).exists()


def test_the_other_process_serves_when_one_or_the_database_is_killed(tmp_path: Path) -> None:
    try:
        found = kill_shared_registry(tmp_path, random.Random(1), kills=3)
    except ConfigError as error:
        pytest.skip(str(error))
    assert found.findings == ()
