"""Stubs generated from proto/adapterdistill/registry/v1 by `make proto`; do not edit."""
