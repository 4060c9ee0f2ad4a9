"""The audit log: whatever is done to it is found, and the first line at fault is named."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterdistill.errors import AuditBrokenError, ConfigError, IntegrityError
from adapterdistill.registry.upkeep import audit
from adapterdistill.registry.upkeep.audit import AuditLog
from adapterdistill.registry.upkeep.audit_line import Body, Position, seal, unseal
from adapterdistill.registry.upkeep.audit_verify import Examined, examine, read_public_key, verify

NAME = "tenants/acme/adapters/faq/versions/" + "a" * 64


def change(revision: int, **fields: str | int) -> Body:
    body: Body = {
        "revision": revision,
        "time_ns": 1_700_000_000_000_000_000 + revision,
        "caller": "owner/acme",
        "kind": "published",
        "name": NAME,
        "other_name": "",
        "reason": "",
    }
    return body | fields


def refused(name: str = NAME) -> Body:
    return {"kind": "refused", "call": "Publish", "caller": "owner/b", "name": name, "reason": "X"}


class Index:
    """Changes, as the registry's index would give them."""

    def __init__(self, number: int = 0) -> None:
        self.changes = [change(revision) for revision in range(1, number + 1)]

    def __call__(self, revision: int) -> Sequence[Body]:
        later = [one for one in self.changes if int(one["revision"]) > revision]
        return later[: audit.EVENTS_AT_ONCE]

    def change(self, **fields: str | int) -> None:
        self.changes.append(change(len(self.changes) + 1, **fields))


