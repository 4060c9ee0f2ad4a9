"""The engine: encoders, every tenant's adapter and FAQ index, mixed tenants in one batch."""

from adapterdistill.serve.engine.engine import Engine as Engine
