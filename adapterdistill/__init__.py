"""One small adapter per tenant on a frozen encoder, distilled from other tenants' adapters.

The main path in five files: `adapterdistill.cli`, `actors.onboarding`, `actors.data_owner`,
`adapterdistill.distill.adapter_distillation`, `serve.engine.engine`.
"""

__version__ = "0.1.0"
