"""Drills of the endpoint: isolation of tenants under change, and killed replicas."""
