"""The client's side of Watch: the registry's changes, whatever becomes of the connection."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from adapterdistill.errors import AdapterDistillError, RegistryUnavailableError
from adapterdistill.registry.retrying import TRANSIENT
from adapterdistill.registry.v1 import registry_pb2 as pb

_PAUSE_S = 0.2


@dataclass(frozen=True)
class Change:
    """One change of the registry; `Event` in registry.proto says what the fields hold."""

    revision: int
    kind: str
    name: str
    other_name: str
    reason: str


def changes_of(
    start: Callable[[int], Any],
    after_revision: int,
    *,
    patience_s: float,
    explain: Callable[[Any], AdapterDistillError],
) -> Iterator[Change]:
    """Every change after `after_revision`, oldest first, for ever.

    Args:
        start: begins a call of Watch after a revision.
        patience_s: how long the registry may be out of reach before the error is raised.
        explain: makes an error of what gRPC raised.
    """
    revision = after_revision
    lost_at: float | None = None
    while True:
        call = start(revision)
        fault: AdapterDistillError = RegistryUnavailableError("the watch ended")
        try:
            for response in call:
                lost_at = None
                revision = response.revision
                if response.HasField("event"):
                    yield _change(response.event)
        except grpc.RpcError as error:
            fault = explain(error)
        finally:
            call.cancel()
        now = time.monotonic()
        lost_at = now if lost_at is None else lost_at
        if not isinstance(fault, TRANSIENT) or now - lost_at >= patience_s:
            raise fault
        time.sleep(max(_PAUSE_S, fault.retry_after_s or 0.0))


def _change(event: pb.Event) -> Change:
    known = pb.EventKind.DESCRIPTOR.values_by_number.get(event.kind)
    kind = "unknown" if known is None else known.name.removeprefix("EVENT_KIND_").lower()
    return Change(event.revision, kind, event.name, event.other_name, event.reason)
