"""The registry's server: calls, transfers, the payload store."""
