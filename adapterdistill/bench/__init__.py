"""Benchmarks: does a new tenant gain from the others' adapters, and what does it cost."""
