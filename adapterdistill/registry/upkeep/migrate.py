"""Moves of an index between SQLite, in the registry's folder, and PostgreSQL."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from adapterdistill.errors import ConfigError, IntegrityError
from adapterdistill.files import read_secret, sync, write_secret
from adapterdistill.registry.folder import locked
from adapterdistill.registry.index.copying import copy_tables, digests
from adapterdistill.registry.index.database import (
    INDEX,
    URL,
    Database,
    is_shared,
    postgresql,
    sqlite,
)

MOVED = f"{INDEX}.moved"
"""The file that held the index before it was moved to PostgreSQL."""


@dataclass(frozen=True)
class Moved:
    """The rows of an index that was moved, by table."""

    rows: dict[str, int]


def to_postgresql(root: Path, url_file: Path) -> Moved:
    """Move the index of a folder that is not served to PostgreSQL; an absent one is made there.

    Args:
        url_file: holds the database's connection string, `postgresql://...`; it is copied into
            the folder.

    Raises:
        RegistryError: a registry serves the folder.
        ConfigError: the index is there already, or the database holds another one.
        IntegrityError: what arrived is not what was sent; the folder is unchanged.
        RegistryUnavailableError: the database cannot be reached.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: expected a registry's folder")
    url = read_secret(url_file)
    with closing(locked(root)):
        if is_shared(root):
            raise ConfigError(f"{root}: its index is in PostgreSQL already")
        with (
            closing(sqlite(root / INDEX)) as source,
            closing(postgresql(url.decode().strip())) as target,
        ):
            if target.execute("SELECT 1 FROM events LIMIT 1").fetchone() is not None:
                raise ConfigError(
                    "the database holds an index already: name an empty one, or drop its tables"
                )
            moved = _moved(source, target)
        write_secret(root / URL, url)
        (root / INDEX).rename(root / MOVED)
        sync(root)
    return moved


def to_sqlite(root: Path) -> Moved:
    """Move the index of a folder that is not served from PostgreSQL back into the folder.

    The database keeps its rows, which nothing uses any more. Raises as `to_postgresql`.
    """
    if not is_shared(root):
        raise ConfigError(f"{root}: its index is not in PostgreSQL")
    new = root / f"{INDEX}.new"
    with closing(locked(root)):
        new.unlink(missing_ok=True)
        url = read_secret(root / URL).decode().strip()
        with closing(postgresql(url)) as source, closing(sqlite(new)) as target:
            moved = _moved(source, target)
        new.rename(root / INDEX)
        sync(root)
        (root / URL).unlink()
        sync(root)
    return moved


def _moved(source: Database, target: Database) -> Moved:
    copy_tables(source, target)
    sent, arrived = digests(source), digests(target)
    for table, (count, digest) in sent.items():
        if arrived[table] != (count, digest):
            raise IntegrityError(
                f"table {table}: {count} rows were sent, {arrived[table][0]} arrived, and they"
                " differ: nothing was moved"
            )
    return Moved({table: count for table, (count, _) in sent.items()})
