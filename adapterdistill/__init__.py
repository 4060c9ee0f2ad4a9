"""One small adapter per tenant on a shared frozen encoder, distilled from other tenants' adapters."""

__version__ = "0.1.0"
