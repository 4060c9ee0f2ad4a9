"""Faults on purpose: each drill breaks a small deployment of its own and checks what must hold."""
