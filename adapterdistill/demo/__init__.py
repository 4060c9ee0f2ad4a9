"""The two stories of `adapterdistill demo` and `federation`: one cluster, and three owners."""
