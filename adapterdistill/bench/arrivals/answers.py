"""What a finished run serves, and what its adapters would serve, on the tenant's test queries."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adapterdistill.backbone import Embedder, Encoder
from adapterdistill.bench.tenants import BenchTenant, TextRows
from adapterdistill.bench.transfer.scoring import scores
from adapterdistill.checkpoint import unpack_adapter
from adapterdistill.config import OnboardConfig
from adapterdistill.data import Faq
from adapterdistill.evaluation.metrics import gold_ranks
from adapterdistill.serve.engine.engine import Engine, SearchAnswer, SearchItem

_BATCH = 64
_KEPT = {"own": "own.safetensors", "student": "distilled.safetensors"}
"""Files of a run's folder that hold an adapter, if the run's method makes it."""


def outcome(ranks: Tensor, best: Tensor, out_of_scope: Tensor) -> dict[str, Any]:
    """One way to answer, row by row.

    Args:
        ranks: [queries] int64, 1-based rank of the right FAQ.
        best: [queries] score of the first FAQ.
        out_of_scope: [out-of-scope queries] the same of queries that no FAQ answers.
    """
    return {
        "ranks": ranks.tolist(),
        "best": [round(value, 5) for value in best.tolist()],
        "best_out_of_scope": [round(value, 5) for value in out_of_scope.tolist()],
    }


class Vectors(NamedTuple):
    """Unit-length embeddings, [rows, d] float32 each."""

    rows: Tensor
    """The questions, in order, then the k training queries."""
    test: Tensor
    out_of_scope: Tensor


def embed(
    encoder: Encoder, embedder: Embedder | None, tenant: BenchTenant, rows: TextRows
) -> Vectors:
    """Embed a tenant's rows and test queries through an adapter, or through none."""

    def one(texts: TextRows) -> Tensor:
        if not len(texts):
            return torch.empty(0, encoder.hidden_size)
        return encoder.embed_ids(texts.ids, embedder, batch_size=128).float().cpu()

    return Vectors(one(rows), one(tenant.test), one(tenant.out_of_scope))


def by_similarity(
    vectors: Vectors, tenant: BenchTenant, rows: TextRows, scoring: str
) -> dict[str, Any]:
    """Rank by the cosine to what stands for each FAQ; `scoring` as in `bench.transfer.scoring`."""
    inside, outside = (
        scores(scoring, queries, vectors.rows, rows.labels, tenant.num_faqs)
        for queries in (vectors.test, vectors.out_of_scope)
    )
    return outcome(gold_ranks(inside, tenant.test.labels), inside.amax(1), outside.amax(1))


def kept_adapters(
    encoder: Encoder, config: OnboardConfig, tenant: BenchTenant, rows: TextRows
) -> dict[str, Any]:
    """The run's own adapter and student, each ranking by centroid, where the run made them."""
    (folder,) = (Path(config.workspace) / config.tenant / "runs").iterdir()
    found = {}
    for name, file in _KEPT.items():
        if (folder / file).exists():
            adapter = unpack_adapter((folder / file).read_bytes()).to(encoder.device)
            vectors = embed(encoder, adapter, tenant, rows)
            found[name] = by_similarity(vectors, tenant, rows, "centroid")
    return found


def answers(
    encoder: Encoder, config: OnboardConfig, tenant: BenchTenant, faqs: tuple[Faq, ...]
) -> dict[str, Any]:
    """Ask the engine, over the store that the run wrote, every test query."""
    engine = Engine(encoder, Path(config.serving_store))
    try:
        refresh = engine.refresh()
        for error in refresh.refused.values():
            raise error
        inside = ask(engine, config.tenant, tenant.test, len(faqs))
        outside = ask(engine, config.tenant, tenant.out_of_scope, len(faqs))
    finally:
        engine.close()
    place = {faq.faq_id: number for number, faq in enumerate(faqs)}
    ranks = [
        1 + [place[one.faq_id] for one in answer.ranked].index(gold)
        for answer, gold in zip(inside, tenant.test.labels.tolist(), strict=True)
    ]
    first = [torch.tensor([a.ranked[0].score for a in part]) for part in (inside, outside)]
    return outcome(torch.tensor(ranks), *first) | {
        "abstained": [answer.abstained for answer in inside],
        "abstained_out_of_scope": [answer.abstained for answer in outside],
    }


def ask(engine: Engine, tenant: str, rows: TextRows, top_k: int) -> list[SearchAnswer]:
    """What the engine answers to each row."""
    found: list[SearchAnswer] = []
    for start in range(0, len(rows), _BATCH):
        items = [SearchItem(tenant, text, top_k) for text in rows.texts[start : start + _BATCH]]
        for answer in engine.search(items):
            if not isinstance(answer, SearchAnswer):
                raise answer
            found.append(answer)
    return found
