"""What stands between a request and the engine: fair queue, batches, searches, shadow traffic."""
