"""Drills: each breaks a small deployment of its own on purpose and checks that it recovers."""
