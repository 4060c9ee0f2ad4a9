"""`bench transfer`: the gain of a new tenant from the adapters of other tenants."""
