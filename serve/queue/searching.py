"""Answers one request, from its tenant's name to its answers, for HTTP and gRPC alike.

Errors leave here as `AdapterDistillError`; each interface translates them.
"""

import random
import time
from collections.abc import Callable, Sequence

from adapterdistill.errors import AdapterDistillError, InvalidRequestError, WithdrawnError
from adapterdistill.serve.engine.classifying import head_of
from adapterdistill.serve.engine.engine import Engine
from adapterdistill.serve.engine.items import (
    ClassifyAnswer,
    ClassifyItem,
    SearchAnswer,
    SearchItem,
)
from adapterdistill.serve.engine.live import Alias, LiveTenant
from adapterdistill.serve.queue.batcher import Batcher
from adapterdistill.serve.queue.keeping import Keeper
from adapterdistill.serve.queue.request_context import RequestContext
from adapterdistill.serve.queue.shadow import Shadow


class Searcher:
    """Answers requests. Belongs to one event loop.

    keeper: keeps the questions that are answered badly; None: nobody does.
    draw: returns a number in [0, 1); the candidate answers if it is below the candidate's share.
    """

    def __init__(
        self,
        engine: Engine,
        batcher: Batcher,
        *,
        keeper: Keeper | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.shadow = Shadow(engine, batcher)
        self._engine = engine
        self._batcher = batcher
        self._keeper = keeper
        self._draw = draw

    async def search(
        self,
        context: RequestContext,
        tenant: str,
        texts: list[str],
        top_k: int,
        alias: Alias | None = None,
        *,
        explain: bool = False,
    ) -> list[SearchAnswer]:
        """The answers to one request's texts, in order; all come from one bundle.

        alias: which of the tenant's bundles answers. None: the live one, or a canary for its share
            of such requests while it can answer.
        explain: whether the answers say how each view scores the FAQs.

        Raises:
            UnknownTenantError, WithdrawnError: the tenant is not served.
            NoCandidateError: `alias` is "canary", and there is none.
            OverloadedError, DeadlineExceededError: the request is not answered now.
        """
        context.tenant, context.num_queries = tenant, len(texts)
        asked_at = time.monotonic()
        candidate = None if alias else self._engine.snapshot.candidate(tenant)
        drawn = candidate if candidate and self._draw() < candidate.share else None
        if drawn is not None and drawn.mode == "canary":
            held = await self._held_candidate(tenant)
            if held is not None:
                try:
                    return await self._answers(
                        context, held, texts, top_k, "canary", explain, asked_at
                    )
                except WithdrawnError:
                    pass  # withdrawn while it waited; the live bundle may still answer
        left_s = self._batcher.request_timeout_s - (time.monotonic() - asked_at)
        held = await self._engine.hold(tenant, left_s, alias or "live")
        answers = await self._answers(
            context, held, texts, top_k, alias or "live", explain, asked_at
        )
        if drawn is not None and drawn.mode == "shadow":
            self.shadow.compare(held, answers, texts)
        return answers

    async def classify(
        self,
        context: RequestContext,
        tenant: str,
        task: str,
        texts: Sequence[str],
        text_pairs: Sequence[str] | None,
        top_k: int,
        alias: Alias = "live",
    ) -> list[ClassifyAnswer]:
        """The classes of one request's texts, in order; all come from one bundle.

        text_pairs: each text's second text, if the task is one of pairs.

        Raises:
            UnknownTenantError, WithdrawnError, NoCandidateError: as in `search`.
            UnknownTaskError: the bundle does not answer the task.
            InvalidRequestError: the task is one of pairs and there are none, or the reverse.
            OverloadedError, DeadlineExceededError: the request is not answered now.
        """
        context.tenant, context.num_queries = tenant, len(texts)
        asked_at = time.monotonic()
        held = await self._engine.hold(tenant, self._batcher.request_timeout_s, alias)
        pairs = head_of(held, task).task.pairs
        if pairs != (text_pairs is not None):
            told = "reads pairs: give text_pairs" if pairs else "reads single texts: no text_pairs"
            raise InvalidRequestError(f"the task {told}", field="text_pairs")
        seconds: Sequence[str | None] = text_pairs or [None] * len(texts)
        items = [
            ClassifyItem(tenant, text, top_k, held, alias, task=task, text_pair=second)
            for text, second in zip(texts, seconds, strict=True)
        ]
        outcomes = await self._batcher.submit(items, waited_s=time.monotonic() - asked_at)
        for outcome in outcomes:
            if isinstance(outcome, AdapterDistillError):
                raise outcome
        context.version, context.alias = held.manifest.version, alias
        return outcomes

    async def drain(self) -> None:
        """Refuse new requests, and return when all waiting ones are answered."""
        await self._batcher.drain()
        await self.shadow.drain()

    async def _held_candidate(self, tenant: str) -> LiveTenant | None:
        """The candidate in memory; None: it cannot answer, and the live bundle does."""
        try:
            return await self._engine.hold(tenant, self._batcher.request_timeout_s / 2, "canary")
        except AdapterDistillError:
            return None

    async def _answers(
        self,
        context: RequestContext,
        held: LiveTenant,
        texts: list[str],
        top_k: int,
        alias: Alias,
        explain: bool,
        asked_at: float,
    ) -> list[SearchAnswer]:
        # Held before the queue: neither invented names nor loads take anyone's turn in it.
        tenant = held.manifest.tenant
        items = [SearchItem(tenant, text, top_k, held, alias, explain) for text in texts]
        answers: list[SearchAnswer] = []
        held_at = time.monotonic()
        if context.stages is not None:
            context.stages.asked_at, context.stages.held_at = asked_at, held_at
        for outcome in await self._batcher.submit(
            items, waited_s=held_at - asked_at, stages=context.stages
        ):
            if isinstance(outcome, AdapterDistillError):
                raise outcome
            answers.append(outcome)
        context.version, context.alias = held.manifest.version, alias
        if self._keeper is not None:
            self._keeper.see(tenant, texts, answers)
        held.drift.count((answer.ranked[0].score, answer.abstained) for answer in answers)
        return answers
