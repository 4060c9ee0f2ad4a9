"""An owner's files: whole or absent, whenever the process dies."""

from pathlib import Path

from adapterdistill.files import STAGED, alone_in, remove_staged, write_synced


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
