"""Upkeep of a registry: its audit log, backups and consistency checks."""
