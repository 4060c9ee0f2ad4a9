"""The serving store: a tenant's bundles and releases, in a folder or an object store."""
