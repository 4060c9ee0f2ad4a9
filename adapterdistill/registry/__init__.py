"""Publishes frozen adapters and hands them out: bytes and manifests over gRPC, never tensors."""
