"""What a user would pick instead: the bare encoder, and ten lines of scikit-learn on its vectors.

References: `LogisticRegression` and `TfidfVectorizer` of scikit-learn; character n-grams of 2 to 4
within words, and words.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch

from adapterdistill.backbone import Encoder
from adapterdistill.bench.arrivals.answers import Vectors, by_similarity, embed, outcome
from adapterdistill.bench.tenants import BenchTenant, TextRows
from adapterdistill.evaluation.metrics import gold_ranks
from adapterdistill.extras import require

C = 10.0
TFIDF_WEIGHT = 0.3
"""Weight of the TF-IDF columns beside the unit-length vector: the best of 0 to 1 on 8 tenants."""


def baselines(encoder: Encoder, tenant: BenchTenant, rows: TextRows) -> dict[str, Any]:
    """Rank the test queries by each baseline, with its seconds from the bare encoder's vectors.

    Args:
        rows: the questions, in order, then the k training queries.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    vectors = embed(encoder, None, tenant, rows)
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "question": lambda: by_similarity(vectors, tenant, rows, "question"),
        "centroid": lambda: by_similarity(vectors, tenant, rows, "centroid"),
        "logistic": lambda: _logistic(vectors, tenant, rows, with_tfidf=False),
        "hybrid": lambda: _logistic(vectors, tenant, rows, with_tfidf=True),
    }
    found = {}
    for name, rank in ways.items():
        started = perf_counter()
        found[name] = rank() | {"seconds": round(perf_counter() - started, 3)}
    return found


def _logistic(
    vectors: Vectors, tenant: BenchTenant, rows: TextRows, *, with_tfidf: bool
) -> dict[str, Any]:
    linear = require("bench", "sklearn.linear_model")
    features: list[Any] = [part.numpy() for part in vectors]
    if with_tfidf:
        text = require("bench", "sklearn.feature_extraction.text")
        sparse = require("bench", "scipy.sparse")
        columns = [
            text.TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True),
            text.TfidfVectorizer(token_pattern=r"\w+"),
        ]
        for one in columns:
            one.fit(rows.texts)
        parts = (rows, tenant.test, tenant.out_of_scope)
        features = [
            sparse.hstack(
                [dense, *(TFIDF_WEIGHT * one.transform(part.texts) for one in columns)]
            ).tocsr()
            if len(part)
            else dense
            for dense, part in zip(features, parts, strict=True)
        ]
    fitted = linear.LogisticRegression(C=C, max_iter=2000).fit(features[0], rows.labels.numpy())
    inside, outside = (
        torch.from_numpy(fitted.predict_proba(one))
        if one.shape[0]
        else torch.empty(0, tenant.num_faqs)
        for one in features[1:]
    )
    return outcome(gold_ranks(inside, tenant.test.labels), inside.amax(1), outside.amax(1))
