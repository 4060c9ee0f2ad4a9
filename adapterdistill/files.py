"""Reading and writing single files so that no reader meets half of one, and no other user any.

Every file that is written here has mode 0600. `keep_private` closes also what libraries write
(Parquet, SQLite, safetensors), for a whole process; `private_folder` makes the root of a folder of
private content.

Writing, from the simplest to the most careful:
- `write_synced` makes a new file that survives a power failure; `sync` does the same for a name.
- `replace_file` is the one atomic writer: readers see the old file or the new one, never a part.
- `write_file` is `replace_file` for a path that a person named: it makes the folder, and reports
  faults as `ConfigError`. `write_secret` does not make the folder.
- `write_atomically` is `replace_file` in a folder that several processes write, one at a time
  (`alone_in`); it also removes what a killed process left of the same file.

Reading is bounded and never waits for a pipe: `read_file` for what a person or a command wrote,
`read_secret` for a file that must be closed to everyone but its owner.
"""

import fcntl
import glob
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from adapterdistill.errors import ConfigError

STAGED = ".staged-"
"""Prefix of the names under which files and folders are written before they get their own."""
MAX_BYTES = 1 << 20
"""Limit of a file that a person or a command wrote: a run's TOML, an address, certificates."""
MAX_SECRET_BYTES = 64 << 20
"""Limit of a secret file: the hashes of some 300,000 tokens; a key has a few hundred bytes."""


def keep_private() -> None:
    """Close every file and folder that this process makes from now on to other users.

    Every process of this project that writes private content calls it first.
    """
    os.umask(0o077)


def private_folder(folder: Path) -> Path:
    """Make a folder that is closed to other users, or close the one that is there; return it.

    Closing it covers also what an earlier release left readable in it. A folder that belongs to
    another user, or that all users share (/tmp), stays as it is.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid == os.geteuid() and not found.st_mode & stat.S_ISVTX:
        folder.chmod(0o700)
    return folder


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: others that ask for it wait.

    The folder itself is the lock, so that no lock file is left in it. Whoever holds it may remove
    every staged file in the folder, because nobody else is writing one.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_staged(folder: Path) -> None:
    """Remove what killed processes left half written in the folder. The caller must be alone."""
    _remove(folder.glob(f"{STAGED}*"))


def remove_torn(folder: Path) -> None:
    """Remove what killed processes left half written in the folder and all folders below it."""
    for part in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        remove_staged(part)


def _remove(paths: Iterator[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a new file that survives a power failure as soon as its name does (`sync`).

    `mode` holds from the first moment on.

    Raises:
        FileExistsError: there is a file of that name.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Put a file with this content and mode at `path`, or leave what was there before.

    The new file survives a power failure once this returns. Its folder must exist.
    """
    staged = path.with_name(f"{STAGED}{path.name}.{uuid4().hex}")
    try:
        write_synced(staged, content, mode=mode)
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in a folder that several processes write; make the folder if it is absent.

    Writers in one folder take turns, and each removes what a killed one left of the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(path.parent):
        _remove(path.parent.glob(f"{STAGED}{glob.escape(path.name)}.*"))
        replace_file(path, content)


def write_file(path: Path, content: bytes) -> None:
    """Replace a file that a person named; make its folder if it is absent.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def write_secret(path: Path, content: bytes) -> None:
    """Replace a file that only its owner may read. Its folder must exist.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def read_file(path: Path) -> bytes:
    """Read a regular file of at most MAX_BYTES.

    Raises:
        ConfigError: there is none, it cannot be read, or it is longer.
    """
    with _opened(path) as file:
        return _content(path, file, MAX_BYTES)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of at most `max_bytes`; ConfigError like `read_file`."""
    with _opened(path) as file:
        return _content(path, file, max_bytes)


def read_secret(path: Path) -> bytes:
    """Read a regular file of at most MAX_SECRET_BYTES that is closed to all but its owner.

    Raises:
        ConfigError: others may read or write it, too, or it cannot be read, or it is longer.
    """
    with _opened(path) as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"{path}: holds a secret, but others may read or change it (mode {mode:04o}): "
                "chmod 600 it, and replace the secret if they could have read it"
            )
        return _content(path, file, MAX_SECRET_BYTES)


def _opened(path: Path) -> BinaryIO:
    """Open a regular file. A pipe of that name would block, so it is refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise ConfigError(f"{path}: expected a file")


def _content(path: Path, file: BinaryIO, max_bytes: int) -> bytes:
    try:
        content = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(content) > max_bytes:
        raise ConfigError(f"{path}: expected at most {max_bytes} bytes")
    return content
