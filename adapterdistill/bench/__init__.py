"""Benchmarks, one package each: what a tenant gains from others' adapters, and the cost."""
