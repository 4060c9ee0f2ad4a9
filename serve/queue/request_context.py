"""The context of one request: facts for metrics, the request log and traces.

It travels with the request (`scope["state"]`, Starlette's `request.state`), and never holds a
query's text.
"""

from dataclasses import dataclass

from starlette.types import Scope

from adapterdistill.serve.engine.live import Alias


@dataclass(eq=False, slots=True)
class Stages:
    """When a traced request reached each stage, in monotonic seconds; 0: not reached."""

    began_at: float
    asked_at: float = 0
    held_at: float = 0
    """The tenant is in memory, and the request enters the queue."""
    num_tokens: int = 0
    """Tokens as the queue estimates them."""
    batch_began_at: float = 0
    batch_ended_at: float = 0
    batch_queries: int = 0


@dataclass
class RequestContext:
    """Filled in while the request is handled; unknown fields keep their defaults."""

    request_id: str
    tenant: str | None = None
    version: str | None = None
    """Version of the adapter that answered."""
    alias: Alias | None = None
    """Alias under which it answered."""
    num_queries: int = 0
    outcome: str = "OK"
    """OK, or the reason for which the request was refused."""
    stages: Stages | None = None
    """None: the deployment does not trace."""


def context_of(scope: Scope) -> RequestContext:
    """The context of this request, which `serve.http.middleware.RequestMiddleware` made."""
    context = scope["state"]["request_context"]
    assert isinstance(context, RequestContext)
    return context
