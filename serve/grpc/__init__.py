"""The gRPC interface of a replica."""
