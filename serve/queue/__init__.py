"""The path from a request to the engine: fair queue, batches, searches, shadow traffic."""
