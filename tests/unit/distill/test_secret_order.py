"""Batches drawn by a secret: repeatable with it, different without it."""

import torch

from adapterdistill.distill.batches import TrainingRows, choose_rows
from adapterdistill.distill.private.order import LEFT_OUT, secret_choice

ROWS = TrainingRows([[n] for n in range(48)], torch.cat([torch.arange(8), torch.arange(40) % 8]))


def batches(secret: str, *, size: int, seed: int = 0) -> list[list[int]]:
    choose = secret_choice(secret)
    return [choose(ROWS, batch_size=size, seed=seed, step=step) for step in range(30)]


def test_the_same_secret_draws_the_same_batches_and_another_one_others() -> None:
    for size in (24, 64):
        assert batches("a", size=size) == batches("a", size=size)
        pairs = zip(batches("a", size=size), batches("b", size=size), strict=True)
        assert all(one != other for one, other in pairs)


def test_every_bit_of_the_secret_counts() -> None:
    """torch's generator on the CPU uses 32 bits of a seed: these two would draw the same."""
    low, high = f"{7:064x}", f"{7 + (1 << 200):064x}"
    assert batches(low, size=64) != batches(high, size=64)


def test_a_step_leaves_out_some_queries_where_all_rows_fit_and_never_a_question() -> None:
    drawn = batches("a", size=64)
    for batch in drawn:
        assert len(set(batch)) == len(batch) == 48 - round(LEFT_OUT * 40)
        assert set(range(8)) <= set(batch)
    assert set().union(*drawn) == set(range(48))


def test_few_queries_are_left_out_at_times_too() -> None:
    one = TrainingRows([[0], [1]], torch.tensor([0, 0]))
    drawn = [len(secret_choice("a")(one, batch_size=9, seed=0, step=step)) for step in range(200)]
    assert set(drawn) == {1, 2} and 20 < drawn.count(1) < 80


def test_larger_data_are_drawn_over_faqs_as_with_a_public_seed() -> None:
    for batch in batches("a", size=24):
        assert len(set(batch)) == 24
        faqs = [int(ROWS.labels[row]) for row in batch]
        assert sorted({row for row in batch if row < 8}) == sorted(set(faqs))
    public = choose_rows(ROWS, batch_size=24, seed=0, step=0)
    assert len(public) == 24
