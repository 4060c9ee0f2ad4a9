"""Retrieval metrics, evaluation on held-out rows, calibration, and the verdicts on adapters."""
