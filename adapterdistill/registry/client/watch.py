"""The client's side of Watch: the registry's events, across broken connections."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from adapterdistill.errors import (
    AdapterDistillError,
    RegistryUnavailableError,
    StaleRevisionError,
    UnauthenticatedError,
)
from adapterdistill.registry.client.connection import Connection
from adapterdistill.registry.client.retry import TRANSIENT
from adapterdistill.registry.v1 import registry_pb2 as pb

_PAUSE_S = 0.2


@dataclass(frozen=True)
class Event:
    """An event of the registry; `Event` in registry.proto describes the fields."""

    revision: int
    kind: str
    name: str
    other_name: str
    reason: str
    incarnation: str = ""
    """Incarnation of the registry; revisions of another one mean nothing to it."""


RESTORED = "restored"
"""Kind of the event that comes first from a registry that was restored: all others follow again."""


def watched(
    connection: Connection, request: pb.WatchRequest, *, patience_s: float, subject: str
) -> Iterator[Event]:
    """Yield every event that `request` asks for, oldest first, without end.

    If the registry was restored meanwhile, an event of kind RESTORED comes, then all events again.

    `subject` says in errors what was called, and where.

    Raises:
        RegistryUnavailableError: the registry cannot be reached for `patience_s`, or `connection`
            is closed.
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
        fault: AdapterDistillError = RegistryUnavailableError(f"{subject}: the stream ended")
        try:
            for response in call:
                lost_at = None
                revision = response.revision
                request.incarnation = response.incarnation
                if response.HasField("event"):
                    yield _event(response.event, response.incarnation)
        except grpc.RpcError as error:
            fault = connection.explain(error, subject)
        finally:
            call.cancel()
        if isinstance(fault, StaleRevisionError) and (revision or request.incarnation):
            revision, request.incarnation = 0, ""
            yield Event(0, RESTORED, "", "", "")
            continue
        now = time.monotonic()
        lost_at = now if lost_at is None else lost_at
        # The certificate may have been renewed since the channel was opened.
        renewed = isinstance(fault, UnauthenticatedError) and connection.channel() is not channel
        if not (renewed or isinstance(fault, TRANSIENT)) or now - lost_at >= patience_s:
            raise fault
        time.sleep(max(_PAUSE_S, fault.retry_after_s or 0.0))
    raise RegistryUnavailableError(f"{subject}: the client is closed")


def _event(message: pb.Event, incarnation: str) -> Event:
    known = pb.EventKind.DESCRIPTOR.values_by_number.get(message.kind)
    kind = "unknown" if known is None else known.name.removeprefix("EVENT_KIND_").lower()
    told = (message.name, message.other_name, message.reason)
    return Event(message.revision, kind, *told, incarnation)
