"""The lock of a registry's folder: one process alone, or several that share an index."""

import fcntl
import time
from pathlib import Path
from typing import IO

from adapterdistill.errors import RegistryError

_LOCK = "lock"
_PATIENCE_S = 10.0


def locked(root: Path, *, shared: bool = False) -> IO[str]:
    """Lock the folder until the file that this returns is closed.

    A shared lock waits a little: another process that shares the folder may be cleaning it.

    Raises:
        RegistryError: another process uses the folder.
    """
    file = (root / _LOCK).open("a")
    deadline = time.monotonic() + (_PATIENCE_S if shared else 0.0)
    while True:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            file.close()
            raise RegistryError(f"another registry process uses the folder {root.name}") from None
        return file


def was_served(root: Path) -> bool:
    """Return whether a registry ever used the folder: a backup, or a restored one, was not."""
    return (root / _LOCK).exists()


def is_served(root: Path) -> bool:
    """Return whether a registry process uses the folder."""
    if not (root / _LOCK).exists():
        return False
    try:
        locked(root).close()
    except RegistryError:
        return True
    return False
