"""What one tenant may take of a registry that others share: space, calls, transfers at once.

What is stored is counted in the index. The rest is kept in memory for a bounded number of callers,
and forgotten at a restart.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

from adapterdistill.errors import QuotaExceededError, RateLimitedError
from adapterdistill.registry.access import ANYONE, Caller

MAX_CALLERS = 4096
"""Whose recent calls are remembered, the latest. One forgotten starts with a full bucket."""


@dataclass(frozen=True)
class Quotas:
    """Bounds on each tenant, or on each caller; over plain text, where all callers look the same,
    only those on what is stored hold."""

    stored_bytes: int = 16 << 30  # of payloads; withdrawn versions count, their payloads are kept
    versions: int = 10_000
    calls_per_s: float = 100.0
    burst_calls: int = 400
    publishes_per_hour: int = 2000
    calls_at_once: int = 64
    transfers_at_once: int = 4
    # Uploads that broke off and may go on.
    staged_bytes: int = 256 << 20
    staged_files: int = 16
    staged_s: float = 24 * 3600.0


def limited_name(caller: Caller) -> str | None:
    """Whose limits a call counts for; None over plain text, where nobody has a name."""
    return None if caller == ANYONE else str(caller)


@dataclass(frozen=True)
class Stored:
    """What a tenant has in the registry."""

    payload_bytes: int
    versions: int


class RateLimit:
    """A token bucket for each caller: `per_s` tokens a second, and at most `burst` saved up.

    A bucket is kept as the time at which it is full again (the generic cell rate algorithm), so
    that one that is full need not be kept at all.
    """

    def __init__(
        self, allowed: str, per_s: float, burst: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`allowed` says in messages what is allowed; `clock` gives seconds."""
        self._allowed = allowed
        self._interval_s = 1 / per_s
        self._burst_s = burst / per_s
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, caller: str) -> None:
        """Raises RateLimitedError, which says when there is a token again, if there is none."""
        now = self._clock()
        full_at = max(self._full_at.get(caller, now), now) + self._interval_s
        # The tolerance is against rounding: a wait as told must be enough.
        wait_s = full_at - now - self._burst_s
        if wait_s > 1e-6:
            raise RateLimitedError(f"{caller} made more than {self._allowed}", retry_after_s=wait_s)
        self._full_at[caller] = full_at
        self._full_at.move_to_end(caller)
        if len(self._full_at) > MAX_CALLERS:
            self._full_at.popitem(last=False)


class OpenCalls:
    """How many calls each caller may have open at once; more are refused."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, caller: str) -> Iterator[None]:
        """Raises RateLimitedError if the caller has as many open as it may."""
        if self._open[caller] >= self._each:
            raise RateLimitedError(
                f"{caller} has {self._each} calls open, as many as it may", retry_after_s=1.0
            )
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]


class TransferSlots:
    """Lets `total` transfers run at once, and `each` of one caller; more wait for their turn."""

    def __init__(self, total: int, each: int) -> None:
        self._each = each
        self._all = asyncio.Semaphore(total)
        # A caller's slots go with the last of its transfers.
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, caller: str | None) -> AsyncIterator[None]:
        """`caller` None is bounded by the total alone."""
        if caller is None:
            async with self._all:
                yield
            return
        own = self._own.get(caller)
        if own is None:
            own = self._own[caller] = asyncio.Semaphore(self._each)
        # In this order: who waits for its own slots must not keep others from theirs.
        async with own, self._all:
            yield


class CallLimits:
    """What is asked of every call before it begins."""

    def __init__(self, quotas: Quotas) -> None:
        self._rate = RateLimit(
            f"{quotas.calls_per_s:g} calls a second", quotas.calls_per_s, quotas.burst_calls
        )
        self._publishes = RateLimit(
            f"{quotas.publishes_per_hour} publishes an hour",
            quotas.publishes_per_hour / 3600,
            quotas.publishes_per_hour,
        )
        self._open = OpenCalls(quotas.calls_at_once)

    @contextmanager
    def hold(self, caller: Caller) -> Iterator[None]:
        """Lasts as long as the call; raises RateLimitedError if it is one too many."""
        name = limited_name(caller)
        if name is None:
            yield
            return
        self._rate.take(name)
        with self._open.hold(name):
            yield

    def take_publish(self, caller: Caller) -> None:
        """Raises RateLimitedError if the caller published too much within the hour."""
        name = limited_name(caller)
        if name is not None:
            self._publishes.take(name)


class StorageQuota:
    """What tenants may store. An upload counts from before its first byte is read."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._reserved: Counter[str] = Counter()
        self._uploads: Counter[str] = Counter()

    @asynccontextmanager
    async def reserve(
        self, tenant: str, payload_bytes: int, stored: Callable[[], Awaitable[Stored]]
    ) -> AsyncIterator[None]:
        """Holds room for one version; `stored` looks up what the tenant has.

        Raises:
            QuotaExceededError: it does not fit beside what is stored and being uploaded.
        """
        # Reserved before the look-up: an upload that ends meanwhile counts twice, never not at all.
        self._reserved[tenant] += payload_bytes
        self._uploads[tenant] += 1
        try:
            found = await stored()
            self._check(tenant, "versions", found.versions + self._uploads[tenant])
            self._check(tenant, "stored_bytes", found.payload_bytes + self._reserved[tenant])
            yield
        finally:
            self._reserved[tenant] -= payload_bytes
            self._uploads[tenant] -= 1
            if not self._uploads[tenant]:
                del self._uploads[tenant], self._reserved[tenant]

    def _check(self, tenant: str, quota: str, wanted: int) -> None:
        allowed: int = getattr(self._quotas, quota)
        if wanted > allowed:
            raise QuotaExceededError(
                f"tenants/{tenant} would have {quota} {wanted} with this upload,"
                f" and may have {allowed}"
            )
