"""The HTTP interface of a replica."""
