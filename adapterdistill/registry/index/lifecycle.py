"""The lifecycle of a version after it is published: consent, release, withdrawal."""

from adapterdistill.errors import NotFoundError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.access import ANYONE, Caller, Consent
from adapterdistill.registry.index import events, lost
from adapterdistill.registry.index.database import transaction
from adapterdistill.registry.index.index import IS, Index
from adapterdistill.registry.index.schema import Row


def withdraw(index: Index, ref: VersionRef, reason: str, caller: Caller = ANYONE) -> Row:
    """Withdraw a version and mark all that learnt from it; a second time changes nothing.

    Raises:
        NotFoundError: the caller may see no such version.
    """
    with transaction(index.db):
        row = index.get(ref, caller)
        if row.state == "withdrawn":
            return row
        index.db.execute(
            f"UPDATE versions AS v SET state = 'withdrawn', state_reason = ? WHERE {IS}",
            (reason, ref.tenant, ref.adapter, ref.version),
        )
        revision = events.record(
            index.db,
            caller,
            "withdrawn",
            (ref.tenant, ref.adapter),
            ref.name,
            reason=reason,
            public=row.state != "quarantined",
        )
        _mark_descendants(index, ref, revision)
    return index.get(ref)


def _mark_descendants(index: Index, withdrawn: VersionRef, revision: int) -> None:
    """Mark all that learnt from a withdrawn version; earlier marks stay.

    Descendants of a marked version are marked, too, so the search ends there: over all withdrawals
    each version is marked once.
    """
    waiting = [withdrawn.name]
    while waiting:
        students = index.db.execute(
            "SELECT student FROM lineage WHERE teacher = ?", (waiting.pop(),)
        ).fetchall()
        for (student,) in students:
            ref = VersionRef.parse(student)
            marked = index.db.execute(
                "UPDATE versions AS v SET withdrawn_teacher = ?, marked_revision = ?"
                f" WHERE {IS} AND v.withdrawn_teacher = ''",
                (withdrawn.name, revision, ref.tenant, ref.adapter, ref.version),
            )
            if marked.rowcount:
                waiting.append(student)


def release_from_quarantine(index: Index, ref: VersionRef, caller: Caller = ANYONE) -> Row:
    """Make a version in quarantine active; a second time changes nothing.

    Raises:
        NotFoundError, WithdrawnError: there is no such version, or it was withdrawn.
    """
    with transaction(index.db):
        row = index.get_active(ref, caller)
        if row.state == "quarantined":
            index.db.execute(
                f"UPDATE versions AS v SET state = 'active', state_reason = '' WHERE {IS}",
                (ref.tenant, ref.adapter, ref.version),
            )
            events.record(index.db, caller, "released", (ref.tenant, ref.adapter), ref.name)
    return index.get(ref)


def set_consent(
    index: Index, tenant: str, adapter: str, consent: Consent, caller: Caller = ANYONE
) -> None:
    """Set who may learn from the adapter; NotFoundError if it has no version."""
    with transaction(index.db):
        if not index.has_versions((tenant, adapter)):
            raise NotFoundError(f"no adapter tenants/{tenant}/adapters/{adapter}")
        if index.consent(tenant, adapter) == consent:
            return
        revision = events.record(
            index.db,
            caller,
            "consent_changed",
            (tenant, adapter),
            f"tenants/{tenant}/adapters/{adapter}",
            reason=lost.consent_text(consent),
            public=False,
        )
        index.write_consent((tenant, adapter), consent, revision)
