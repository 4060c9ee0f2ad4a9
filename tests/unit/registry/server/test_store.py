"""The blob store: whole or absent, under the sha256 of the content."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapterdistill.errors import RegistryError
from adapterdistill.registry.access import ANYONE
from adapterdistill.registry.server.store import BlobStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    store = BlobStore(tmp_path / "registry")
    yield store
    store.close()


def put(store: BlobStore, content: bytes) -> str:
    with store.staging.begin(ANYONE, hashlib.sha256(content).hexdigest()).open() as upload:
        upload.write(content[:3])
        upload.write(content[3:])
        return store.commit(upload)


def files(store: BlobStore) -> list[str]:
    return sorted(p.name for p in store.root.rglob("*") if p.is_file() and p.name != "lock")


def test_committed_bytes_are_read_back_under_their_sha256(store: BlobStore) -> None:
    sha256 = put(store, b"some weights")
    assert sha256 == hashlib.sha256(b"some weights").hexdigest()
    with store.open(sha256) as file:
        assert file.read() == b"some weights"
    assert store.size(sha256) == 12


def test_same_bytes_twice_are_one_file(store: BlobStore) -> None:
    assert put(store, b"twins") == put(store, b"twins")
    assert len(files(store)) == 1


def test_sweep_removes_staged_files_and_orphans_but_keeps_what_is_named(store: BlobStore) -> None:
    kept, orphan = put(store, b"kept"), put(store, b"orphan")
    (store.root / "staging" / "left-by-a-crash").write_bytes(b"half")
    assert store.sweep(lambda: {kept}) == 2
    assert files(store) == [kept]
    assert store.size(orphan) is None
    with pytest.raises(RegistryError, match=orphan[:12]):
        store.open(orphan)


def test_second_store_on_one_folder_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    first = BlobStore(tmp_path / "root")
    with pytest.raises(RegistryError, match="another registry"):
        BlobStore(tmp_path / "root")
    first.close()
    BlobStore(tmp_path / "root").close()


def test_check_writable_notices_a_lost_folder(store: BlobStore) -> None:
    store.check_writable()
    (store.root / "staging").rmdir()
    with pytest.raises(OSError):  # noqa: PT011 - any kind of it
        store.check_writable()
