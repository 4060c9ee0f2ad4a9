"""Serving: a few encoders, every tenant's adapter beside its own, and mixed tenants in a batch.

The packages: `engine` (what is loaded, and answers), `queue` (from requests to batches), `http` and
`grpc` (the two interfaces).
"""
