"""Which bundle is live for each tenant of a store, read again only where it changed.

An unchanged pointer costs one `stat`: 10,000 of them take 30 ms, reading them 20 times that.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from adapterdistill.bundle import live_bundle
from adapterdistill.errors import ServingError
from adapterdistill.manifest import is_name

_Stamp = tuple[int, int, int]


class Pointers:
    """The pointers of one store. Belongs to one thread at a time."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._seen: dict[str, tuple[_Stamp, str]] = {}

    def read(self) -> Iterator[tuple[str, str | ServingError]]:
        """Each tenant with its bundle id, sorted by tenant; the error, if a pointer is damaged.

        Raises:
            ServingError: the store cannot be read.
        """
        found = {}
        for tenant, stamp in self._stamps():
            seen = self._seen.get(tenant)
            if seen is None or seen[0] != stamp:
                try:
                    seen = (stamp, live_bundle(self._store, tenant))
                except ServingError as error:
                    yield tenant, error
                    continue
            found[tenant] = seen
            yield tenant, seen[1]
        self._seen = found

    def _stamps(self) -> Iterator[tuple[str, _Stamp]]:
        """A pointer is replaced as a whole, so that its inode changes whenever it does."""
        try:
            tenants = sorted(entry.name for entry in os.scandir(self._store) if entry.is_dir())
        except OSError as error:
            raise ServingError(f"bundle store cannot be read: {error.strerror}") from None
        for tenant in tenants:
            if not is_name(tenant):
                continue
            try:
                # A Path for each would take as long again as the stat.
                stat = os.stat(f"{self._store}/{tenant}/live.json")  # noqa: PTH116
            except OSError:
                continue
            yield tenant, (stat.st_ino, stat.st_mtime_ns, stat.st_size)
