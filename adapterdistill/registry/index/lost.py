"""What the log of a registry that is gone says of versions and adapters that its backup lacks.

A version that was withdrawn stays withdrawn if its owner publishes it again, and an adapter has the
consent that was given last.
"""

from adapterdistill.manifest import VersionRef
from adapterdistill.registry.access import NOBODY, Consent
from adapterdistill.registry.index.database import Database

_NOBODY = "nobody"


def consent_text(consent: Consent) -> str:
    """Write a consent as events and the audit log have it."""
    return ",".join(sorted(consent)) or _NOBODY


def read_consent_text(text: str) -> Consent:
    """Read what `consent_text` writes."""
    return NOBODY if text == _NOBODY else frozenset(text.split(","))


def keep(db: Database, name: str, told: str) -> None:
    """Keep the reason of a version's withdrawal, or an adapter's consent, by its name."""
    db.execute(
        "INSERT INTO lost (name, told) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET told = excluded.told",
        (name, told),
    )


def withdrawal_of(db: Database, ref: VersionRef) -> str | None:
    """Return why a version that is not here was withdrawn; None if it was not."""
    return _told(db, ref.name)


def consent_of(db: Database, tenant: str, adapter: str) -> Consent | None:
    """Return the consent of an adapter that has no version here; None if none was given."""
    told = _told(db, f"tenants/{tenant}/adapters/{adapter}")
    return None if told is None else read_consent_text(told)


def _told(db: Database, name: str) -> str | None:
    row = db.execute("SELECT told FROM lost WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])
