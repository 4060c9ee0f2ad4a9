"""Fair queue: one queue for each tenant, served in turn by tokens.

A flood of one tenant delays that tenant. This is start-time fair queueing (Goyal, Vin and Cheng,
1996). Each waiting tenant has a place on a line of tokens: the lowest place is served next and
advances by the tokens served, and a tenant that begins to wait joins at the place served last. An
unused share is not saved up. A large request is served whole, and its tenant waits afterwards.
Deficit round robin gives equal shares too, but there a request larger than one turn waits several
turns beforehand.
"""

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from adapterdistill.errors import OverloadedError

_ACTIVE_S = 1.0
"""Time for which a tenant counts as active: it may send its next query at any moment."""


@dataclass(frozen=True)
class QueueLimits:
    """Bounds of the queue and of a batch. `serve.settings.ServeSettings` gives their reasons."""

    max_batch_tokens: int = 512
    tenant_batch_tokens: int = 16
    max_queued: int = 2048
    max_queued_of_tenant: int = 512


@dataclass(eq=False)
class Request:
    """One request as the queue sees it."""

    tenant: str
    tokens: int
    queries: int
    encoder: object = field(default=None, kw_only=True)
    """What reads its texts. A batch is of one encoder, as a forward is."""


R = TypeVar("R", bound=Request)


@dataclass(eq=False)
class _Tenant(Generic[R]):
    heard: float
    place: int
    """Position on the line of tokens."""
    waiting: deque[R] = field(default_factory=deque)
    queries: int = 0


class FairQueue(Generic[R]):
    """Requests that wait. Not thread-safe: it belongs to one event loop."""

    def __init__(self, limits: QueueLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._active: dict[str, _Tenant[R]] = {}  # least recently heard from first
        self._waiting: dict[str, _Tenant[R]] = {}
        self._place = 0  # the place served last
        self.tokens = self.queries = 0

    def add(self, request: R) -> None:
        """Add a request.

        Raises:
            OverloadedError: the queue, or the tenant's part of it, has no room for it.
        """
        tenant = self._active.pop(request.tenant, None) or _Tenant(0, self._place)
        tenant.heard = self._clock()
        self._active[request.tenant] = tenant
        if self.queries + request.queries > self._limits.max_queued:
            raise OverloadedError("too many queries are waiting: try again later")
        if tenant.queries + request.queries > self._limits.max_queued_of_tenant:
            raise OverloadedError("too many queries of this tenant are waiting: try again later")
        if not tenant.waiting:
            tenant.place = max(tenant.place, self._place)
            self._waiting[request.tenant] = tenant
        tenant.waiting.append(request)
        self._count(tenant, request, 1)

    def remove(self, request: R) -> bool:
        """Remove a request; False: it was not waiting."""
        tenant = self._waiting.get(request.tenant)
        if tenant is None or request not in tenant.waiting:
            return False
        tenant.waiting.remove(request)
        self._gone(tenant, request)
        return True

    def take(self) -> Sequence[R]:
        """Take the next batch, empty if nothing waits.

        A tenant gets `tenant_batch_tokens` of a batch, and the request that exceeds them. It gets
        more only while every active tenant still waits; otherwise a tenant that sends a query now
        would find the engine at work on a long batch. A request larger than a batch goes alone.
        The first request decides the encoder; a tenant whose next request needs another one keeps
        its place, so that the batch after this one begins with the tenant that waits longest.
        """
        self._forget_the_inactive()
        heap = [(tenant.place, n, tenant) for n, tenant in enumerate(self._waiting.values())]
        heapq.heapify(heap)
        batch: list[R] = []
        room = self._limits.max_batch_tokens
        turn_ends = heap[0][0] + self._limits.tenant_batch_tokens if heap else 0
        while heap:
            place, order, tenant = heap[0]
            if place >= turn_ends:
                if self._somebody_would_wait():
                    break
                turn_ends = place + self._limits.tenant_batch_tokens
            request = tenant.waiting[0]
            if batch and request.encoder is not batch[0].encoder:
                heapq.heappop(heap)
                continue
            if batch and request.tokens > room:
                break
            batch.append(tenant.waiting.popleft())
            room -= request.tokens
            self._place = place
            tenant.place += request.tokens
            self._gone(tenant, request)
            if tenant.waiting:
                heapq.heapreplace(heap, (tenant.place, order, tenant))
            else:
                heapq.heappop(heap)
        if not self._waiting:  # a tenant served out of turn has delayed nobody
            self._place = max((tenant.place for tenant in self._active.values()), default=0)
        return batch

    def _somebody_would_wait(self) -> bool:
        return any(not tenant.waiting for tenant in self._active.values())

    def _forget_the_inactive(self) -> None:
        heard_since = self._clock() - _ACTIVE_S
        inactive = []
        for name, tenant in self._active.items():
            if tenant.heard > heard_since:
                break
            if not tenant.waiting and tenant.place <= self._place:
                inactive.append(name)
        for name in inactive:
            del self._active[name]

    def _gone(self, tenant: _Tenant[R], request: R) -> None:
        self._count(tenant, request, -1)
        if not tenant.waiting:
            del self._waiting[request.tenant]

    def _count(self, tenant: _Tenant[R], request: R, sign: int) -> None:
        tenant.queries += sign * request.queries
        self.queries += sign * request.queries
        self.tokens += sign * request.tokens
