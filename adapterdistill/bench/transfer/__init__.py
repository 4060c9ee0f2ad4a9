"""`bench transfer`: what a new tenant gains from the adapters of others."""
