"""Single files: atomic writing, secrets that only their owner may read, bounded reading."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from adapterdistill.errors import ConfigError
from adapterdistill.files import (
    MAX_BYTES,
    MAX_SECRET_BYTES,
    read_file,
    read_secret,
    replace_file,
    write_atomically,
    write_file,
    write_secret,
)

Write = Callable[[Path, bytes], None]
every_writer = pytest.mark.parametrize(
    "write", [replace_file, write_atomically, write_file, write_secret]
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secret"


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644])
def test_what_others_may_touch_is_refused_with_its_name_and_mode(path: Path, mode: int) -> None:
    write_secret(path, b"plover")
    assert read_secret(path) == b"plover"
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"{path}: .*\(mode {mode:04o}\): chmod 600") as refused:
        read_secret(path)
    assert "plover" not in str(refused.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(mode=0o700), "expected a file"),
        (lambda path: os.mkfifo(path, 0o600), "expected a file"),  # nor is it waited for
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
    ids=["absent", "folder", "pipe", "loop"],
)
def test_what_is_no_file_is_named(path: Path, make: object, said: str) -> None:
    assert callable(make)
    make(path)
    with pytest.raises(ConfigError, match=f"{path}: {said}"):
        read_secret(path)


def test_it_is_its_owners_alone_from_the_first_moment_on_whatever_the_umask(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    write = os.fdopen

    def watched(descriptor: int, *how: str) -> object:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return write(descriptor, *how)

    monkeypatch.setattr(os, "fdopen", watched)
    path.write_bytes(b"before")
    path.chmod(0o644)
    before = os.umask(0)
    try:
        write_secret(path, b"after")
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"after", 0o600)
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_takes_no_file_is_named_and_nothing_is_left(path: Path) -> None:
    with pytest.raises(ConfigError, match=f"cannot write {path}/deeper: No such file"):
        write_secret(path / "deeper", b"")
    path.mkdir()
    with pytest.raises(ConfigError, match=f"cannot write {path}: Is a directory"):
        write_secret(path, b"")
    assert list(path.parent.iterdir()) == [path]


@every_writer
def test_a_full_disk_leaves_what_was_there(
    path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    write(path, b"before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OSError, ConfigError), match="No space left on device"):
        write(path, b"after")
    assert [(p.name, p.read_bytes()) for p in path.parent.iterdir()] == [("secret", b"before")]


@every_writer
def test_an_interrupted_write_leaves_what_was_there(
    path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    write(path, b"before")

    def interrupted(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path, b"after")
    assert [(p.name, p.read_bytes()) for p in path.parent.iterdir()] == [("secret", b"before")]


@every_writer
def test_content_is_on_disk_before_its_name_and_the_name_before_the_return(
    path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    steps = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("sync folder" if is_folder else "sync file")
        fsync(descriptor)

    def watched_replace(self: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write(path, b"content")
    assert steps == ["sync file", "replace", "sync folder"]


def test_the_next_writer_removes_what_a_killed_one_left_of_the_same_file(tmp_path: Path) -> None:
    (tmp_path / ".staged-report.json.0").write_bytes(b"half")
    (tmp_path / ".staged-other.json.0").write_bytes(b"half")
    write_atomically(tmp_path / "report.json", b"after")
    assert {p.name for p in tmp_path.iterdir()} == {"report.json", ".staged-other.json.0"}


def test_a_file_that_a_person_named_gets_its_folder_or_a_named_fault(path: Path) -> None:
    write_file(path / "deeper" / "file", b"content")
    assert (path / "deeper" / "file").read_bytes() == b"content"
    with pytest.raises(ConfigError, match=f"cannot write {path}: Is a directory"):
        write_file(path, b"")


@pytest.mark.parametrize(
    ("read", "limit"), [(read_file, MAX_BYTES), (read_secret, MAX_SECRET_BYTES)]
)
def test_a_file_is_read_up_to_its_limit(
    path: Path, read: Callable[[Path], bytes], limit: int
) -> None:
    write_secret(path, b"content")
    assert read(path) == b"content"
    os.truncate(path, limit + 1)
    with pytest.raises(ConfigError, match=f"{path}: expected at most {limit} bytes"):
        read(path)
