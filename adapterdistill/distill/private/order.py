"""Batches drawn by a secret, so that nobody else can repeat a training.

Whoever knows all rows but one could otherwise train on each guess and compare the result with the
published adapter: by its digest, or by how close the weights are. A secret order alone would leave
weights that differ only by rounding. Where all rows fit into a batch, each step therefore leaves
out some of the queries, and two secrets move the weights further apart than one row does.

This is no differential privacy: a guess can still be tested statistically, as the membership audit
measures.
"""

from functools import partial
from random import Random

from adapterdistill.distill.batches import Choose, TrainingRows, draw_over_faqs

LEFT_OUT = 0.25
"""Share of the queries that a step leaves out where all rows would fit into its batch."""


def secret_choice(secret: str) -> Choose:
    """Choose the rows of each step by `secret`, as `choose_rows` does by a public seed."""
    return partial(_choose, secret)


def _choose(secret: str, rows: TrainingRows, *, batch_size: int, seed: int, step: int) -> list[int]:
    # Not torch's generator: on the CPU it uses 32 bits of its seed, which can be tried one by one.
    random = Random(f"{secret}|{seed}|{step}")
    number = len(rows.ids)

    def permutation(count: int) -> list[int]:
        return random.sample(range(count), count)

    if number > batch_size:
        return draw_over_faqs(rows, batch_size, permutation)
    first = {int(faq[0]) for faq in rows.rows_by_faq}
    others = [row for row in range(number) if row not in first]
    left_out = set(random.sample(others, round(LEFT_OUT * len(others))))
    if others and not left_out and random.random() < LEFT_OUT:
        left_out = {random.choice(others)}
    return [row for row in permutation(number) if row not in left_out]
