"""Stubs generated from proto/adapterdistill/serving/v1 by `make proto`; do not edit."""
