"""`bench registry`: the registry's latencies and throughput."""
