"""Uploads that break off and go on: what stays, for whom, and for how long."""

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapterdistill.errors import (
    ChunkChecksumError,
    DigestMismatchError,
    RegistryError,
    RegistryUnavailableError,
    UploadIncompleteError,
)
from adapterdistill.registry.access import ANYONE, Caller
from adapterdistill.registry.admission.quotas import Quotas
from adapterdistill.registry.server import staging
from adapterdistill.registry.server.staging import MIN_KEPT_BYTES
from adapterdistill.registry.server.store import BlobStore

ACME, BROOK = Caller("owner", "acme"), Caller("owner", "brook")
CONTENT = os.urandom(3 * MIN_KEPT_BYTES)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUOTAS = Quotas(staged_bytes=5 * MIN_KEPT_BYTES, staged_files=3, staged_s=60.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    store = BlobStore(tmp_path / "registry", QUOTAS)
    yield store
    store.close()


def staged(store: BlobStore) -> dict[str, int]:
    """Caller and name of each staged file, with its size."""
    folder = store.root / "staging"
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }


def break_off(store: BlobStore, size: int, *, caller: Caller = ACME, sha256: str = SHA256) -> None:
    """An upload whose connection breaks after `size` bytes."""
    upload = store.staging.begin(caller, sha256).open()
    upload.write(CONTENT[:size])
    upload.__exit__(RegistryUnavailableError, RegistryUnavailableError("nothing came"), None)


def test_an_upload_goes_on_from_where_it_broke_off(store: BlobStore) -> None:
    break_off(store, 2 * MIN_KEPT_BYTES)
    offset = store.staging.durable_bytes(ACME, SHA256)
    assert offset == 2 * MIN_KEPT_BYTES
    with store.staging.begin(ACME, SHA256).open(offset) as upload:
        upload.write(CONTENT[offset:])
        assert upload.sha256() == SHA256
        assert store.commit(upload) == SHA256
    with store.open(SHA256) as file:
        assert file.read() == CONTENT
    assert staged(store) == {}
    assert store.staging.durable_bytes(ACME, SHA256) == 0


def test_it_may_continue_from_an_earlier_byte(store: BlobStore) -> None:
    break_off(store, 2 * MIN_KEPT_BYTES)
    with store.staging.begin(ACME, SHA256).open(1000) as upload:
        upload.write(CONTENT[1000:])
        assert upload.sha256() == SHA256


@pytest.mark.parametrize("offset", [2 * MIN_KEPT_BYTES + 1, 10 * MIN_KEPT_BYTES])
def test_it_never_goes_on_from_bytes_that_are_not_there(store: BlobStore, offset: int) -> None:
    break_off(store, 2 * MIN_KEPT_BYTES)
    with pytest.raises(UploadIncompleteError, match=f"{2 * MIN_KEPT_BYTES} bytes"):
        store.staging.begin(ACME, SHA256).open(offset)
    assert store.staging.durable_bytes(ACME, SHA256) == 2 * MIN_KEPT_BYTES
    with pytest.raises(UploadIncompleteError, match="no byte"):
        store.staging.begin(ACME, "0" * 64).open(offset)


def test_what_one_caller_staged_is_nothing_to_another(store: BlobStore) -> None:
    break_off(store, 2 * MIN_KEPT_BYTES)
    for other in (BROOK, ANYONE, Caller("operator", "acme")):
        assert store.staging.durable_bytes(other, SHA256) == 0
        with pytest.raises(UploadIncompleteError):
            store.staging.begin(other, SHA256).open(MIN_KEPT_BYTES)


def test_bytes_changed_on_disk_change_the_digest(store: BlobStore) -> None:
    break_off(store, 2 * MIN_KEPT_BYTES)
    path = store.root / "staging" / "owner.acme" / SHA256
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with store.staging.begin(ACME, SHA256).open(2 * MIN_KEPT_BYTES) as upload:
        upload.write(CONTENT[2 * MIN_KEPT_BYTES :])
        assert upload.sha256() != SHA256


def test_a_faulty_chunk_keeps_what_came_before_and_faulty_content_nothing(
    store: BlobStore,
) -> None:
    for error, kept in (
        (ChunkChecksumError("crc"), 2 * MIN_KEPT_BYTES),
        (DigestMismatchError("sha"), 0),
    ):
        upload = store.staging.begin(ACME, SHA256).open()
        upload.write(CONTENT[: 2 * MIN_KEPT_BYTES])
        upload.__exit__(type(error), error, None)
        assert store.staging.durable_bytes(ACME, SHA256) == kept


def test_little_is_not_kept(store: BlobStore) -> None:
    break_off(store, MIN_KEPT_BYTES - 1)
    assert staged(store) == {}


def test_what_a_killed_process_left_is_gone_on_with_and_its_copies_are_not(
    tmp_path: Path,
) -> None:
    store = BlobStore(tmp_path, QUOTAS)
    first = store.staging.begin(ACME, SHA256).open()
    second = store.staging.begin(ACME, SHA256).open()
    for upload in (first, second):
        upload.write(CONTENT[: 2 * MIN_KEPT_BYTES])
    small = store.staging.begin(BROOK, SHA256).open()
    small.write(b"x")
    (tmp_path / "staging" / "of-an-earlier-release").write_bytes(b"half")
    assert len(staged(store)) == 4
    store.close()
    with BlobStoreAgain(tmp_path) as again:
        assert again.sweep(set) == 3
        assert staged(again) == {f"owner.acme/{SHA256}": 2 * MIN_KEPT_BYTES}
        assert again.staging.durable_bytes(ACME, SHA256) == 2 * MIN_KEPT_BYTES
        for upload in (first, second, small):  # only to close their files
            upload.kept.parent.mkdir(exist_ok=True)
            upload.leave(keep=False)


