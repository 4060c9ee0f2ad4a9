"""One small adapter per tenant on a frozen encoder, distilled from other tenants' adapters.

`load`, `onboard` and `connect` are its Python interface (`adapterdistill.library`).
The main path in five files: `adapterdistill.cli`, `actors.onboarding`, `actors.data_owner`,
`adapterdistill.distill.adapter_distillation`, `serve.engine.engine`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapterdistill.library import Model as Model
    from adapterdistill.library import connect as connect
    from adapterdistill.library import load as load
    from adapterdistill.library import onboard as onboard

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the library at its first use: it takes seconds, and commands seldom need all of it."""
    if name in ("Model", "connect", "load", "onboard"):
        return getattr(import_module("adapterdistill.library"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
