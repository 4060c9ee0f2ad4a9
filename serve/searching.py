"""One request from its tenant's name to its answers: what HTTP and gRPC share.

Errors leave here as `AdapterDistillError`; each interface says in its own words what they are.
"""

import time
from collections.abc import Sequence

from adapterdistill.errors import AdapterDistillError
from serve.batcher import Batcher
from serve.engine import Engine, SearchAnswer, SearchItem
from serve.note import Note


async def search(
    engine: Engine, batcher: Batcher, note: Note, tenant: str, texts: Sequence[str], top_k: int
) -> list[SearchAnswer]:
    """The answers to one request's texts, in order; all come from one adapter version.

    Raises:
        UnknownTenantError, WithdrawnError: the tenant is not served.
        OverloadedError, DeadlineExceededError: it is not answered now.
    """
    note.tenant, note.num_queries = tenant, len(texts)
    # Before the queue: made-up names take nobody's turn in it, and neither do loads.
    asked_at = time.monotonic()
    held = await engine.hold(tenant, batcher.request_timeout_s)
    waited_s = time.monotonic() - asked_at
    items = [SearchItem(tenant, text, top_k, held) for text in texts]
    answers: list[SearchAnswer] = []
    for outcome in await batcher.submit(items, waited_s=waited_s):
        if isinstance(outcome, AdapterDistillError):
            raise outcome
        answers.append(outcome)
    note.version = answers[0].version
    if note.version == held.manifest.version:  # else another bundle has come live meanwhile
        held.drift.count((answer.ranked[0].score, answer.abstained) for answer in answers)
    return answers