class BlobStoreAgain(BlobStore):
    """The store as the next process opens it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, QUOTAS)

    def __enter__(self) -> BlobStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_two_uploads_of_one_payload_do_not_harm_each_other(store: BlobStore) -> None:
    half = 2 * MIN_KEPT_BYTES
    with store.staging.begin(ACME, SHA256).open() as first:
        first.write(CONTENT[:half])
        with store.staging.begin(ACME, SHA256).open() as second:
            second.write(b"something else, which is wrong")
            with store.staging.begin(ACME, SHA256).open(half) as third:  # goes on with the first's
                third.write(CONTENT[half:])
                assert store.commit(third) == SHA256
        first.write(CONTENT[half:])
        assert first.sha256() == SHA256
        store.commit(first)
    assert staged(store) == {}


def test_the_longer_of_two_that_broke_off_stays(store: BlobStore) -> None:
    first = store.staging.begin(ACME, SHA256).open()
    second = store.staging.begin(ACME, SHA256).open()
    first.write(CONTENT[:MIN_KEPT_BYTES])
    second.write(CONTENT[: 2 * MIN_KEPT_BYTES])
    first.leave(keep=True)
    assert store.staging.durable_bytes(ACME, SHA256) == MIN_KEPT_BYTES
    second.leave(keep=True)
    assert staged(store) == {f"owner.acme/{SHA256}": 2 * MIN_KEPT_BYTES}


def test_only_what_is_on_disk_for_certain_is_told_of_an_upload_that_runs(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_SYNC_BYTES", 4 * MIN_KEPT_BYTES)
    with store.staging.begin(ACME, SHA256).open() as upload:
        told = []
        for _ in range(9):
            upload.write(CONTENT[:MIN_KEPT_BYTES])
            told.append(store.staging.durable_bytes(ACME, SHA256) // MIN_KEPT_BYTES)
    assert told == [0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_a_callers_oldest_goes_when_it_leaves_too_much(store: BlobStore) -> None:
    names = [f"{digit}" * 64 for digit in range(5)]
    now = time.time()
    for number, name in enumerate(names):
        break_off(store, MIN_KEPT_BYTES, sha256=name)
        os.utime(store.root / "staging" / "owner.acme" / name, (now, now - 30 + number))
    assert set(staged(store)) == {f"owner.acme/{name}" for name in names[2:]}
    break_off(store, 3 * MIN_KEPT_BYTES, sha256="f" * 64)
    assert sum(staged(store).values()) <= QUOTAS.staged_bytes
    assert f"owner.acme/{'f' * 64}" in staged(store)
    break_off(store, MIN_KEPT_BYTES, caller=BROOK)  # and nobody else's
    assert f"owner.acme/{'f' * 64}" in staged(store)


def test_uploads_that_nobody_goes_on_with_are_swept_in_time(store: BlobStore) -> None:
    break_off(store, MIN_KEPT_BYTES)
    break_off(store, MIN_KEPT_BYTES, caller=BROOK)
    assert store.staging.sweep() == 0
    long_ago = time.time() - 61
    os.utime(store.root / "staging" / "owner.acme" / SHA256, (long_ago, long_ago))
    with store.staging.begin(BROOK, "a" * 64).open() as upload:
        upload.write(b"x")
        assert store.staging.sweep() == 1
        assert set(staged(store)) == {f"owner.brook/{SHA256}", f"owner.brook/{'a' * 64}"}
    assert not (store.root / "staging" / "owner.acme").exists()


def test_write_after_leaving_is_refused_and_touches_nothing(store: BlobStore) -> None:
    with store.staging.begin(ACME, SHA256).open() as upload:
        upload.write(b"abc")
    with pytest.raises(RegistryError, match="abandoned"):
        upload.write(b"def")
    with pytest.raises(RegistryError, match="abandoned"):
        store.commit(upload)
    assert staged(store) == {}


def test_leaving_during_writes_in_another_thread_leaves_no_file(store: BlobStore) -> None:
    upload = store.staging.begin(ACME, SHA256).open()

    def write_on() -> None:
        try:
            while True:
                upload.write(b"x" * 65536)
        except RegistryError:
            pass

    writer = threading.Thread(target=write_on)
    writer.start()
    while upload.size < 1 << 20:
        pass
    upload.leave(keep=False)
    writer.join(timeout=10)
    assert not writer.is_alive() and staged(store) == {}


def test_sweep_leaves_a_file_alone_that_is_gone_already(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readiness probe comes and goes beside uploads."""
    folder = store.root / "staging"
    (folder / "probe").touch()
    listed = list(folder.iterdir())
    (folder / "probe").unlink()
    monkeypatch.setattr(
        type(folder), "iterdir", lambda path: iter(listed) if path == folder else iter(())
    )
    store.staging.sweep()
