"""Admission to the registry: checks of manifests and payloads, quotas, and the outlier check."""
