"""Faults on purpose: each drill breaks a small deployment of its own and sees what comes of it."""
