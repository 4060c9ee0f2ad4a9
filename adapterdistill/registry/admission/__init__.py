"""Admission to the registry: manifests, payloads, quotas and the outlier check."""
