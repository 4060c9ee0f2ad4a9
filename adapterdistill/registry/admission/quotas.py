"""Quotas of a tenant in a registry that others share: space, calls, transfers at once.

The index counts what is stored. The other counts are in memory, for a bounded number of callers,
and are lost at a restart.
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
"""Number of callers whose recent calls are counted; a forgotten one gets a full bucket."""


@dataclass(frozen=True)
class Quotas:
    """Limits for each tenant, or for each caller.

    Over plain text all callers look the same, so only the limits on storage apply.
    """

    stored_bytes: int = 16 << 30  # withdrawn versions count: their payloads are kept
    versions: int = 10_000
    calls_per_s: float = 100.0
    burst_calls: int = 400
    publishes_per_hour: int = 2000
    calls_at_once: int = 64
    watches_at_once: int = 16
    # To the index and the audit log, but for payloads.
    written_bytes_per_s: float = 64 << 10
    burst_written_bytes: int = 8 << 20
    # In answers, but for payloads.
    answered_bytes_per_s: float = 64 << 20
    burst_answered_bytes: int = 512 << 20
    # Of the one thread that measures uploads.
    admission_s_per_s: float = 0.1
    burst_admission_s: float = 60.0
    # Refused writes, of which the audit log has a line each.
    refusals_per_s: float = 1.0
    burst_refusals: int = 2000
    transfers_at_once: int = 4
    # Uploads that broke off and may be continued.
    staged_bytes: int = 256 << 20
    staged_files: int = 16
    staged_s: float = 24 * 3600.0


def limited_name(caller: Caller) -> str | None:
    """Return the name that a call is counted for; None over plain text, without names."""
    return None if caller == ANYONE else str(caller)


@dataclass(frozen=True)
class Stored:
    """Payloads and versions that a tenant has in the registry."""

    payload_bytes: int
    versions: int


class RateLimit:
    """A token bucket for each caller: `per_s` tokens a second, and at most `burst` of them.

    A bucket is stored as the time at which it is full again (the generic cell rate algorithm), so
    full buckets need no storage.
    """

    def __init__(
        self,
        allowed: str,
        per_s: float,
        burst: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`allowed` describes the limit in messages; `clock` returns seconds."""
        self._allowed = allowed
        self._interval_s = 1 / per_s
        self._burst_s = burst / per_s
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def take(self, caller: str) -> None:
        """Take a token; RateLimitedError, with the time of the next token, if there is none."""
        self.check(caller, self._interval_s)
        self.charge(caller, 1)

    def check(self, caller: str, wanted_s: float = 0.0) -> None:
        """Raise RateLimitedError if the bucket is empty, with the time until it is not."""
        now = self._clock()
        full_at = max(self._full_at.get(caller, now), now) + wanted_s
        # The tolerance covers rounding, so that waiting as long as the error says is enough.
        wait_s = full_at - now - self._burst_s
        if wait_s > 1e-6:
            raise RateLimitedError(f"{caller} made more than {self._allowed}", retry_after_s=wait_s)

    def charge(self, caller: str, tokens: float) -> None:
        """Take as many tokens as something cost, even if the bucket has fewer."""
        now = self._clock()
        full_at = max(self._full_at.get(caller, now), now) + tokens * self._interval_s
        self._full_at[caller] = full_at
        self._full_at.move_to_end(caller)
        if len(self._full_at) > MAX_CALLERS:
            self._full_at.popitem(last=False)


