"""The registry's index in SQLite: versions, aliases, events, lineage, idempotency keys."""
