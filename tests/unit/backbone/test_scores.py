"""Attention scores of packed rows against the plain formula in float64."""

import math
from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import load_encoder, pack
from adapterdistill.backbone.layer import FrozenLayer
from adapterdistill.backbone.packed import attention_scores
from adapterdistill.backbone.positions import table_bias
from tests.tiny_encoders import random_rows, save_tiny_encoder

HEADS, WIDTH = 4, 32


def plain(own: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The mean over heads of q k^T / sqrt(head size) of one row, flat, head by head."""
    q, k = own.double().chunk(2, -1)
    scores = [
        a @ b.T / math.sqrt(WIDTH // HEADS) + (0 if bias is None else bias[head])
        for head, (a, b) in enumerate(zip(q.chunk(HEADS, -1), k.chunk(HEADS, -1), strict=True))
    ]
    return torch.stack(scores).mean(0).flatten()


@pytest.mark.parametrize("biased", [False, True])
def test_scores_are_the_plain_formula_row_by_row(biased: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = pack(random_rows([5, 2, 3, 5]))
    found = torch.randn(15, 2 * WIDTH, generator=generator)
    bias = torch.randn(HEADS, 9, 9, generator=generator).double() if biased else None
    added = None if bias is None else table_bias(bias.float())
    scores = attention_scores(found, tokens, HEADS, added)
    in_layout = found.split([2, 3, 5, 5])
    expected = [
        plain(row, None if bias is None else bias[:, : len(row), : len(row)]) for row in in_layout
    ]
    assert scores.double() == pytest.approx(torch.cat(expected), abs=1e-5)


def test_a_layer_s_scores_are_those_that_its_attention_uses(tmp_path: Path) -> None:
    """Every row's scores are the same alone and beside longer rows."""
    encoder = load_encoder(str(save_tiny_encoder(tmp_path, family="mpnet")), dtype="float32")
    layer = FrozenLayer(1, encoder.weights)
    states = [torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(n)) for n in (3, 6)]
    rows = random_rows([6, 3])
    together = layer.scores(torch.cat(states), pack(rows))
    alone = [layer.scores(h, pack(random_rows([len(h)]))) for h in states]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    w = encoder.weights.layers[1]
    projected = states[0] @ w.qkv_weight[: 2 * WIDTH].T + w.qkv_bias[: 2 * WIDTH]
    assert encoder.weights.relative_bias is not None
    expected = plain(projected, encoder.weights.relative_bias[:, :3, :3].double())
    assert alone[0].double() == pytest.approx(expected, abs=1e-4)
