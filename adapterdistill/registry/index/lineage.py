"""Who learnt from whom, at any depth, in the index."""

import sqlite3
from collections.abc import Iterable
from typing import Literal

from adapterdistill.manifest import VersionRef

_NEXT = {
    "ancestors": "SELECT teacher FROM lineage WHERE student = ?",
    "descendants": "SELECT student FROM lineage WHERE teacher = ?",
}


def relatives(
    db: sqlite3.Connection,
    ref: VersionRef,
    direction: Literal["ancestors", "descendants"],
    limit: int | None = None,
) -> tuple[list[tuple[str, int]], bool]:
    """Names and depths, nearest first, and whether there are more than `limit`."""
    depth_of = {ref.name: 0}
    level: Iterable[str] = [ref.name]
    depth = 0
    while level:
        depth += 1
        found: list[str] = []
        for name in level:
            for (relative,) in db.execute(_NEXT[direction], (name,)):
                if relative not in depth_of:
                    if limit is not None and len(depth_of) > limit:
                        return list(depth_of.items())[1:], True
                    depth_of[relative] = depth
                    found.append(relative)
        level = found
    return list(depth_of.items())[1:], False
