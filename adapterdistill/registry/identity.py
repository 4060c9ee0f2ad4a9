"""Who calls: read from the connection, never from a field of a message."""

from typing import Any

from adapterdistill.registry.access import ANYONE, Caller


def caller_of(_context: Any) -> Caller:
    """The caller of a gRPC call."""
    return ANYONE
