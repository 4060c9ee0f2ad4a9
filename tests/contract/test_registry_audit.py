"""The audit log of a running registry: written before it answers, and with nothing private."""

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapterdistill import errors
from adapterdistill.cli.registry import app
from adapterdistill.manifest import Manifest
from adapterdistill.registry.access import NOBODY
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.server.server import RegistryServer
from adapterdistill.registry.upkeep import audit, audit_trail
from adapterdistill.registry.upkeep.audit_verify import examine
from adapterdistill.registry.upkeep.fsck import fsck
from adapterdistill.registry.v1 import registry_pb2 as pb
from tests.contract.running_registry import Running, parts, refusal
from tests.enrolment import ACME, BOLT
from tests.unit.registry.samples import sample


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "root")
    yield running
    running.close()


def records(registry: Running) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    examined = examine(registry.root / "audit" / "log.jsonl", visit=found.append)
    assert examined.fault is None
    return [one for one in found if one["kind"] not in ("key", "checkpoint")]


def test_every_change_is_in_the_log_when_its_call_is_answered(registry: Running) -> None:
    client = registry.client
    teacher = client.publish(*sample(1, tenant="teacher"))
    assert [one["kind"] for one in records(registry)] == ["published"]
    student = client.publish(*sample(2, teachers=[teacher.ref.name]))
    client.set_alias(student.ref, "live")
    client.set_consent("acme", "faq", NOBODY)
    client.withdraw(teacher.ref, "trained on the wrong rows")
    told = [(one["kind"], one["name"], one["caller"]) for one in records(registry)]
    assert told == [
        ("published", teacher.ref.name, "anyone/anonymous"),
        ("published", student.ref.name, "anyone/anonymous"),
        ("alias_moved", "tenants/acme/adapters/faq/aliases/live", "anyone/anonymous"),
        ("consent_changed", "tenants/acme/adapters/faq", "anyone/anonymous"),
        ("withdrawn", teacher.ref.name, "anyone/anonymous"),
    ]
    assert [one["revision"] for one in records(registry)] == [1, 2, 3, 4, 5]
    client.publish(*sample(2, teachers=[teacher.ref.name]))  # again: no change, no line
    assert len(records(registry)) == 5


def test_every_refused_write_is_in_the_log_with_its_reason(registry: Running) -> None:
    absent = sample(9)[0].ref
    alias = "tenants/acme/adapters/faq/aliases/live"
    for call in (
        lambda: registry.stub.Withdraw(pb.WithdrawRequest(name=absent.name, reason="r")),
        lambda: registry.stub.ReleaseVersion(pb.ReleaseVersionRequest(name=absent.name)),
        lambda: registry.stub.SetConsent(
            pb.SetConsentRequest(adapter_name="tenants/acme/adapters/faq")
        ),
        lambda: registry.stub.SetAlias(
            pb.SetAliasRequest(alias=pb.Alias(name=alias, version_name=absent.name))
        ),
        lambda: registry.stub.Publish(parts(sample(9)[0], sample(8)[1])),
        # Reading is no write.
        lambda: registry.stub.GetVersion(pb.GetVersionRequest(name=absent.name)),
    ):
        refusal(call)
    told = [(one["call"], one["name"], one["reason"]) for one in records(registry)]
    assert told == [
        ("Withdraw", absent.name, "NOT_FOUND"),
        ("ReleaseVersion", absent.name, "NOT_FOUND"),
        ("SetConsent", "tenants/acme/adapters/faq", "NOT_FOUND"),
        ("SetAlias", alias, "NOT_FOUND"),
        ("Publish", absent.name, "DIGEST_MISMATCH"),
    ]
    assert {one["kind"] for one in records(registry)} == {"refused"}


def test_a_refused_callers_text_is_not_in_the_log_unless_it_is_a_name(registry: Running) -> None:
    private = "how do I spay my cat"
    header = pb.PublishHeader(name=private, manifest_json=private.encode())
    refusal(lambda: registry.stub.Publish(iter([pb.PublishRequest(header=header)])))
    refusal(lambda: registry.stub.Withdraw(pb.WithdrawRequest(name=private, reason=private)))
    refusal(lambda: registry.stub.SetConsent(pb.SetConsentRequest(adapter_name=f"a/{private}")))
    assert [one["name"] for one in records(registry)] == ["", "", ""]
    assert b"spay" not in (registry.root / "audit" / "log.jsonl").read_bytes()


