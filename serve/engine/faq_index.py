"""A tenant's FAQ vectors in memory, and the exact ranking of a batch of mixed tenants.

It runs on the host, in numpy: a batch of 32 tenants has 32 small matrices, so the calls themselves
are the cost, and numpy's are a quarter of torch's (measured: 0.4 against 1.5 ms a batch).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adapterdistill.evaluation.characters import CharacterView, score_rows
from adapterdistill.evaluation.scorer import BEHIND


@dataclass(frozen=True)
class Ranking:
    """The best FAQs of one query, best first; equal scores keep the FAQs' order."""

    faqs: list[int]
    """Positions in the tenant's list of FAQs."""
    scores: list[float]
    """The FAQs' scores, in the same order."""
    views: list[dict[str, float]] | None = None
    """Each FAQ's score by each view, in the same order; None: nobody asked for it."""
    decided_by: str | None = None
    """The view that puts the best FAQ furthest ahead of the second, as views are weighed; None:
    nobody asked, or there is one FAQ."""


VIEWS = ("cosine", "head", "characters", "answers")
"""All views that an index may have, in the order of the arrays below."""


class Index(Protocol):
    """What ranks the FAQs of one tenant. Immutable; compared and grouped by identity."""

    @property
    def num_faqs(self) -> int: ...

    @property
    def weights(self) -> Mapping[str, tuple[float, float]] | None:
        """Each view's weight in the ranking and in the evidence. None: the cosine is the score."""
        ...

    @property
    def characters(self) -> CharacterView | None:
        """The view of a query's letters; None: it has none."""
        ...

    def write_views(self, views: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
        """Write the scores of some rows by each other view that the index has.

        Args:
            views: [views, rows, FAQs], zeros, in the order of `VIEWS`.
            queries: [rows, hidden], unit length.
        """
        ...


@dataclass(frozen=True, eq=False)
class FaqIndex:
    """The FAQ vectors of one tenant. Immutable; compared and grouped by identity."""

    vectors: NDArray[np.float32]
    """[distinct vectors, hidden], unit length."""
    entries: NDArray[np.intp]
    """[entries], the vector of each entry; entries of one FAQ are adjacent, FAQs in order."""
    starts: NDArray[np.intp]
    """[FAQs], the first entry of each FAQ."""

    @classmethod
    def of(cls, vectors: Tensor, faq_of_vector: Tensor) -> "FaqIndex":
        """Index a bundle's vectors, [entries, hidden], with the FAQ of each; every FAQ has one or
        more."""
        owner = faq_of_vector.cpu().numpy()
        order = np.argsort(owner, kind="stable")
        distinct, entries = distinct_rows(vectors.float().cpu().numpy()[order])
        starts = np.flatnonzero(np.diff(owner[order], prepend=-1))
        return cls(distinct, entries, starts)

    weights = None
    characters = None

    @property
    def num_faqs(self) -> int:
        return len(self.starts)

    def write_views(self, views: NDArray[np.float32], queries: NDArray[np.float32]) -> None:
        """Write the largest cosine over each FAQ's vectors."""
        cosines = (queries @ self.vectors.T)[:, self.entries]
        if len(self.starts) != len(self.entries):
            cosines = np.maximum.reduceat(cosines, self.starts, axis=1)
        views[VIEWS.index("cosine")] = cosines


def distinct_rows(matrix: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The different rows of a matrix, and each row's place among them.

    Equal vectors are kept once: their products then have equal last bits, so equal FAQs tie
    exactly, whatever blocks the matrix product works in.
    """
    matrix = matrix + np.float32(0)  # -0 becomes 0: equal rows have equal bytes
    # `np.unique` along an axis sorts the rows, which takes twenty times as long.
    place_of: dict[bytes, int] = {}
    places = [place_of.setdefault(row.tobytes(), len(place_of)) for row in matrix]
    _, first = np.unique(places, return_index=True)
    return matrix[first], np.array(places, np.intp)


def rank(
    queries: Tensor,
    texts: Sequence[str],
    indexes: Sequence[Index],
    top_k: Sequence[int],
    explain: Sequence[bool],
) -> list[Ranking]:
    """Rank each row's own FAQs: row n of `queries` against `indexes[n]`, the best `top_k[n]`.

    Exact: every vector of the row's tenant is scored, and no vector of another tenant. Rows of one
    tenant share one matrix product.

    Args:
        queries: [rows, hidden] float32, unit length.
        texts: [rows], the queries themselves.
        indexes: [rows], each row's index.
        top_k: [rows], at least 1 each.
        explain: [rows], whether the ranking holds the views' own scores.
    """
    if not indexes:
        return []
    vectors = queries.cpu().numpy()
    rows_of: dict[Index, list[int]] = {}
    for row, index in enumerate(indexes):
        rows_of.setdefault(index, []).append(row)
    grouped = [row for rows in rows_of.values() for row in rows]
    sizes = np.array([indexes[row].num_faqs for row in grouped])
    views = np.zeros((len(VIEWS), sizes.sum()), np.float32)
    place = 0
    for index, rows in rows_of.items():
        end = place + len(rows) * index.num_faqs
        index.write_views(views[:, place:end].reshape(len(VIEWS), len(rows), -1), vectors[rows])
        place = end
    letters = {row: view for row in grouped if (view := indexes[row].characters) is not None}
    have_letters = np.repeat([row in letters for row in grouped], sizes)
    views[VIEWS.index("characters"), have_letters] = score_rows(
        [*letters.values()], [texts[row] for row in letters]
    )
    scores, parts = _combined(views, sizes, [indexes[row].weights for row in grouped])
    ranking_of: dict[int, Ranking] = {}
    for row, size, end in zip(grouped, sizes.tolist(), sizes.cumsum().tolist(), strict=True):
        own = slice(end - size, end)
        order = np.argsort(-scores[own], kind="stable")[: max(2, top_k[row])]
        faqs = order[: top_k[row]]
        ranking = Ranking(faqs.tolist(), scores[own][faqs].tolist())
        if explain[row]:
            names = tuple(indexes[row].weights or ("cosine",))
            ranking = _explained(ranking, names, views[:, own], parts[:, own], order.tolist())
        ranking_of[row] = ranking
    return [ranking_of[row] for row in range(len(indexes))]


def _combined(
    views: NDArray[np.float32],
    sizes: NDArray[np.intp],
    weights: Sequence[Mapping[str, tuple[float, float]] | None],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weigh the views of all rows, whose FAQs lie one row after the other.

    The same as `adapterdistill.evaluation.scorer.Scorer.__call__`, for many tenants in one pass.

    Args:
        views: [views, FAQs of all rows].
        sizes: [rows], the FAQs of each.
        weights: [rows], of each row's index.

    Returns:
        The scores, [FAQs of all rows], and what each view contributes to the order, weighed and on
        one scale, [views, FAQs of all rows].
    """
    cosine = views[VIEWS.index("cosine")]
    if not any(weights):
        return cosine, views
    none = (0.0, 0.0)
    in_ranking, in_evidence = np.array(
        [[(of or {}).get(name, none) for of in weights] for name in VIEWS], np.float32
    ).transpose(2, 0, 1)
    starts = sizes.cumsum() - sizes
    mean = np.add.reduceat(views, starts, axis=1) / sizes
    parts = views - np.repeat(mean, sizes, axis=1)
    spread = np.sqrt(np.add.reduceat(parts * parts, starts, axis=1) / sizes)
    parts *= np.repeat(in_ranking / np.maximum(spread, np.float32(1e-6)), sizes, axis=1)
    ranking = parts.sum(0)
    best = np.maximum.reduceat(ranking, starts)
    evidence = (in_evidence * np.maximum.reduceat(views, starts, axis=1)).sum(0)
    scores = np.repeat(evidence + BEHIND * -best, sizes) + BEHIND * ranking
    has_weights = np.repeat([of is not None for of in weights], sizes)
    return np.where(has_weights, scores, cosine), np.where(has_weights, parts, views)


def _explained(
    ranking: Ranking,
    names: Sequence[str],
    views: NDArray[np.float32],
    parts: NDArray[np.float32],
    best: Sequence[int],
) -> Ranking:
    """Add the named views to one row's ranking.

    Args:
        views, parts: [views, FAQs] of the row.
        best: its two best FAQs at least, if it has two.
    """
    own = {name: (views[VIEWS.index(name)], parts[VIEWS.index(name)]) for name in names}
    found = [{name: float(view[faq]) for name, (view, _) in own.items()} for faq in ranking.faqs]
    if len(best) < 2:
        return replace(ranking, views=found)
    ahead = {name: part[best[0]] - part[best[1]] for name, (_, part) in own.items()}
    return replace(ranking, views=found, decided_by=max(ahead, key=lambda name: ahead[name]))
