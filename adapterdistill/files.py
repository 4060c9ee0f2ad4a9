"""Files that are whole or absent, whenever a process that writes them dies."""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from adapterdistill.errors import ConfigError

STAGED = ".staged-"
"""What names begin with that are not what they will be."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Whoever else asks for the folder waits meanwhile: so what is staged in it, nobody needs.

    The folder is the lock, so that no file of it is left over.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_staged(folder: Path) -> None:
    """What processes that died left half written in the folder; nobody may write there now."""
    for staged in folder.glob(f"{STAGED}*"):
        if staged.is_dir():
            shutil.rmtree(staged, ignore_errors=True)
        else:
            staged.unlink(missing_ok=True)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file that outlasts a power failure, once its name does (`sync_folder`)."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlast a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """All of `content` is at `path`, or what was there before.

    Writers in one folder take turns: what one that was killed left, the next overwrites.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(path.parent):
        staged = path.with_name(f"{STAGED}{path.name}")
        try:
            write_synced(staged, content)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        staged.replace(path)


def remove_torn(folder: Path) -> None:
    """What processes that died left half written in the folder and below; nobody may write now."""
    for part in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        remove_staged(part)


_MAX_BYTES = 64 << 20  # some 300,000 tokens' hashes; a key has a few hundred bytes


def read_secret(path: Path) -> bytes:
    """The content of a file that nobody but its owner may read or write.

    Raises:
        ConfigError: others may, too, or it is no file that can be read.
    """
    with open_file(path) as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"{path}: holds a secret, but others may read or change it (mode {mode:04o}): "
                "chmod 600 it, and if they could have read it, make another"
            )
        try:
            return file.read(_MAX_BYTES)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None


def write_secret(path: Path, content: bytes) -> None:
    """Others never see the file's content, and its owner sees all of it or what was there before.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        descriptor, staged = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(staged).replace(path)
        except BaseException:
            Path(staged).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


MAX_BYTES = 1 << 20
"""Of what a person or a command wrote: a run's TOML, an address, certificates."""


def open_file(path: Path) -> BinaryIO:
    """A regular file to be read. A pipe of that name would be waited for, maybe for ever.

    Raises:
        ConfigError: it is none, or cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise ConfigError(f"{path}: expected a file")


def read_file(path: Path) -> bytes:
    """All of it. Raises ConfigError also if it has more than MAX_BYTES."""
    with open_file(path) as file:
        try:
            content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: expected at most {MAX_BYTES} bytes")
    return content
