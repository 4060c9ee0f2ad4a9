"""The registry, which stores frozen adapters and serves them over gRPC as bytes, never tensors.

The packages: `server`, `client`, `index` (SQLite), `admission` (what may be published), `trust`
(keys and certificates), `upkeep` (audit log, backups, checks).
"""
