"""Serving: one encoder, every tenant's adapter beside it, and mixed tenants in one batch.

The packages: `engine` (what is loaded, and answers), `queue` (from requests to batches), `http` and
`grpc` (the two interfaces).
"""
