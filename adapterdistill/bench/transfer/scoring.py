"""One method on one arrival, scored: ranks and scores by row, so that every statistic is paired.

Three scorings of the same vectors: `question` ranks by the canonical question alone, `best` by an
FAQ's best entry among question and k queries, `centroid` by the mean of these.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdistill.bench.tenants import BenchTenant, TextRows
from adapterdistill.distill.held_out import centroids
from adapterdistill.evaluation.evaluate import FALSE_REJECTION
from adapterdistill.evaluation.metrics import faq_scores, gold_ranks

SCORINGS = ("question", "best", "centroid")

Embed = Callable[[TextRows], Tensor]
"""Rows to unit-length vectors, [rows, d] float32."""


def score(embed: Embed, tenant: BenchTenant, index: TextRows) -> dict[str, Any]:
    """Everything the report needs of a method: per scoring, ranks on test and valid, and the best
    scores of in-scope and out-of-scope queries with the threshold from the index's own queries.

    Args:
        index: the questions, in order, then the k training queries.
    """
    entries = embed(index).float().cpu()
    test = embed(tenant.test).float().cpu() if len(tenant.test) else entries[:0]
    valid = embed(tenant.valid).float().cpu() if len(tenant.valid) else entries[:0]
    oos = embed(tenant.out_of_scope).float().cpu() if len(tenant.out_of_scope) else entries[:0]
    found: dict[str, Any] = {}
    for scoring in SCORINGS:
        of_test = scores(scoring, test, entries, index.labels, tenant.num_faqs)
        of_valid = scores(scoring, valid, entries, index.labels, tenant.num_faqs)
        result: dict[str, Any] = {
            "test": gold_ranks(of_test, tenant.test.labels).tolist(),
            "valid": gold_ranks(of_valid, tenant.valid.labels).tolist(),
        }
        if len(oos):
            of_oos = scores(scoring, oos, entries, index.labels, tenant.num_faqs)
            result["best"] = _rounded(of_test.amax(1))
            result["best_out_of_scope"] = _rounded(of_oos.amax(1))
            result["threshold"] = threshold(scoring, entries, index.labels, tenant.num_faqs)
        found[scoring] = result
    return found


def scores(scoring: str, queries: Tensor, entries: Tensor, labels: Tensor, num_faqs: int) -> Tensor:
    """[queries, faqs] scores of the FAQs, `entries` being the questions and then the queries."""
    if scoring == "question":
        return queries @ entries[:num_faqs].T
    if scoring == "best":
        return faq_scores(queries, entries, labels, num_faqs)
    return queries @ centroids(entries, labels, num_faqs).T


def threshold(scoring: str, entries: Tensor, labels: Tensor, num_faqs: int) -> float | None:
    """Top score that 95% of the training queries reach when each is left out of the index."""
    queries, own = entries[num_faqs:], labels[num_faqs:]
    if not len(queries):
        return None
    if scoring == "question":
        top = (queries @ entries[:num_faqs].T).amax(1)
    elif scoring == "best":
        similarity = queries @ entries.T
        itself = torch.arange(len(queries))
        similarity[itself, itself + num_faqs] = -1.0
        top = similarity.amax(1)
    else:
        sums = torch.zeros(num_faqs, entries.shape[1]).index_add(0, labels, entries)
        of_faq = queries @ F.normalize(sums, dim=-1).T
        # Its own FAQ's centroid is taken without the query itself; the question always remains.
        left = F.normalize(sums[own] - queries, dim=-1)
        of_faq[torch.arange(len(queries)), own] = (queries * left).sum(1)
        top = of_faq.amax(1)
    return round(float(torch.quantile(top.double(), FALSE_REJECTION)), 5)


def valid_top1(embed: Embed, tenant: BenchTenant, index: TextRows) -> dict[str, float]:
    """Top-1 on `valid` by scoring: what choices are made on."""
    entries, valid = embed(index).float().cpu(), embed(tenant.valid).float().cpu()
    found = {}
    for scoring in SCORINGS:
        of_valid = scores(scoring, valid, entries, index.labels, tenant.num_faqs)
        ranks = gold_ranks(of_valid, tenant.valid.labels)
        found[scoring] = float((ranks == 1).double().mean())
    return found


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]
