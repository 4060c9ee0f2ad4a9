"""Shadow traffic: a candidate answers what the live bundle has answered, and is compared with it.

Nobody waits for it. It is asked after the answer has left, under one queue name that all candidates
share, and only while the engine has no backlog.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from adapterdistill.errors import AdapterDistillError
from adapterdistill.serve.engine.engine import LOAD_TIMEOUT_S, Engine
from adapterdistill.serve.engine.items import SearchAnswer, SearchItem
from adapterdistill.serve.engine.live import LiveTenant
from adapterdistill.serve.queue.batcher import Batcher

MAX_QUEUED = 8
"""Most waiting queries, about a batch; above it a comparison is skipped."""
MAX_AT_ONCE = 8
"""Most comparisons in progress."""
_TURN = "@shadow"  # no tenant can have this name
_AFTER_S = 0.01
"""Delay after which the live answer has left."""
_log = logging.getLogger("ray.serve")


@dataclass
class Comparison:
    """How a live bundle and a candidate answered the same queries, on this replica."""

    live: str
    candidate: str
    """Ids of the two bundles."""
    queries: int = 0
    same_best: int = 0
    """Queries for which the same FAQ was best."""
    same_abstention: int = 0
    """Queries for which both abstained, or neither."""
    difference: float = 0.0
    """Sum over the queries of the absolute difference of the top scores."""


@dataclass
class ShadowTotals:
    """Counts over all tenants since the start."""

    compared: int = 0
    same_best: int = 0
    same_abstention: int = 0
    skipped: int = 0
    """Queries not compared: the engine was busy, or the candidate did not answer."""
    difference: float = 0.0
    """Sum of the absolute differences of the top scores."""


class Shadow:
    """Compares candidates with live bundles. Belongs to one event loop."""

    def __init__(self, engine: Engine, batcher: Batcher) -> None:
        self.totals = ShadowTotals()
        self._engine = engine
        self._batcher = batcher
        self._of: dict[str, Comparison] = {}  # by tenant, for tenants that have had a candidate
        self._tasks: set[asyncio.Task[None]] = set()

    def compare(self, held: LiveTenant, answers: Sequence[SearchAnswer], texts: list[str]) -> None:
        """Ask the candidate in the background what `held`, the live bundle, has answered."""
        if len(self._tasks) >= MAX_AT_ONCE:
            self.totals.skipped += len(texts)
            return
        task = asyncio.get_running_loop().create_task(self._compare(held, answers, texts))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def comparison(self, tenant: str) -> Comparison | None:
        """The comparison of the present live bundle and candidate; None: nothing is compared
        yet."""
        found, now = self._of.get(tenant), self._engine.snapshot
        candidate = now.candidates.get(tenant)
        if found is None or candidate is None:
            return None
        same = (found.live, found.candidate) == (now.bundles.get(tenant), candidate.bundle)
        return found if same else None

    async def drain(self) -> None:
        """Return when no comparison is in progress."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _compare(
        self, held: LiveTenant, answers: Sequence[SearchAnswer], texts: list[str]
    ) -> None:
        await asyncio.sleep(_AFTER_S)
        try:
            others = await self._ask(held.manifest.tenant, texts)
        except AdapterDistillError:  # withdrawn, dropped or overloaded, which is logged elsewhere
            others = None
        except Exception as error:  # only its class: the message may quote a query
            _log.error("a candidate could not be compared: %s", type(error).__name__)
            others = None
        if others is None:
            self.totals.skipped += len(texts)
            return
        candidate, found = others
        pair = (held.bundle_id, candidate)
        of = self._of.get(held.manifest.tenant)
        if of is None or (of.live, of.candidate) != pair:
            of = self._of[held.manifest.tenant] = Comparison(*pair)
        for one, other in zip(answers, found, strict=True):
            best, second = one.ranked[0], other.ranked[0]
            same_best = best.faq_id == second.faq_id
            same_abstention = one.abstained == other.abstained
            difference = abs(best.score - second.score)
            of.queries += 1
            self.totals.compared += 1
            for counts in (of, self.totals):
                counts.same_best += same_best
                counts.same_abstention += same_abstention
                counts.difference += difference

    async def _ask(self, tenant: str, texts: list[str]) -> tuple[str, list[SearchAnswer]] | None:
        """Id of the candidate's bundle and its answers; None: the engine is busy, or one is
        missing."""
        if self._batcher.num_queued > MAX_QUEUED:
            return None
        held = await self._engine.hold(tenant, LOAD_TIMEOUT_S, "canary")
        items = [SearchItem(tenant, text, 1, held, "canary") for text in texts]
        outcomes = await self._batcher.submit(items, turn=_TURN)
        answers = [outcome for outcome in outcomes if isinstance(outcome, SearchAnswer)]
        return (held.bundle_id, answers) if len(answers) == len(texts) else None
