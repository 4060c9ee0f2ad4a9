"""Segmented LRU: which tenant leaves memory first, and how many are in use at all."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import chain, islice

WINDOW_S = 300.0
"""Length of the working set: the tenants that were asked for within this time."""
_PROVEN_SHARE = 0.8


class SegmentedLru:
    """Tenants in memory, in the order in which they leave. Thread-safe.

    Tenants that were asked for once leave before all that were asked for again; in both groups the
    least recent leaves first (segmented LRU, Karedla et al., 1994). So a scan through all tenants,
    each asked for once, only uses a fifth of the memory, and the busy tenants stay.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._once: OrderedDict[str, None] = OrderedDict()
        self._again: OrderedDict[str, None] = OrderedDict()
        self._asked: OrderedDict[str, float] = OrderedDict()

    def asked(self, tenants: Iterable[str]) -> None:
        """Record a request for these live tenants, in memory or not."""
        now = self._clock()
        with self._lock:
            for tenant in tenants:
                self._asked[tenant] = now
                self._asked.move_to_end(tenant)
                if tenant in self._again:
                    self._again.move_to_end(tenant)
                elif tenant in self._once:
                    del self._once[tenant]
                    self._again[tenant] = None
                    if len(self._again) > _PROVEN_SHARE * (len(self._again) + len(self._once)):
                        self._once[self._again.popitem(last=False)[0]] = None

    def entered(self, tenant: str) -> None:
        """Record that the tenant is in memory; a tenant that already was keeps its place."""
        with self._lock:
            if tenant not in self._again:
                self._once.setdefault(tenant)

    def left(self, tenant: str) -> None:
        with self._lock:
            self._once.pop(tenant, None)
            self._again.pop(tenant, None)

    def first_to_go(
        self, may_go: Callable[[str], bool] | None = None, most: int | None = None
    ) -> list[str]:
        """The first tenants to leave, of those that `may_go` names, `most` at most; None: all."""
        with self._lock:
            return list(islice(filter(may_go, chain(self._once, self._again)), most))

    def working_set(self) -> int:
        """Number of tenants that were asked for within the last `WINDOW_S`."""
        oldest = self._clock() - WINDOW_S
        with self._lock:
            while self._asked and next(iter(self._asked.values())) < oldest:
                self._asked.popitem(last=False)
            return len(self._asked)
