"""From requests to batches: the fair queue, batching, searches, and shadow traffic."""
