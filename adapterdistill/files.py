"""Files that are whole or absent, whenever a process that writes them dies."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
