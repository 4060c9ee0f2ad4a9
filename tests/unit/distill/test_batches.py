"""Batches are a function of rows, seed and step; workers' shares make up the whole."""

from collections import Counter

import pytest
import torch

from adapterdistill.distill.batches import (
    TrainingRows,
    choose_in_epochs,
    choose_rows,
    make_batch,
)
from tests.tiny_encoders import random_rows


def rows_with(counts: dict[int, int]) -> TrainingRows:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return TrainingRows(random_rows([3 + n % 5 for n in range(len(labels))]), torch.tensor(labels))


def test_the_same_seed_and_step_choose_the_same_rows() -> None:
    rows = rows_with(dict.fromkeys(range(10), 9))

    def choose(seed: int, step: int) -> list[int]:
        return choose_rows(rows, batch_size=24, seed=seed, step=step)

    before = torch.get_rng_state()
    assert choose(1, 5) == choose(1, 5)
    assert len({tuple(choose(seed, step)) for seed in (0, 1) for step in range(10)}) == 20
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's draws change
    assert choose(2**31 - 1, 100_000)


def test_an_epoch_meets_every_row_once_and_the_next_in_another_order() -> None:
    rows = rows_with({0: 10, -1: 13})

    def epoch(number: int, seed: int = 0) -> list[int]:
        steps = range(3 * number, 3 * number + 3)
        return [
            row
            for step in steps
            for row in choose_in_epochs(rows, batch_size=8, seed=seed, step=step)
        ]

    assert sorted(epoch(0)) == sorted(epoch(1)) == list(range(23))
    assert epoch(0) == epoch(0) and epoch(0) != epoch(1) and epoch(0) != epoch(0, seed=1)


def test_rows_that_fit_are_all_taken_every_step() -> None:
    rows = rows_with({0: 3, 1: 2, -1: 4})
    assert choose_rows(rows, batch_size=9, seed=0, step=3) == list(range(9))


def test_a_batch_holds_equally_many_rows_of_each_faq_without_repeats() -> None:
    rows = rows_with(dict.fromkeys(range(4), 20))
    for step in range(5):
        chosen = choose_rows(rows, batch_size=32, seed=0, step=step)
        assert len(set(chosen)) == len(chosen) == 32
        assert set(Counter(rows.labels[chosen].tolist()).values()) == {8}


def test_with_many_faqs_a_batch_takes_some_with_positives_each() -> None:
    rows = rows_with(dict.fromkeys(range(100), 10))
    seen: Counter[int] = Counter()
    for step in range(50):
        chosen = choose_rows(rows, batch_size=32, seed=0, step=step)
        counts = Counter(rows.labels[chosen].tolist())
        assert set(counts.values()) == {4} and len(counts) == 8
        seen.update(counts.keys())
    assert len(seen) > 90


def test_unlabelled_rows_come_at_their_share() -> None:
    rows = rows_with({0: 30, 1: 30, -1: 60})
    chosen = choose_rows(rows, batch_size=40, seed=0, step=0)
    counts = Counter(rows.labels[chosen].tolist())
    assert counts == {0: 10, 1: 10, -1: 20}
    only = rows_with({-1: 50})
    assert len(choose_rows(only, batch_size=40, seed=0, step=0)) == 40


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_workers_shares_make_up_the_global_batch(world_size: int) -> None:
    rows = rows_with({0: 5, 1: 5, -1: 1})
    chosen = [10, 3, 0, 7, 5, 1, 9]
    whole = make_batch(rows, chosen)
    parts = [make_batch(rows, chosen, rank=n, world_size=world_size) for n in range(world_size)]
    for rank, part in enumerate(parts):
        assert part.tokens.lengths == tuple(len(rows.ids[r]) for r in chosen[rank::world_size])
        assert torch.equal(part.labels, whole.labels)
        assert part.rows == tuple(chosen)
        assert part.total_tokens == whole.total_tokens == len(whole.tokens.input_ids)
    assert sum(len(part.tokens.input_ids) for part in parts) == whole.total_tokens


def test_rows_and_labels_must_be_equally_many() -> None:
    with pytest.raises(ValueError, match="2 rows of ids but 1 labels"):
        TrainingRows([[1], [2]], torch.tensor([0]))
