"""Files that are whole or absent, whenever the process dies."""

import os
import tempfile
from pathlib import Path

_STAGED = ".staged-"


def write_atomically(path: Path, content: bytes) -> None:
    """All of `content` is at `path`, or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_STAGED, delete=False) as staged:
        try:
            staged.write(content)
            staged.flush()
            os.fsync(staged.fileno())
        except BaseException:
            Path(staged.name).unlink()
            raise
    Path(staged.name).replace(path)


def remove_torn(folder: Path) -> None:
    """What processes that died left half written in the folder and below; nobody may write now."""
    for staged in folder.rglob(f"{_STAGED}*"):
        staged.unlink()
