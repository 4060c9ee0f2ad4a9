"""Rows with several right FAQs: in batches, prototypes, held-out scores and ranks."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from adapterdistill.distill.batches import TrainingRows, choose_rows, make_batch
from adapterdistill.distill.held_out import TEMPERATURES, centroids, cross_entropy
from adapterdistill.distill.labels import first_labels, joined, labels_of, pairs
from adapterdistill.distill.losses import prototype_loss
from adapterdistill.distill.rows import (
    StageRows,
    first_of_each,
    in_scope,
    join,
    out_of_scope,
    read_rows,
    write_rows,
)
from adapterdistill.evaluation.metrics import gold_ranks

RIGHT = [[0], [1], [2], [0, 2], [], [1], [2, 1, 0], [0]]
LABELS = labels_of(RIGHT)
ROWS = TrainingRows([[n, n + 1] for n in range(len(RIGHT))], LABELS)


def unit(rows: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))
    return F.normalize(drawn, dim=-1)


def test_labels_are_one_column_unless_a_row_has_several() -> None:
    assert labels_of([[3], [], [1]]).tolist() == [3, -1, 1]
    assert labels_of([]).tolist() == []
    assert LABELS.tolist()[3] == [0, 2, -1]
    assert first_labels(LABELS).tolist() == [0, 1, 2, 0, -1, 1, 2, 0]
    row, faq = pairs(LABELS)
    assert list(zip(row.tolist(), faq.tolist(), strict=True)) == [
        (n, faq) for n, right in enumerate(RIGHT) for faq in right
    ]


def test_labels_of_both_forms_are_joined() -> None:
    plain = torch.tensor([4, -1])
    assert joined([plain, plain]).tolist() == [4, -1, 4, -1]
    assert joined([plain, LABELS]).tolist() == [[4, -1, -1], [-1, -1, -1], *LABELS.tolist()]


def test_rows_belong_to_each_of_their_faqs() -> None:
    assert [rows.tolist() for rows in ROWS.rows_by_faq] == [[0, 3, 6, 7], [1, 5, 6], [2, 3, 6]]
    assert ROWS.unlabelled.tolist() == [4]
    assert len(in_scope(ROWS).ids) == 7 and len(out_of_scope(ROWS).ids) == 1
    assert list(first_of_each(ROWS, 1).ids) == [ROWS.ids[n] for n in (0, 1, 2, 4)]
    assert join(ROWS, ROWS).labels.tolist() == LABELS.tolist() * 2
    chosen = choose_rows(ROWS, batch_size=5, seed=1, step=2)
    assert make_batch(ROWS, chosen).labels.tolist() == [LABELS.tolist()[n] for n in chosen]


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows", StageRows(ROWS, ROWS, ROWS, 3))
    found = read_rows(tmp_path / "rows")
    assert torch.equal(found.train.labels, LABELS) and torch.equal(
        found.held_queries.labels, LABELS
    )


def test_prototype_loss_with_several_right_faqs_equals_its_loops() -> None:
    e = unit(len(RIGHT), seed=1)
    terms = []
    for i, right in enumerate(RIGHT):
        for faq in right:
            others = {
                f: [e[j] for j, r in enumerate(RIGHT) if f in r and j != i]
                for f in range(3)
                if f == faq or f not in right
            }
            cosines = {f: float(e[i] @ F.normalize(sum(rows), dim=0)) for f, rows in others.items()}
            total = sum(math.exp(cosine / 0.05) for cosine in cosines.values())
            terms.append(math.log(total) - cosines[faq] / 0.05)
    expected = sum(terms) / len(terms)
    assert float(prototype_loss(e, LABELS)) == pytest.approx(expected, rel=1e-5)


def test_prototype_loss_of_one_right_faq_is_the_same_in_both_forms() -> None:
    e, plain = unit(6, seed=2), torch.tensor([0, 1, 0, -1, 1, 2])
    wide = torch.stack([plain, torch.full((6,), -1)], 1)
    assert torch.equal(prototype_loss(e, plain), prototype_loss(e, wide))


def test_a_query_is_not_pushed_away_from_its_other_right_faqs() -> None:
    e = unit(2, seed=3).requires_grad_()
    loss = prototype_loss(e, labels_of([[0, 1], [0, 1]]))
    (gradient,) = torch.autograd.grad(loss, e)
    assert loss.item() == 0.0 and not gradient.any()
    # Given as queries of their own, the same texts are pushed apart.
    apart = prototype_loss(e[[0, 0, 1, 1]], torch.tensor([0, 1, 0, 1]))
    assert apart.item() > 0.1


def test_a_rank_is_that_of_the_best_right_faq() -> None:
    scores = torch.rand(40, 6, generator=torch.Generator().manual_seed(4)).mul(8).round()
    drawn = torch.randint(1, 4, (40,), generator=torch.Generator().manual_seed(5)).tolist()
    right = [
        torch.randperm(6, generator=torch.Generator().manual_seed(n))[:k].tolist()
        for n, k in enumerate(drawn)
    ]
    expected = [
        min(sorted(range(6), key=lambda f: (-float(row[f]), f)).index(faq) + 1 for faq in faqs)
        for row, faqs in zip(scores, right, strict=True)
    ]
    assert gold_ranks(scores, labels_of(right)).tolist() == expected


def test_held_out_score_takes_any_right_faq_as_right() -> None:
    scores = unit(4, seed=6)[:, :3]
    right = [[0], [1, 2], [2], [0, 1, 2]]
    by_loops = []
    for t in TEMPERATURES:
        shares = (scores / t).softmax(-1)
        terms = [
            -math.log(sum(float(row[f]) for f in faqs))
            for row, faqs in zip(shares, right, strict=True)
        ]
        by_loops.append(sum(terms) / len(terms))
    assert cross_entropy(scores, labels_of(right)) == pytest.approx(min(by_loops), rel=1e-5)
    plain = torch.tensor([0, 1, 2, 0])
    assert cross_entropy(scores, plain[:, None]) == pytest.approx(cross_entropy(scores, plain))


def test_a_vector_counts_for_each_of_its_faqs() -> None:
    vectors = unit(3, seed=7)
    found = centroids(vectors, labels_of([[0], [1], [0, 1]]), 2)
    expected = F.normalize(torch.stack([vectors[0] + vectors[2], vectors[1] + vectors[2]]), dim=-1)
    torch.testing.assert_close(found, expected)
