"""Backups of a registry that serves, the way back, and what fsck finds."""

import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapterdistill import errors
from adapterdistill.cli.registry import app
from adapterdistill.manifest import Manifest, canonical_json
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.server.server import RegistryServer
from adapterdistill.registry.upkeep.backup import backup, reopen, restore
from adapterdistill.registry.upkeep.fsck import fsck
from tests.contract.running_registry import Running
from tests.enrolment import ACME
from tests.unit.registry.samples import sample


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stopped registry: a teacher, two students, an alias, a withdrawal."""
    root = tmp_path_factory.mktemp("filled") / "root"
    running = Running(root)
    teacher = running.client.publish(*sample(1, tenant="teacher"))
    student = running.client.publish(*sample(2, teachers=[teacher.ref.name]))
    running.client.publish(*sample(3, tenant="other", teachers=[student.ref.name]))
    running.client.set_alias(student.ref, "live")
    running.client.withdraw(teacher.ref, "trained on the wrong rows")
    running.close()
    return root


@pytest.fixture
def root(filled: Path, tmp_path: Path) -> Path:
    return shutil.copytree(filled, tmp_path / "root")


def database(root: Path) -> sqlite3.Connection:
    return sqlite3.connect(root / "index.sqlite3", isolation_level=None)


def payload_path(root: Path, seed: int) -> Path:
    sha256 = sample(seed)[0].version
    return root / "blobs" / sha256[:2] / sha256


def test_a_backup_taken_amid_publishes_restores_to_a_registry_of_one_moment(
    tmp_path: Path,
) -> None:
    running = Running(tmp_path / "root")
    stop = threading.Event()
    acknowledged: list[tuple[Manifest, bytes]] = []

    def publish(writer: int) -> None:
        with RegistryClient(running.address) as client:
            for number in range(1000):
                if stop.is_set():
                    return
                one = sample(writer * 1000 + number, tenant=f"w{writer}")
                client.publish(*one)
                acknowledged.append(one)

    writers = [threading.Thread(target=publish, args=(writer,)) for writer in range(3)]
    for writer in writers:
        writer.start()
    try:
        for number in range(3):
            while len(acknowledged) < 5 * (number + 1):
                stop.wait(0.01)
            before = [*acknowledged]
            contents = backup(running.root, tmp_path / f"backup{number}")
            assert contents.versions >= len(before)
            assert not fsck(running.root).findings  # while it serves
    finally:
        stop.set()
        for writer in writers:
            writer.join(timeout=20)
    running.close()

    assert restore(tmp_path / "backup2", tmp_path / "restored") == contents
    reopen(tmp_path / "restored")
    restored = Running(tmp_path / "restored")
    try:
        listed = list(restored.client.list(latest_only=False))
        assert len(listed) == contents.versions
        for manifest, payload in before:
            assert restored.client.fetch(manifest.ref) == (manifest, payload)
        restored.client.publish(*sample(9999))
    finally:
        restored.close()
    assert not fsck(tmp_path / "restored").findings


def test_a_backup_holds_no_private_key_and_no_upload(root: Path, tmp_path: Path) -> None:
    for folder in ("authority", "server", "operator", "staging"):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / "some.key").write_bytes(b"PRIVATE KEY")
    contents = backup(root, tmp_path / "backup")
    names = {p.relative_to(tmp_path / "backup").as_posix() for p in _files(tmp_path / "backup")}
    assert names == {*contents.files, "backup.json"}
    payloads = {name for name in names if name.startswith("blobs/")}
    assert names - payloads == {
        "backup.json", "index.sqlite3", "audit/log.jsonl", "audit/public.pem",
    }  # fmt: skip
    assert len(payloads) == 3
    with database(root) as live:
        (token_key,) = live.execute("SELECT value FROM secrets").fetchone()
    for path in _files(tmp_path / "backup"):
        assert b"PRIVATE KEY" not in path.read_bytes()
        assert token_key not in path.read_bytes()
    # Where it served TLS, it does not come up in plain text before its credentials are back.
    restore(tmp_path / "backup", tmp_path / "restored")
    with pytest.raises(errors.ConfigError):
        RegistryServer(tmp_path / "restored")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_backup_that_was_changed_is_not_restored(root: Path, tmp_path: Path) -> None:
    whole = tmp_path / "backup"
    backup(root, whole)
    names = [path.relative_to(whole) for path in _files(whole)]
    for number, name in enumerate(names):
        changed = shutil.copytree(whole, tmp_path / f"changed{number}")
        content = bytearray((changed / name).read_bytes())
        content[len(content) // 2] ^= 1
        (changed / name).write_bytes(content)
        with pytest.raises(errors.IntegrityError):
            restore(changed, tmp_path / "restored")
        (changed / name).unlink()
        with pytest.raises((errors.IntegrityError, errors.ConfigError)):
            restore(changed, tmp_path / "restored")
    extra = shutil.copytree(whole, tmp_path / "extra")
    (extra / "more").write_bytes(b"")
    with pytest.raises(errors.IntegrityError, match="more is not part of"):
        restore(extra, tmp_path / "restored")
    (extra / "more").unlink()
    (extra / "link").symlink_to(root)
    with pytest.raises(errors.IntegrityError, match="neither a file"):
        restore(extra, tmp_path / "restored")
    assert {path.name for path in tmp_path.iterdir()} == (
        {"root", "backup", "extra"} | {f"changed{number}" for number in range(len(names))}
    )


def test_folders_in_use_and_folders_of_something_else_are_refused(
    root: Path, tmp_path: Path
) -> None:
    backup(root, tmp_path / "backup")
    for target in (tmp_path, root, root / "index.sqlite3"):
        with pytest.raises(errors.ConfigError, match="new or empty"):
            backup(root, target)
        with pytest.raises(errors.ConfigError, match="new or empty"):
            restore(tmp_path / "backup", target)
    with pytest.raises(errors.ConfigError, match=r"no index\.sqlite3"):
        backup(tmp_path, tmp_path / "new")
    with pytest.raises(errors.ConfigError, match="expected a backup"):
        restore(root, tmp_path / "new")
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "backup", tmp_path / "empty")
    assert not fsck(tmp_path / "empty").findings


def test_a_faulty_registry_is_not_backed_up(root: Path, tmp_path: Path) -> None:
    payload_path(root, 3).write_bytes(b"x")
    with pytest.raises(errors.IntegrityError, match="payload_corrupt"):
        backup(root, tmp_path / "backup")
    payload_path(root, 3).unlink()
    with pytest.raises(errors.IntegrityError, match="missing"):
        backup(root, tmp_path / "backup")
    assert {path.name for path in tmp_path.iterdir()} == {"root"}


def spoil(statement: str, *values: object) -> Callable[[Path], object]:
    def run(root: Path) -> None:
        with database(root) as db:
            db.execute(statement, values)

    return run


def rewrite_manifest(change: Callable[[dict[str, Any]], bytes]) -> Callable[[Path], object]:
    def run(root: Path) -> None:
        with database(root) as db:
            query = "SELECT manifest_json FROM versions WHERE tenant = 'other'"
            manifest = json.loads(db.execute(query).fetchone()[0])
            db.execute(
                "UPDATE versions SET manifest_json = ? WHERE tenant = 'other'", (change(manifest),)
            )

    return run


def add_orphan(root: Path) -> None:
    (root / "blobs" / "00").mkdir()
    (root / "blobs" / "00" / ("0" * 64)).write_bytes(b"nobody's")


def spoil_log(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def run(root: Path) -> None:
        path = root / "audit" / "log.jsonl"
        path.write_bytes(change(path.read_bytes()))

    return run


def corrupt_index(root: Path) -> None:
    with database(root) as db:
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'versions_by_adapter'"
        ).fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (root / "index.sqlite3").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


NO_SUCH = "tenants/t/adapters/a/versions/" + "0" * 64


@pytest.mark.parametrize(
    ("spoiled", "kind"),
    [
        (lambda root: payload_path(root, 2).unlink(), "payload_missing"),
        (lambda root: os.truncate(payload_path(root, 2), 9), "payload_corrupt"),
        (add_orphan, "payload_orphaned"),
        (rewrite_manifest(lambda m: json.dumps(m).encode()), "manifest_bad"),
        (rewrite_manifest(lambda m: canonical_json(m | {"tenant": "acme"})), "manifest_bad"),
        (rewrite_manifest(lambda m: b"{}"), "manifest_bad"),
        (spoil("UPDATE versions SET weights_sha256 = ?", "c" * 64), "manifest_bad"),
        (spoil("UPDATE versions SET payload_bytes = 1"), "manifest_bad"),
        (spoil("UPDATE versions SET statement = ?", b"no statement"), "statement_bad"),
        (spoil("DELETE FROM lineage"), "lineage_broken"),
        (spoil("UPDATE lineage SET teacher = ?", NO_SUCH), "lineage_broken"),
        (spoil("UPDATE versions SET withdrawn_teacher = ''"), "lineage_broken"),
        (spoil("UPDATE versions SET state = 'active'"), "lineage_broken"),
        (spoil("INSERT INTO lineage VALUES (?, ?, x'')", NO_SUCH, NO_SUCH), "lineage_broken"),
        (spoil("UPDATE aliases SET version = ?", "0" * 64), "alias_dangling"),
        (spoil("UPDATE events SET caller = 'owner/b' WHERE revision = 2"), "audit_differs"),
        (spoil("DELETE FROM events WHERE revision = 2"), "audit_differs"),
        (spoil_log(lambda text: text.replace(b"wrong rows", b"right rows")), "audit_broken"),
        (spoil_log(lambda text: text[:-9]), "audit_broken"),
        (spoil_log(lambda text: b"".join(text.splitlines(True)[:-3])), "audit_behind"),
        (lambda root: (root / "audit" / "log.jsonl").unlink(), "audit_behind"),
        (corrupt_index, "index_corrupt"),
    ],
)
def test_fsck_finds_what_is_wrong_and_names_it(
    root: Path, spoiled: Callable[[Path], object], kind: str
) -> None:
    assert not fsck(root).findings
    spoiled(root)
    findings = fsck(root).findings
    assert {one.kind for one in findings} == {kind}


@pytest.mark.parametrize("lost", ["orphan", "log"])
def test_what_fsck_says_heals_at_the_next_start_does(root: Path, lost: str) -> None:
    if lost == "orphan":
        add_orphan(root)
    else:
        spoil_log(lambda text: b"".join(text.splitlines(True)[:-3]))(root)
    assert fsck(root).findings
    Running(root).close()
    assert not fsck(root).findings


def test_signed_versions_are_verified_by_the_registrys_authority(
    private_registry: Running, connect: Callable[..., RegistryClient], tmp_path: Path
) -> None:
    connect(ACME).publish(*sample(1))
    root = private_registry.root
    assert not fsck(root).findings
    contents = backup(root, tmp_path / "backup")
    assert contents.served_tls
    restore(tmp_path / "backup", tmp_path / "restored")
    assert not fsck(tmp_path / "restored").findings
    with database(tmp_path / "restored") as db:
        (statement,) = db.execute("SELECT statement FROM versions").fetchone()
        db.execute("UPDATE versions SET statement = ?", (statement.replace(b'"*"', b'"+"'),))
    shutil.copytree(root / "server", tmp_path / "restored" / "server", dirs_exist_ok=True)
    (found,) = fsck(tmp_path / "restored").findings
    assert (found.kind, "signature does not verify" in found.detail) == ("statement_bad", True)


def run(*arguments: object) -> Iterator[str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    yield result.output
    if isinstance(result.exception, errors.AdapterDistillError):
        raise result.exception
    assert result.exit_code == 0, result.output


def test_the_commands_say_what_they_did_and_end_with_an_error_where_something_is_wrong(
    root: Path, tmp_path: Path
) -> None:
    (said,) = run("backup", root, tmp_path / "backup", "--format", "json")
    assert json.loads(said)["versions"] == 3
    (said,) = run("restore", tmp_path / "backup", tmp_path / "restored")
    assert "3 versions up to event 5" in " ".join(said.split())
    for folder in ("backup", "restored"):
        (said,) = run("fsck", tmp_path / folder)
        assert "no faults" in said
    add_orphan(root)
    for output, told in (("json", '"payload_orphaned"'), ("table", "payload_orphaned")):
        command = run("fsck", root, "--format", output)
        assert told in next(command)
        with pytest.raises(errors.IntegrityError, match="1 findings"):
            next(command)
    assert errors.IntegrityError.exit_code == 10
