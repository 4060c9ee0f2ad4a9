"""Files of secrets: for their owner alone from the first moment on, or refused."""

import os
import stat
from pathlib import Path

import pytest

from adapterdistill.errors import ConfigError
from adapterdistill.files import read_secret, write_secret


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
