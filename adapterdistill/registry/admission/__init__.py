"""What the registry admits: manifests, payloads, quotas, and the check for outliers."""
