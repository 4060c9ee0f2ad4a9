"""Libraries that only some commands need, and that the base install leaves out.

pyproject.toml groups them into extras: `bench` for benchmarks and drills, `multilingual` for an
encoder of many languages, `tracing` for spans of requests. A module that needs one imports it with
`require`, where it is used.
"""

import importlib
from types import ModuleType

from adapterdistill.errors import MissingExtraError


def require(extra: str, module: str) -> ModuleType:
    """Import a module of an extra.

    Raises:
        MissingExtraError: it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"module {error.name} is not installed; it comes with the extra `{extra}`: "
            f"pip install 'adapterdistill[{extra}]'"
        ) from None
