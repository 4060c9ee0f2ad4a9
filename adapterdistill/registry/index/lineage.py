"""Lineage in the index: which versions learnt from which, directly or through others."""

import sqlite3
from typing import Literal

from adapterdistill.manifest import VersionRef

_EDGES = {"ancestors": ("student", "teacher"), "descendants": ("teacher", "student")}


def relatives(
    db: sqlite3.Connection,
    ref: VersionRef,
    direction: Literal["ancestors", "descendants"],
    limit: int | None = None,
) -> tuple[list[tuple[str, int]], bool]:
    """List names with their depths, nearest first, and whether there are more than `limit`."""
    near, far = _EDGES[direction]
    # The query keeps no depths: a name would then come once for each depth at which some path
    # reaches it, and dense lineages have millions of these. SQLite takes the names of a recursion
    # in the order in which they were found, so the first edge to a name ends the shortest path.
    edges = db.execute(
        "WITH RECURSIVE found (name) AS"
        f" (VALUES (?) UNION SELECT {far} FROM found CROSS JOIN lineage ON {near} = name)"
        f" SELECT {near}, {far} FROM found CROSS JOIN lineage ON {near} = name",
        (ref.name,),
    )
    depths = {ref.name: 0}
    for closer, farther in edges:
        if farther not in depths and limit is not None and len(depths) > limit:
            return list(depths.items())[1:], True
        depths.setdefault(farther, depths[closer] + 1)
    return list(depths.items())[1:], False
