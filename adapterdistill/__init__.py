"""One small adapter per tenant on a frozen encoder, distilled from other tenants' adapters."""

__version__ = "0.1.0"
