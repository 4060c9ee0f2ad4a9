"""Retrieval metrics, evaluation of an adapter on held-out rows, and the verdict."""
