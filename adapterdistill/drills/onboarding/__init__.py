"""Drills of an onboarding: killed drivers, owners, workers and nodes, and stale teachers."""
