"""The client's side of Watch: the registry's changes, whatever becomes of the connection."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from adapterdistill.errors import (
    AdapterDistillError,
    RegistryUnavailableError,
    UnauthenticatedError,
)
from adapterdistill.registry.client.connection import Connection
from adapterdistill.registry.client.retry import TRANSIENT
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


def watched(
    connection: Connection, request: pb.WatchRequest, *, patience_s: float, subject: str
) -> Iterator[Change]:
    """Every change that `request` asks for, oldest first, for ever.

    Raises RegistryUnavailableError once the registry is out of reach for `patience_s`, or
    `connection` is closed; `subject` says in errors what was called, and where.
    """
    revision = request.after_revision
    lost_at: float | None = None
    while not connection.closed:
        channel = connection.channel()
        request.after_revision = revision
        try:
            call = channel.registry.Watch(request)
        except ValueError:  # the channel was closed just now
            raise RegistryUnavailableError(f"{subject}: the client is closed") from None
        fault: AdapterDistillError = RegistryUnavailableError(f"{subject}: it ended")
        try:
            for response in call:
                lost_at = None
                revision = response.revision
                if response.HasField("event"):
                    yield _change(response.event)
        except grpc.RpcError as error:
            fault = connection.explain(error, subject)
        finally:
            call.cancel()
        now = time.monotonic()
        lost_at = now if lost_at is None else lost_at
        # The certificate of that channel may have been renewed since.
        renewed = isinstance(fault, UnauthenticatedError) and connection.channel() is not channel
        if not (renewed or isinstance(fault, TRANSIENT)) or now - lost_at >= patience_s:
            raise fault
        time.sleep(max(_PAUSE_S, fault.retry_after_s or 0.0))
    raise RegistryUnavailableError(f"{subject}: the client is closed")


def _change(event: pb.Event) -> Change:
    known = pb.EventKind.DESCRIPTOR.values_by_number.get(event.kind)
    kind = "unknown" if known is None else known.name.removeprefix("EVENT_KIND_").lower()
    return Change(event.revision, kind, event.name, event.other_name, event.reason)
