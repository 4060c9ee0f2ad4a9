"""A restored registry: nothing that was withdrawn since the backup is given away again."""

from itertools import islice
from pathlib import Path

import pytest

from adapterdistill import errors
from adapterdistill.manifest import Manifest
from adapterdistill.registry.access import EVERYONE, NOBODY, Caller
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.registry.upkeep.audit_verify import examine
from adapterdistill.registry.upkeep.backup import backup, reopen, restore
from adapterdistill.registry.upkeep.fsck import fsck
from tests.contract.running_registry import Running
from tests.unit.registry.samples import sample

OPERATOR = Caller("operator", "operator")


@pytest.fixture
def lost(tmp_path: Path) -> tuple[Path, list[Manifest]]:
    """A folder with a backup, and the log of the registry, which went on for a while."""
    running = Running(tmp_path / "root")
    published = [
        running.client.publish(*sample(number, tenant=f"t{number}")) for number in range(3)
    ]
    backup(running.root, tmp_path / "backup")
    running.client.withdraw(published[0].ref, "trained on the wrong rows")
    running.client.set_consent("t1", "faq", frozenset({"t2"}))
    running.client.set_consent("t2", "faq", NOBODY)
    later = running.client.publish(*sample(9, tenant="late"))
    running.client.withdraw(later.ref, "it is not in the backup")
    running.close()
    return tmp_path, published


def test_the_audit_log_brings_back_later_withdrawals_and_consents(
    lost: tuple[Path, list[Manifest]],
) -> None:
    folder, published = lost
    restore(folder / "backup", folder / "new", audit=folder / "root" / "audit" / "log.jsonl")
    before = fsck(folder / "new")
    assert before.findings == () and [one.kind for one in before.notes] == ["audit_behind"]
    restored = Running(folder / "new")
    try:
        with pytest.raises(errors.WithdrawnError, match="wrong rows"):
            restored.client.fetch(published[0].ref)
        assert [one.ref for one in restored.client.list()] == [
            published[2].ref, published[1].ref
        ]  # fmt: skip
        consents = [restored.client.describe(one.ref).consent for one in published[1:]]
        assert consents == [frozenset({"t2"}), NOBODY]
    finally:
        restored.close()
    assert fsck(folder / "new").findings == ()
    assert examine(folder / "new" / "audit" / "log.jsonl").fault is None


def test_what_the_backup_lacks_stays_withdrawn_and_keeps_its_consent(
    lost: tuple[Path, list[Manifest]],
) -> None:
    folder, _ = lost
    running = Running(folder / "root")
    running.client.publish(*sample(7, tenant="new"))
    running.client.set_consent("new", "faq", frozenset({"t2"}))
    running.client.publish(*sample(8, tenant="shut"))
    running.client.set_consent("shut", "faq", NOBODY)
    running.close()
    restore(folder / "backup", folder / "new", audit=folder / "root" / "audit" / "log.jsonl")
    restored = Running(folder / "new")
    try:
        with pytest.raises(errors.WithdrawnError, match="it is not in the backup"):
            restored.client.publish(*sample(9, tenant="late"))
        for number, tenant, consent in ((7, "new", frozenset({"t2"})), (8, "shut", NOBODY)):
            again = restored.client.publish(*sample(number, tenant=tenant))  # for everyone
            assert restored.client.describe(again.ref).consent == consent
        later = restored.client.publish(*sample(10, tenant="late"))
        assert restored.client.describe(later.ref).consent == EVERYONE
    finally:
        restored.close()
    assert fsck(folder / "new").findings == ()


def test_a_log_whose_last_line_a_crash_cut_short_is_taken_without_it(
    lost: tuple[Path, list[Manifest]],
) -> None:
    folder, published = lost
    log = folder / "root" / "audit" / "log.jsonl"
    with log.open("ab") as file:
        file.write(b'{"caller":"owner/t1","kind":"wi')
    restore(folder / "backup", folder / "new", audit=log)
    restored = Running(folder / "new")
    try:
        with pytest.raises(errors.WithdrawnError, match="wrong rows"):
            restored.client.fetch(published[0].ref)
    finally:
        restored.close()


def test_without_the_log_a_restored_registry_is_closed_until_an_operator_opens_it(
    lost: tuple[Path, list[Manifest]],
) -> None:
    folder, published = lost
    restore(folder / "backup", folder / "new")
    restored = Running(folder / "new")
    client = restored.client
    try:
        for call in (
            lambda: client.fetch(published[0].ref),
            lambda: client.describe(published[0].ref),
            lambda: list(client.list()),
            lambda: client.lineage(published[0].ref),
            lambda: client.resolve_alias("t0", "faq", "live"),
            lambda: client.publish(*sample(5)),
            lambda: next(client.watch()),
        ):
            with pytest.raises(errors.RegistryClosedError, match="registry reopen"):
                call()
        client.withdraw(published[0].ref, "again")  # which its owner may do before
        reopen(folder / "new")
        restored.run(restored.server._service.check())  # as every few seconds
        with pytest.raises(errors.WithdrawnError, match="again"):
            client.fetch(published[0].ref)
        assert client.fetch(published[1].ref)[0] == published[1]
    finally:
        restored.close()


def test_a_log_that_does_not_continue_the_backups_is_refused(
    lost: tuple[Path, list[Manifest]],
) -> None:
    folder, _ = lost
    other = Running(folder / "other")
    other.client.publish(*sample(1))
    other.close()
    log = folder / "root" / "audit" / "log.jsonl"
    with pytest.raises(errors.AuditBrokenError):
        restore(folder / "backup", folder / "new", audit=folder / "other" / "audit" / "log.jsonl")
    log.write_bytes(log.read_bytes().replace(b"wrong rows", b"right rows"))
    with pytest.raises(errors.AuditBrokenError, match="edited"):
        restore(folder / "backup", folder / "new", audit=log)
    assert not (folder / "new").exists()


def test_watchers_of_a_restored_registry_begin_again(lost: tuple[Path, list[Manifest]]) -> None:
    folder, published = lost
    old = Running(folder / "root")
    seen = [*islice(old.client.watch(), 8)]
    old.close()
    restore(folder / "backup", folder / "new")
    reopen(folder / "new")
    restored = Running(folder / "new")
    client: RegistryClient = restored.client
    names = [("published", one.ref.name) for one in published]
    try:
        for after in (seen[1], seen[-1]):
            found = [*islice(client.watch(after.revision, incarnation=after.incarnation), 4)]
            assert [(one.kind, one.name) for one in found] == [("restored", ""), *names]
        ahead = 2 * seen[-1].revision
        assert [one.kind for one in islice(client.watch(ahead), 1)] == ["restored"]
        assert seen[0].incarnation != restored.server._service._incarnation
    finally:
        restored.close()


def test_each_restore_of_one_backup_is_another_incarnation(
    lost: tuple[Path, list[Manifest]],
) -> None:
    folder, _ = lost
    found = set()
    for name in ("root", "one", "two"):
        if name != "root":
            restore(folder / "backup", folder / name)
        running = Running(folder / name)
        found.add(running.server._service._incarnation)
        running.close()
    assert len(found) == 3
