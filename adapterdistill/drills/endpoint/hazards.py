"""Changes to tenants while they are queried, and the answers that are right after each.

An operator's steps, one after another: versions go live, candidates are tried, promoted, rolled
back and dropped, tenants are removed and come back, versions are withdrawn in the registry. After
each step the store and the withdrawals say which answers are right from now on; what was right
before may still come for `WITHIN_S`.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from adapterdistill.errors import ServingError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.store.bundle import read_bundle
from adapterdistill.store.release import (
    drop,
    promote,
    put_up,
    read_release,
    roll_back,
    set_live,
    take_down,
)
from adapterdistill.testbed.answers import version_of

ROUNDS = 6
"""Rounds that are enough for every step to be taken and noticed."""
WITHIN_S = 5.0
"""A replica reads the store every second, and answers what has begun."""
REMOVED, WITHDRAWN = "404", "410"
"""Statuses, beside versions, as outcomes."""
CANARY = "@canary"
"""A suffix of the version that answered as a candidate."""
STEPS = (
    "swaps",
    "canaries",
    "shadows",
    "promotions",
    "rollbacks",
    "drops",
    "removals",
    "returns",
    "withdrawals",
    "swaps to the withdrawn",
    "withdrawals of candidates",
    "promotions of the withdrawn",
)
_SHARE = 0.5


class Timeline:
    """Which outcomes are right for each tenant, from which moment on."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[float, frozenset[str]]]] = defaultdict(list)

    def begin(self, tenant: str, outcomes: frozenset[str], at: float) -> None:
        self._spans[tenant].append((at, outcomes))

    def late_s(self, tenant: str, outcome: str, sent: float, ended: float) -> float:
        """Seconds before the request was sent at which the outcome ceased to be right.

        0: it was right at some moment of the request; infinite: never until its end.
        """
        late_s, until = float("inf"), float("inf")
        for begin, outcomes in reversed(self._spans[tenant]):
            if outcome in outcomes and begin <= ended:
                late_s = min(late_s, max(0.0, sent - until))
            until = begin
        return late_s


class Hazards(threading.Thread):
    """Takes a step of one tenant's script after another, every `every_s`, until it is stopped.

    Hold `changing` to read `timeline`: a step and its record are one.
    """

    def __init__(
        self,
        store: Path,
        registry: RegistryClient,
        tenants: Sequence[str],
        pairs: Mapping[str, tuple[str, str]],
        withdrawn: set[str],
        *,
        every_s: float,
    ) -> None:
        """Prepare the script of every tenant that changes.

        Args:
            tenants: all that are queried.
            pairs: for each tenant that changes, the bundle that is live now and another one; the
                versions of both are published.
            withdrawn: versions; those that are withdrawn from now on are added.
        """
        super().__init__(name="hazards")
        self.timeline = Timeline()
        self.changing = threading.Lock()
        self.steps: Counter[str] = Counter()
        self.rounds = 0
        """Rounds so far; in each of them every tenant's script took a step."""
        self.kinds: dict[str, str] = {}
        self._store, self._registry, self._withdrawn = store, registry, withdrawn
        self._every_s = every_s
        self._stopping = threading.Event()
        self._failed: Exception | None = None
        kinds: list[Callable[[str, str, str], Iterator[str]]] = [
            self._swapped,
            self._tried,
            self._withdrawn_live,
            self._removed,
            self._withdrawn_candidate,
        ]
        self._scripts: dict[str, Iterator[str]] = {}
        for place, (tenant, (first, second)) in enumerate(pairs.items()):
            script = kinds[place % len(kinds)]
            self.kinds[tenant] = script.__name__.strip("_")
            self._scripts[tenant] = script(tenant, first, second)
        for tenant in tenants:
            self.timeline.begin(tenant, self._outcomes(tenant), time.perf_counter())

    def run(self) -> None:
        while self._scripts:
            for tenant, script in list(self._scripts.items()):
                if self._stopping.wait(self._every_s):
                    return
                try:
                    self._step(tenant, script)
                except Exception as error:
                    self._failed = error
                    return
            self.rounds += 1

    def _step(self, tenant: str, script: Iterator[str]) -> None:
        with self.changing:
            began = time.perf_counter()
            step = next(script, None)
            if step is None:
                del self._scripts[tenant]
                return
            self.steps[step] += 1
            self.timeline.begin(tenant, self._outcomes(tenant), began)

    def stop(self) -> None:
        """Stop. Raises the error that a step raised."""
        self._stopping.set()
        self.join()
        if self._failed is not None:
            raise self._failed

    def _outcomes(self, tenant: str) -> frozenset[str]:
        try:
            release = read_release(self._store, tenant)
        except ServingError:
            return frozenset([REMOVED])
        live = version_of(release.bundle)
        outcomes = {WITHDRAWN if live in self._withdrawn else live}
        if release.candidate is not None and release.candidate.mode == "canary":
            candidate = version_of(release.candidate.bundle)
            outcomes |= set() if candidate in self._withdrawn else {candidate + CANARY}
        return frozenset(outcomes)

    def _swapped(self, tenant: str, first: str, second: str) -> Iterator[str]:
        while True:
            for bundle_id in (second, first):
                set_live(self._store, tenant, bundle_id)
                yield "swaps"

    def _tried(self, tenant: str, first: str, second: str) -> Iterator[str]:
        """A version that was a canary and went live is rolled back, and then only tried."""
        while True:
            put_up(self._store, tenant, second, mode="canary", share=_SHARE)
            yield "canaries"
            promote(self._store, tenant)
            yield "promotions"
            roll_back(self._store, tenant)
            yield "rollbacks"
            put_up(self._store, tenant, second, mode="shadow", share=_SHARE)
            yield "shadows"
            drop(self._store, tenant)
            yield "drops"

    def _removed(self, tenant: str, first: str, second: str) -> Iterator[str]:
        """Each time it comes back as another version."""
        while True:
            for bundle_id in (second, first):
                take_down(self._store, tenant)
                yield "removals"
                set_live(self._store, tenant, bundle_id)
                yield "returns"

    def _withdrawn_live(self, tenant: str, first: str, second: str) -> Iterator[str]:
        self._withdraw(tenant, first)
        yield "withdrawals"
        set_live(self._store, tenant, second)
        yield "returns"
        set_live(self._store, tenant, first)  # a withdrawn version stays withdrawn
        yield "swaps to the withdrawn"

    def _withdrawn_candidate(self, tenant: str, first: str, second: str) -> Iterator[str]:
        put_up(self._store, tenant, second, mode="canary", share=_SHARE)
        yield "canaries"
        self._withdraw(tenant, second)
        yield "withdrawals of candidates"
        promote(self._store, tenant)
        yield "promotions of the withdrawn"
        roll_back(self._store, tenant)
        yield "rollbacks"

    def _withdraw(self, tenant: str, bundle_id: str) -> None:
        manifest = read_bundle(self._store, tenant, bundle_id).manifest
        self._registry.withdraw(VersionRef.parse(manifest.ref.name), "benchmark")
        self._withdrawn.add(manifest.version)
