"""The files of a source, and what is passed over on the way to them."""

import os
from collections.abc import Iterator
from pathlib import Path

from adapterdistill.data.schema import TASKS_FOLDER
from adapterdistill.data.sources.naming import SUFFIXES, suffix_of
from adapterdistill.data.sources.raw import UnreadableSourceError

_MOST_FILES = 10_000
_DEEPEST = 5
_PASSED_OVER = (".", "_", "~$")
"""Beginnings of hidden, marker and lock files."""


def files_of(
    place: Path, ignored: list[tuple[str, str]], *, leave_out: Path | None = None
) -> Iterator[tuple[Path, str]]:
    """Yield the files with their paths within `place`, in order of name; add the rest to `ignored`.

    Args:
        leave_out: a folder that is no part of the source: where the tenant will be written.

    Raises:
        UnreadableSourceError: `place` does not exist, or holds too many files.
        OSError: a folder may not be read.
    """
    if not place.is_dir():
        if not place.is_file():
            raise UnreadableSourceError("does not exist")
        yield place, place.name
        return
    count = 0
    for folder, folders, names in os.walk(place, onerror=_refuse):
        within = Path(folder).relative_to(place)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(_PASSED_OVER) and not _is(Path(folder) / name, leave_out)
        )
        if len(within.parts) >= _DEEPEST:
            ignored += [(str(within / name), "the folder lies too deep") for name in folders]
            folders.clear()
        for name in folders:
            if (Path(folder) / name).is_symlink():
                ignored.append((str(within / name), "a link to a folder is not followed"))
        for name in sorted(names):
            count += 1
            if count > _MOST_FILES:
                raise UnreadableSourceError(
                    f"holds more than {_MOST_FILES} files; give the folder of one tenant"
                )
            why = _why_passed_over(Path(folder) / name, within)
            if why is None:
                yield Path(folder) / name, str(within / name)
            elif why:
                ignored.append((str(within / name), why))


def _why_passed_over(path: Path, within: Path) -> str | None:
    """Why the file is not opened; "" where that need not be told, None if it is opened."""
    if path.name.startswith(_PASSED_OVER):
        return "a hidden or temporary file" if suffix_of(path) in SUFFIXES else ""
    if within.parts[:1] == (TASKS_FOLDER,):
        return f"a further task: put it into the folder {TASKS_FOLDER} of the tenant"
    return None if path.is_file() else "not a regular file"


def _is(folder: Path, other: Path | None) -> bool:
    return other is not None and folder.resolve() == other.resolve()


def _refuse(error: OSError) -> None:
    raise error