def test_calls_that_wait_together_share_their_fsync(
    registry: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fdatasync = audit.os.fdatasync
    ready = threading.Barrier(32)

    def slow_fdatasync(file: int) -> None:
        synced.append(file)
        threading.Event().wait(0.05)  # as a slow disk
        fdatasync(file)

    monkeypatch.setattr(audit.os, "fdatasync", slow_fdatasync)

    def withdraw(_number: int) -> None:
        ready.wait()
        with RegistryClient(registry.address) as client, pytest.raises(errors.NotFoundError):
            client.withdraw(sample(9)[0].ref, "r")

    threads = [threading.Thread(target=withdraw, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(records(registry)) == 32
    assert len(synced) <= 16


def test_a_registry_whose_log_cannot_be_written_says_so_and_is_not_ready(
    registry: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(audit.os, "fdatasync", full)
        with pytest.raises(errors.RegistryError, match="audit log"):
            registry.client.publish(*sample(1))
        with pytest.raises(OSError, match="No space left"):
            registry.run(registry.server._service.check())
    registry.run(registry.server._service.check())
    assert records(registry) == []
    with pytest.raises(errors.NotFoundError):
        registry.client.get(sample(1)[0].ref)
    assert registry.client.publish(*sample(2)) == sample(2)[0]
    assert [one["revision"] for one in records(registry)] == [1]


Change = Callable[[RegistryClient, Manifest], object]
CHANGES: dict[str, Change] = {
    "publish": lambda client, _: client.publish(*sample(2)),
    "alias": lambda client, version: client.set_alias(version.ref, "live"),
    "consent": lambda client, _: client.set_consent("acme", "faq", NOBODY),
    "withdraw": lambda client, version: client.withdraw(version.ref, "wrong rows"),
}


def state(registry: Running) -> list[object]:
    db = registry.server._service._index.db
    tables = ("versions", "events", "aliases", "consents", "lineage", "requests")
    return [db.execute(f"SELECT * FROM {table}").fetchall() for table in tables]


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_changes_while_the_log_cannot_be_written_and_all_can_be_read(
    registry: Running, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    version = registry.client.publish(*sample(1))
    before = state(registry)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(audit.os, "pwrite", full)
        with pytest.raises(errors.RegistryError, match="changes nothing until it can"):
            CHANGES[change](registry.client, version)
        assert state(registry) == before
        assert registry.client.fetch(version.ref) == (version, sample(1)[1])
    CHANGES[change](registry.client, version)
    assert state(registry) != before


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_cannot_be_committed_has_a_void_line(
    registry: Running, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    version = registry.client.publish(*sample(1))
    before = state(registry)

    @contextmanager
    def failing(db: sqlite3.Connection) -> Iterator[None]:
        if db.in_transaction:
            yield
            return
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(audit_trail, "transaction", failing)
        with pytest.raises(errors.RegistryError, match="the registry failed"):
            CHANGES[change](registry.client, version)
    assert state(registry)[0] == before[0] and state(registry)[2:] == before[2:]
    CHANGES[change](registry.client, version)
    kinds = [one["kind"] for one in records(registry)]
    made = kinds[-1]
    assert kinds == ["published", made, "void", "refused", made]
    assert [one["revision"] for one in records(registry)] == [1, 2, 2, 2, 3]
    assert [one.kind for one in islice(registry.client.watch(), 2)] == ["published", made]
    assert fsck(registry.root).findings == ()


def test_an_index_older_than_its_log_is_not_served(tmp_path: Path) -> None:
    running = Running(tmp_path / "root")
    running.client.publish(*sample(1))
    running.close()
    (tmp_path / "root" / "index.sqlite3").unlink()
    server = RegistryServer(tmp_path / "root")
    with pytest.raises(errors.IntegrityError, match="ends with change 1, the index with 0"):
        asyncio.run(server.start())


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(app, ["audit", *arguments])
    if isinstance(result.exception, errors.AdapterDistillError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_audit_verify_works_on_a_copy_of_the_file_and_names_the_broken_line(
    registry: Running, tmp_path: Path
) -> None:
    registry.client.publish(*sample(1))
    head = json.loads(run("verify", str(registry.root), "--format", "json"))["head"]
    registry.client.publish(*sample(2))
    key = str(registry.root / "audit" / "public.pem")
    copy = tmp_path / "copy.jsonl"
    text = (registry.root / "audit" / "log.jsonl").read_bytes()
    copy.write_bytes(text)
    said = run("verify", str(copy), "--public-key", key, "--head", head)
    assert "up to event 2 are unchanged" in said
    copy.write_bytes(text.replace(b"owner/", b"anyone/").replace(b"anonymous", b"anonymouse", 1))
    with pytest.raises(errors.AuditBrokenError, match="line 3: edited"):
        run("verify", str(copy))
    lines = text.splitlines(keepends=True)
    copy.write_bytes(b"".join(lines[:2]))
    with pytest.raises(errors.AuditBrokenError, match="line 3: truncated"):
        run("verify", str(copy), "--head", head)
    with pytest.raises(errors.ConfigError, match="64 hexadecimal"):
        run("verify", str(copy), "--head", "0")
    assert errors.AuditBrokenError.exit_code == 10


def test_audit_show_tells_the_newest_lines(registry: Running) -> None:
    manifest = registry.client.publish(*sample(1))
    shown = json.loads(run("show", str(registry.root), "--last", "1", "--format", "json"))
    assert [one["name"] for one in shown] == [manifest.ref.name]
    assert "published" in run("show", str(registry.root))


def test_over_tls_the_log_says_who_tried_what(
    private_registry: Running, connect: Callable[..., RegistryClient]
) -> None:
    theirs = connect(BOLT).publish(*sample(1, tenant="bolt"))
    with pytest.raises(errors.NotPermittedError):
        connect(ACME).withdraw(theirs.ref, "it is better than ours")
    with pytest.raises(errors.NotPermittedError):
        connect(ACME).publish(*sample(2, tenant="bolt"))
    told = [
        (one["caller"], one["kind"], one["name"], one["reason"])
        for one in records(private_registry)
    ]
    assert told == [
        ("owner/bolt", "published", theirs.ref.name, ""),
        ("owner/acme", "refused", theirs.ref.name, "NOT_PERMITTED"),
        ("owner/acme", "refused", sample(2, tenant="bolt")[0].ref.name, "NOT_PERMITTED"),
    ]
