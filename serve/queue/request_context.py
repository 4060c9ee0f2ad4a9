"""What is noted of one request while it is handled: for metrics and the request log.

It travels with the request (`scope["state"]`, Starlette's `request.state`), and never holds a
query's text.
"""

from dataclasses import dataclass

from starlette.types import Scope

from serve.engine.live import Alias


@dataclass(eq=False, slots=True)
class Stages:
    """How far a request that is traced has come: monotonic seconds, 0 for what was not reached."""

    began_at: float
    asked_at: float = 0
    held_at: float = 0
    """Its tenant is in memory, and it goes to the queue."""
    num_tokens: int = 0
    """As the queue estimates them."""
    batch_began_at: float = 0
    batch_ended_at: float = 0
    batch_queries: int = 0


@dataclass
class Note:
    """Filled in on the way; what nobody learnt stays as it is here."""

    request_id: str
    tenant: str | None = None
    version: str | None = None
    """Of the adapter that answered."""
    alias: Alias | None = None
    """Under which it did."""
    num_queries: int = 0
    outcome: str = "OK"
    """OK, or the reason for which the request was refused."""
    stages: Stages | None = None
    """None unless the deployment traces."""


def note_of(scope: Scope) -> Note:
    """The note of this request; `serve.http.middleware.Front` began it."""
    note = scope["state"]["note"]
    assert isinstance(note, Note)
    return note
