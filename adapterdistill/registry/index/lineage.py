"""Lineage in the index: which versions learnt from which, directly or through others."""

from typing import Literal

from adapterdistill.manifest import VersionRef
from adapterdistill.registry.index.database import Database

_EDGES = {"ancestors": ("student", "teacher"), "descendants": ("teacher", "student")}
_AT_ONCE = 500
"""Names that one query looks up."""


def relatives(
    db: Database,
    ref: VersionRef,
    direction: Literal["ancestors", "descendants"],
    limit: int | None = None,
) -> tuple[list[tuple[str, int]], bool]:
    """List names with their depths, nearest first, and whether there are more than `limit`."""
    near, far = _EDGES[direction]
    depths, level, depth = {ref.name: 0}, [ref.name], 0
    while level:
        depth += 1
        found: list[str] = []
        for start in range(0, len(level), _AT_ONCE):
            names = level[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(names))
            edges = db.execute(f"SELECT {far} FROM lineage WHERE {near} IN ({marks})", names)
            for (name,) in edges:
                if name in depths:
                    continue
                if limit is not None and len(depths) > limit:
                    return list(depths.items())[1:], True
                depths[name] = depth
                found.append(name)
        level = found
    return list(depths.items())[1:], False
