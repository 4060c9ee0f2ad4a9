"""Aliases: names such as "live" that an owner moves from version to version."""

from adapterdistill.errors import AliasConflictError, NotFoundError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.access import ANYONE, Caller
from adapterdistill.registry.index import events
from adapterdistill.registry.index.database import transaction
from adapterdistill.registry.index.index import Index
from adapterdistill.registry.index.schema import AliasRow


def alias_of(
    index: Index, tenant: str, adapter: str, alias: str, caller: Caller = ANYONE
) -> AliasRow:
    """Look up an alias; NotFoundError if the caller may not see it or the version that it names."""
    row = index.db.execute(
        "SELECT version, moves FROM aliases WHERE tenant = ? AND adapter = ? AND alias = ?",
        (tenant, adapter, alias),
    ).fetchone()
    ref = None if row is None else VersionRef(tenant=tenant, adapter=adapter, version=row[0])
    if ref is None or index.find(ref, caller) is None:
        raise NotFoundError(f"no alias tenants/{tenant}/adapters/{adapter}/aliases/{alias}")
    return AliasRow(ref, alias, _etag(index, ref, alias, row[1]))


def set_alias(
    index: Index, ref: VersionRef, alias: str, etag: str | None, caller: Caller = ANYONE
) -> AliasRow:
    """Create the alias (no etag) or move it (its current etag).

    Raises:
        NotFoundError, WithdrawnError: `ref` is not published, or was withdrawn.
        AliasConflictError: the alias has another etag, or does not exist.
    """
    with transaction(index.db):
        row = index.get_active(ref, caller)
        try:
            current: AliasRow | None = alias_of(index, ref.tenant, ref.adapter, alias)
        except NotFoundError:
            current = None
        # A call whose first answer was lost must succeed when it is repeated.
        if current is not None and current.ref == ref:
            return current
        if (None if current is None else current.etag) != etag:
            raise AliasConflictError(
                f"alias {alias} of tenants/{ref.tenant}/adapters/{ref.adapter}"
                + (" does not exist" if current is None else " is not at the etag given")
            )
        index.db.execute(
            "INSERT INTO aliases (tenant, adapter, alias, version, moves)"
            " VALUES (?, ?, ?, ?, 1)"
            " ON CONFLICT (tenant, adapter, alias)"
            " DO UPDATE SET version = excluded.version, moves = aliases.moves + 1",
            (ref.tenant, ref.adapter, alias, ref.version),
        )
        events.record(
            index.db,
            caller,
            "alias_moved",
            (ref.tenant, ref.adapter),
            f"tenants/{ref.tenant}/adapters/{ref.adapter}/aliases/{alias}",
            other_name=ref.name,
            public=row.state != "quarantined",
        )
    return alias_of(index, ref.tenant, ref.adapter, alias)


def _etag(index: Index, ref: VersionRef, alias: str, moves: int) -> str:
    """Make the etag with a key, so that nobody finds out how often the alias moved."""
    return index.keyed_digest(f"{ref.name} {alias} {moves}")[:16]
