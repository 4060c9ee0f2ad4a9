"""Upkeep of a registry: audit log, backups, and checks of its files."""
