"""The registry's client: connection, retries, signing, watching."""
