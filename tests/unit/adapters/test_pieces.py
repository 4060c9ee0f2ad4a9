"""Pieces hold every token once, beside tokens of its own adapter only, and little else."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adapterdistill.adapters.pieces import WEIGHTS_COST_TOKENS, Pieces, cut
from adapterdistill.backbone import pack
from tests.tiny_encoders import random_rows

ROWS = st.lists(st.tuples(st.integers(-1, 5), st.integers(1, 40)), min_size=1, max_size=20)


def cut_rows(slots: list[int], lengths: list[int]) -> Pieces:
    return cut(torch.tensor(slots), pack(random_rows(lengths)))


def work(pieces: Pieces) -> int:
    return len(pieces.slots) * (pieces.length + WEIGHTS_COST_TOKENS)


@given(ROWS)
def test_every_token_has_a_place_of_its_own_in_a_piece_of_its_adapter(
    rows: list[tuple[int, int]],
) -> None:
    slots, lengths = (list(part) for part in zip(*rows, strict=True))
    tokens = pack(random_rows(lengths))
    pieces = cut(torch.tensor(slots), tokens)
    places = pieces.place_of
    assert len(places.unique()) == len(places) == sum(lengths)
    of_token = torch.tensor(slots)[tokens.row_of_token]
    assert torch.equal(pieces.slots[places // pieces.length], of_token)
    x = torch.arange(4.0 * len(places)).view(-1, 4)
    assert torch.equal(pieces.scatter(pieces.gather(x)), x)
    assert len(pieces.slots) * pieces.length == len(pieces.token_at)


def test_one_adapter_is_one_piece() -> None:
    pieces = cut_rows([3] * 8, [5, 9, 2, 7, 7, 30, 1, 4])
    assert pieces.slots.tolist() == [3] and pieces.length == 68


def test_shapes_are_few_whatever_the_traffic() -> None:
    draw = random.Random(0)
    shapes = set()
    for _ in range(1000):
        rows = [(draw.randrange(600), draw.randint(3, 30)) for _ in range(draw.randint(1, 64))]
        slots, lengths = (list(part) for part in zip(*rows, strict=True))
        pieces = cut_rows(slots, lengths)
        shapes.add((len(pieces.slots), pieces.length))
    assert len(shapes) < 300


@pytest.mark.parametrize("longest", [12, 60, 128])
def test_a_long_row_among_short_ones_does_not_fill_up_the_others(longest: int) -> None:
    lengths = [8, 9, 10, 11] * 8 + [longest]
    pieces = cut_rows(list(range(33)), lengths)
    least = sum(lengths) + 33 * WEIGHTS_COST_TOKENS
    assert work(pieces) < 1.5 * least
