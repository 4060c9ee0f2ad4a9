"""Serving: one encoder, every tenant's adapter beside it, mixed tenants in one batch."""
