import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from adapterdistill.evaluation.prototypes import refine, shares


def unit(*shape: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def by_hand(c: np.ndarray, rows: list[int], u: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Query by query and FAQ by FAQ, in float64."""
    p = c.copy()
    for _ in range(10):
        sums, mass = np.zeros_like(c), np.zeros(len(c))
        for query in u:
            logits = [20 * float(query @ faq) for faq in p]
            if len(s):
                logits.append(20 * max(float(query @ text) for text in s))
            exp = np.exp(np.array(logits) - max(logits))
            for faq, share in enumerate((exp / exp.sum())[: len(c)]):
                sums[faq] += share * query
                mass[faq] += share
        for faq in range(len(c)):
            pull = min(0.3 * mass[faq] / rows[faq], 2.0 if rows[faq] == 1 else 1.0)
            moved = c[faq] + pull * sums[faq] / mass[faq]
            p[faq] = moved / np.linalg.norm(moved)
    return p


@pytest.mark.parametrize("num_negatives", [0, 6])
def test_refined_prototypes_equal_soft_k_means_by_hand(num_negatives: int) -> None:
    c, u, s = unit(4, 8, seed=0), unit(30, 8, seed=1), unit(num_negatives, 8, seed=2)
    rows = [1, 1, 4, 20]
    found = refine(c, torch.tensor(rows), u, s)
    c64, u64, s64 = (x.double().numpy() for x in (c, u, s))
    expected = by_hand(c64, rows, u64, s64)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_prototypes_stay_the_centroids_without_unlabelled_queries() -> None:
    c = unit(4, 8, seed=0)
    assert torch.equal(refine(c, torch.ones(4).long(), torch.zeros(0, 8), unit(3, 8, seed=1)), c)


def test_queries_of_another_domain_pull_less_where_its_texts_are_known() -> None:
    c, foreign = unit(4, 64, seed=0), unit(1, 64, seed=5)
    log = F.normalize(foreign + 0.1 * unit(50, 64, seed=6), dim=-1)
    ones = torch.ones(4).long()
    moved = (refine(c, ones, log, foreign[:0]) - c).norm(dim=1).sum()
    moved_less = (refine(c, ones, log, foreign) - c).norm(dim=1).sum()
    assert moved_less < 0.25 * moved


def test_shares_of_all_faqs_and_none_sum_to_one() -> None:
    c, u, s = unit(4, 8, seed=0), unit(9, 8, seed=1), unit(5, 8, seed=2)
    torch.testing.assert_close(shares(c, u, s[:0]).sum(1), torch.ones(9))
    assert bool((shares(c, u, s).sum(1) < 1).all())


def test_centroids_of_many_rows_move_less() -> None:
    c, u = unit(4, 8, seed=0), unit(30, 8, seed=1)
    moved = [
        (refine(c, torch.full((4,), rows), u, u[:0]) - c).norm(dim=1).mean() for rows in (1, 10, 99)
    ]
    assert moved[0] > moved[1] > moved[2] > 0