def log_of(root: Path, index: Index, *bodies: Body) -> Path:
    """A log with the changes of `index`, then `bodies`; properly closed."""
    root.mkdir(exist_ok=True)
    log = AuditLog(root, index)
    if bodies:
        log.write(bodies)
    log.close()
    return root / "audit" / "log.jsonl"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The lines of a log with checkpoints, changes and a refusal."""
    path = log_of(tmp_path_factory.mktemp("sound"), Index(103), refused())
    lines = path.read_bytes().splitlines(keepends=True)
    assert sum(b'"kind":"checkpoint"' in line for line in lines) == 3
    return lines


def examined(lines: Sequence[bytes], folder: Path, head: str | None = None) -> Examined:
    path = folder / "examined.jsonl"
    path.write_bytes(b"".join(lines))
    return examine(path, head=head)


def head_of(lines: Sequence[bytes]) -> str:
    record = unseal(lines[-1][:-1])
    assert record is not None
    return str(record["sha256"])


def test_a_log_verifies_and_says_what_it_holds(tmp_path: Path) -> None:
    path = log_of(tmp_path, Index(250), refused())
    records: list[dict[str, object]] = []
    found = examine(path, visit=records.append)
    assert (found.fault, found.revision, found.records) == (None, 250, len(records))
    assert found.head == records[-1]["sha256"]
    assert found.signed_records == found.records
    assert found.keys == (read_public_key(tmp_path / "audit" / "public.pem"),)
    assert [r["revision"] for r in records if r["kind"] == "published"] == list(range(1, 251))
    assert (tmp_path / "audit.key").stat().st_mode & 0o777 == 0o600
    assert verify(path, trusted=found.keys, head=found.head) == found


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_edited_byte_is_found_in_its_line(
    data: st.DataObject, sound: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = bytearray(b"".join(sound))
    place = data.draw(st.integers(0, len(text) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != text[place]))
    line = bytes(text[:place]).count(b"\n") + 1
    text[place] = value
    fault = examined([bytes(text)], tmp_path_factory.getbasetemp()).fault
    assert fault is not None
    assert (fault.line, fault.why in ("edited", "torn")) == (line, True)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_deleted_byte_is_found_in_its_line(
    data: st.DataObject, sound: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = b"".join(sound)
    place = data.draw(st.integers(0, len(text) - 1))
    fault = examined([text[:place], text[place + 1 :]], tmp_path_factory.getbasetemp()).fault
    assert fault is not None
    assert fault.line == text[:place].count(b"\n") + 1


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_removed_swapped_repeated_and_cut_off_lines_are_found(
    data: st.DataObject, sound: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    first, second = sorted(
        data.draw(st.lists(st.integers(0, len(sound) - 1), min_size=2, max_size=2, unique=True))
    )
    swapped = [*sound]
    swapped[first], swapped[second] = swapped[second], swapped[first]
    changed = {
        "removed": [*sound[:first], *sound[first + 1 :]],
        "reordered": swapped,
        "truncated": sound[:first],
    }
    for why, lines in changed.items():
        fault = examined(lines, folder, head=head_of(sound)).fault
        assert fault is not None
        assert (fault.line, fault.why) == (first + 1, why)
    repeated = [*sound[: second + 1], sound[first], *sound[second + 1 :]]
    fault = examined(repeated, folder).fault
    assert fault is not None
    assert (fault.line, fault.why) == (second + 2, "reordered")
    # Cut within a line.
    text = b"".join(sound)
    place = data.draw(st.integers(1, len(text) - 1).filter(lambda at: text[at - 1] != 10))
    fault = examined([text[:place]], folder).fault
    assert fault is not None
    assert (fault.line, fault.why) == (text[:place].count(b"\n") + 1, "torn")


def forged(lines: Sequence[bytes], number: int, *, keep_checkpoints: bool) -> list[bytes]:
    """`lines` with another caller in one of them, and every later one sealed anew to join it."""
    end = Position()
    made = []
    for line in lines:
        record = unseal(line[:-1])
        assert record is not None
        if not keep_checkpoints and record["kind"] == "checkpoint":
            continue
        body = {k: v for k, v in record.items() if k not in ("number", "previous", "sha256")}
        if record["number"] == number:
            body["caller"] = "owner/mallory"
        sealed, end = seal(body, end)
        made.append(sealed)
    return made


def test_who_seals_every_later_line_anew_cannot_sign_the_checkpoints(
    sound: list[bytes], tmp_path: Path
) -> None:
    fault = examined(forged(sound, 50, keep_checkpoints=True), tmp_path).fault
    assert fault is not None
    assert fault.why == "signature"
    first = next(i for i, line in enumerate(sound, 1) if b'"checkpoint"' in line and i > 50)
    assert fault.line == first
    fault = examined(forged(sound, 50, keep_checkpoints=False), tmp_path).fault
    assert fault is not None
    assert fault.why == "unsigned"
    one_sealed = [*sound]
    one_sealed[49] = forged(sound[:50], 50, keep_checkpoints=True)[49]
    fault = examined(one_sealed, tmp_path).fault
    assert fault is not None
    assert (fault.line, fault.why) == (51, "edited")


def test_a_log_of_another_key_is_found_by_who_kept_the_registrys(tmp_path: Path) -> None:
    ours = log_of(tmp_path / "ours", Index(3))
    theirs = log_of(tmp_path / "theirs", Index(3))
    trusted = [read_public_key(ours.parent / "public.pem")]
    verify(ours, trusted=trusted)
    with pytest.raises(AuditBrokenError, match=r"line 5: signature"):
        verify(theirs, trusted=trusted)


def test_a_lost_key_is_replaced_and_the_log_says_so(tmp_path: Path) -> None:
    path = log_of(tmp_path, Index(3))
    old = read_public_key(path.parent / "public.pem")
    (tmp_path / "audit.key").unlink()
    log_of(tmp_path, Index(4))
    new = read_public_key(path.parent / "public.pem")
    assert verify(path).keys == verify(path, trusted=[old, new]).keys == (old, new)
    with pytest.raises(AuditBrokenError, match="signature"):
        verify(path, trusted=[old])
    assert b'"kind":"key"' in path.read_bytes().splitlines()[-3]


def test_changes_that_a_crash_kept_from_the_log_are_taken_up(tmp_path: Path) -> None:
    index = Index(2)
    log = AuditLog(tmp_path, index)
    for _ in range(500):  # more than one page of them
        index.change()
    os.close(log._file)  # as a killed process leaves it
    path = log_of(tmp_path, index)
    assert verify(path).revision == 502


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_line_that_a_crash_cut_short_is_written_again(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("torn")
    index = Index(3)
    path = log_of(root, index)
    index.change(reason='said "no",\nüber 9')
    whole = path.read_bytes()
    log = AuditLog(root, index)
    if data.draw(st.booleans()):
        log.write([refused()])
    os.close(log._file)
    longer = path.read_bytes()
    line = data.draw(st.integers(0, longer.count(b"\n") - whole.count(b"\n") - 1))
    begin = len(whole) + sum(map(len, longer[len(whole) :].splitlines(keepends=True)[:line]))
    end = longer.index(b"\n", begin)
    cut = data.draw(st.integers(begin, end))
    path.write_bytes(longer[:cut])
    if cut < end and line == 0:
        index.changes.pop()  # the index commits what the log has, and nothing else
        index.change(reason="another change")
    records: list[dict[str, object]] = []
    found = examine(log_of(root, index), visit=records.append)
    assert (found.fault, found.revision) == (None, 4)
    assert [r["cut_bytes"] for r in records if r["kind"] == "repaired"] == (
        [cut - begin] if cut > begin else []
    )


@pytest.mark.parametrize(
    "end",
    [
        b"\0\0\0\0",
        b"x",
        b'{"call":"Publish","caller":"owner/b","kind":"sold","name":"tenants"',
        b'{"call":"Publish","caller":"owner/b","kind":"refused","name":"","number":99,',
        b'{"kind":"refused","previous":"' + b"1" * 64 + b'",',
    ],
)
def test_an_end_that_no_crash_leaves_is_refused(tmp_path: Path, end: bytes) -> None:
    path = log_of(tmp_path, Index(3))
    before = path.read_bytes() + end
    path.write_bytes(before)
    with pytest.raises(AuditBrokenError, match=r"line 6: torn"):
        AuditLog(tmp_path, Index(3))
    assert path.read_bytes() == before


def test_a_log_whose_end_was_edited_is_not_continued(tmp_path: Path) -> None:
    path = log_of(tmp_path, Index(3))
    path.write_bytes(path.read_bytes().replace(b'"revision":3', b'"revision":4'))
    with pytest.raises(AuditBrokenError, match="audit verify"):
        AuditLog(tmp_path, Index(3))


def test_a_full_disk_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index(3)
    log = AuditLog(tmp_path, index)
    path = tmp_path / "audit" / "log.jsonl"
    before = path.read_bytes()
    index.change()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(OSError, match="No space"):
            log.write([refused()])
    assert path.read_bytes() == before
    log.write()
    log.close()
    assert verify(path).revision == 4


def test_the_line_of_a_change_that_was_not_made_is_void(tmp_path: Path) -> None:
    index = Index(3)
    log = AuditLog(tmp_path, index)
    log.append([change(4)])
    os.close(log._file)  # killed before the index committed the change
    asked: list[int] = []

    def unmade(revision: int) -> bool:
        asked.append(revision)
        return True

    again = AuditLog(tmp_path, index, unmade)
    again.close()
    records: list[dict[str, object]] = []
    found = examine(tmp_path / "audit" / "log.jsonl", visit=records.append)
    assert (found.fault, found.revision, asked) == (None, 4, [4])
    assert [one["kind"] for one in records][-3:] == ["published", "void", "checkpoint"]
    AuditLog(tmp_path, index, unmade).close()
    assert asked == [4]  # nothing else ends with a change


@pytest.mark.parametrize("following", [99, 100, 101, 200])
def test_no_checkpoint_follows_the_last_change_of_a_log_that_was_killed(
    tmp_path: Path, following: int
) -> None:
    index = Index()
    log = AuditLog(tmp_path, index)
    for revision in range(1, following + 1):
        log.append([change(revision)])
    os.close(log._file)
    path = tmp_path / "audit" / "log.jsonl"
    assert b'"kind":"published"' in path.read_bytes().splitlines()[-1]
    assert examine(path).fault is None


def test_a_file_that_is_no_key_is_named(tmp_path: Path) -> None:
    key = tmp_path / "audit.key"
    key.write_text("no key")
    key.chmod(0o640)
    with pytest.raises(ConfigError, match=r"audit\.key: holds a secret, .*mode 0640"):
        AuditLog(tmp_path, Index())
    key.chmod(0o600)
    with pytest.raises(IntegrityError, match=r"audit\.key"):
        AuditLog(tmp_path, Index())
    with pytest.raises(ConfigError, match="public key"):
        read_public_key(tmp_path / "audit.key")
    with pytest.raises(ConfigError, match="cannot read"):
        verify(tmp_path / "absent")