class OpenCalls:
    """A limit on the calls that each caller has open at once; more are refused."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, caller: str) -> Iterator[None]:
        """Count a call while it runs; RateLimitedError if the caller has too many open."""
        if self._open[caller] >= self._each:
            raise RateLimitedError(
                f"{caller} has {self._each} calls open, which is the limit", retry_after_s=1.0
            )
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]


class TransferSlots:
    """Lets `total` transfers run at once, and `each` of one caller; others wait."""

    def __init__(self, total: int, each: int) -> None:
        self._each = each
        self._all = asyncio.Semaphore(total)
        # A caller's semaphore lives as long as one of its transfers.
        self._own: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, caller: str | None) -> AsyncIterator[None]:
        """Wait for a slot and hold it; for `caller` None only the total is limited."""
        if caller is None:
            async with self._all:
                yield
            return
        own = self._own.get(caller)
        if own is None:
            own = self._own[caller] = asyncio.Semaphore(self._each)
        # In this order, a caller that waits for its own slots does not hold one that others need.
        async with own, self._all:
            yield


class CallLimits:
    """The limits that every call must meet before it begins."""

    def __init__(self, quotas: Quotas) -> None:
        self._publishes_per_hour = quotas.publishes_per_hour
        self._rate = RateLimit(
            f"{quotas.calls_per_s:g} calls a second", quotas.calls_per_s, quotas.burst_calls
        )
        self._publishes = RateLimit(
            f"{quotas.publishes_per_hour} publishes an hour",
            quotas.publishes_per_hour / 3600,
            quotas.publishes_per_hour,
        )
        self._certificates = RateLimit(
            f"{quotas.calls_per_s:g} calls a second", quotas.calls_per_s, quotas.burst_calls
        )
        self._refusals = RateLimit(
            f"{quotas.burst_refusals} writes that were refused",
            quotas.refusals_per_s,
            quotas.burst_refusals,
        )
        self._written = RateLimit(
            f"{quotas.written_bytes_per_s / 1024:g} KiB of changes a second",
            quotas.written_bytes_per_s,
            quotas.burst_written_bytes,
        )
        self._answered = RateLimit(
            f"{quotas.answered_bytes_per_s / 2**20:g} MiB of answers a second",
            quotas.answered_bytes_per_s,
            quotas.burst_answered_bytes,
        )
        self._admission = RateLimit(
            "its share of the time for measuring uploads",
            quotas.admission_s_per_s,
            quotas.burst_admission_s,
        )
        self._open = OpenCalls(quotas.calls_at_once)
        self._watches = OpenCalls(quotas.watches_at_once)

    def take_certificate(self, certificate: str | None) -> None:
        """Count a call before it is known whether its certificate is valid.

        Args:
            certificate: names it; None over plain text.
        """
        if certificate is not None:
            self._certificates.take(certificate)

    @contextmanager
    def hold(self, caller: Caller, call: str = "") -> Iterator[None]:
        """Count a call while it runs; raises RateLimitedError if it is one too many.

        Watches, which never end, are counted apart from the calls that do.
        """
        name = limited_name(caller)
        if name is None:
            yield
            return
        self._rate.take(name)
        self._answered.check(name)
        with (self._watches if call == "Watch" else self._open).hold(name):
            yield

    def check_change(self, caller: Caller) -> None:
        """Raise RateLimitedError if the caller's changes wrote too much."""
        if (name := limited_name(caller)) is not None:
            self._written.check(name)

    def charge_change(self, caller: Caller, written_bytes: int) -> None:
        """Count what a change wrote."""
        if (name := limited_name(caller)) is not None:
            self._written.charge(name, written_bytes)

    def charge_answer(self, caller: Caller, answered_bytes: int) -> None:
        """Count what was read for an answer, or sent in it."""
        if (name := limited_name(caller)) is not None:
            self._answered.charge(name, answered_bytes)

    def check_admission(self, caller: Caller) -> None:
        """Raise RateLimitedError if the caller's uploads took too long to measure."""
        if (name := limited_name(caller)) is not None:
            self._admission.check(name)

    def charge_admission(self, caller: Caller, seconds: float) -> None:
        """Count how long it took to measure an upload."""
        if (name := limited_name(caller)) is not None:
            self._admission.charge(name, seconds)

    def take_refusal(self, name: str | None) -> None:
        """Count a refused write; RateLimitedError if there were too many to record."""
        if name is not None:
            self._refusals.take(name)

    def check_published(self, caller: Caller, versions: int) -> None:
        """Raise RateLimitedError if the caller published as many versions within the hour.

        Args:
            versions: published in the last hour, by any process of a shared index.
        """
        if limited_name(caller) is not None and versions >= self._publishes_per_hour:
            raise RateLimitedError(
                f"{caller} made more than {self._publishes_per_hour} publishes an hour",
                retry_after_s=60.0,
            )

    def take_publish(self, caller: Caller) -> None:
        """Count a publish; RateLimitedError if the caller made too many within the hour."""
        name = limited_name(caller)
        if name is not None:
            self._publishes.take(name)


class StorageQuota:
    """The limits on what tenants store. An upload counts before its first byte is read."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._reserved: Counter[str] = Counter()
        self._uploads: Counter[str] = Counter()

    @asynccontextmanager
    async def reserve(
        self, tenant: str, payload_bytes: int, stored: Callable[[], Awaitable[Stored]]
    ) -> AsyncIterator[None]:
        """Reserve room for one version; `stored` looks up what the tenant has.

        Raises:
            QuotaExceededError: it does not fit beside the stored versions and other uploads.
        """
        # Reserve before looking up, so that an upload that ends meanwhile counts twice, not never.
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

    def check(self, tenant: str, payload_bytes: int, found: Stored) -> None:
        """Check one version beside the stored ones alone, as the change that adds it does.

        Raises:
            QuotaExceededError: another process of a shared index took the room meanwhile.
        """
        self._check(tenant, "versions", found.versions + 1)
        self._check(tenant, "stored_bytes", found.payload_bytes + payload_bytes)

    def _check(self, tenant: str, quota: str, wanted: int) -> None:
        allowed: int = getattr(self._quotas, quota)
        if wanted > allowed:
            raise QuotaExceededError(
                f"tenants/{tenant} would have {quota} {wanted} with this upload,"
                f" and may have {allowed}"
            )
