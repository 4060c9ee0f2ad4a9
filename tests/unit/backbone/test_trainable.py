"""Trainable copies of an encoder, and thinner encoders cut out of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder, load_encoder, pack
from adapterdistill.backbone.trainable import TrainableEncoder, thinner
from adapterdistill.errors import ConfigError
from tests.tiny_encoders import random_rows, save_tiny_encoder

TOKENS = pack(random_rows([5, 3, 9]))


def test_an_untrained_copy_gives_what_the_encoder_gives(tiny_encoder: Encoder) -> None:
    for frozen in ((), {"words"}, {"words", "positions"}):
        copy = TrainableEncoder(tiny_encoder, frozen=frozen)
        assert torch.equal(copy.cast().embed(TOKENS), tiny_encoder.embed(TOKENS))


def test_gradients_reach_every_weight_of_the_copy_and_none_of_the_encoder(
    tiny_encoder: Encoder,
) -> None:
    copy = TrainableEncoder(tiny_encoder, frozen={"words"})
    copy.cast().hidden(TOKENS).square().sum().backward()
    assert all(part.grad is not None for part in copy.parts)
    assert not tiny_encoder.weights.layers[0].up_weight.requires_grad
    with_words = TrainableEncoder(tiny_encoder)
    assert len(list(with_words.parameters())) == len(list(copy.parameters())) + 1


def test_an_encoder_of_all_layers_and_heads_is_the_encoder(tiny_encoder: Encoder) -> None:
    whole = thinner(tiny_encoder, num_layers=2, num_heads=4)
    assert torch.equal(whole.hidden(TOKENS), tiny_encoder.hidden(TOKENS))


def test_an_encoder_of_one_layer_is_the_encoders_first(tiny_encoder: Encoder) -> None:
    seen = []

    def stop(layer: int, x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    tiny_encoder.hidden(TOKENS, stop)
    first = thinner(tiny_encoder, num_layers=1, num_heads=4)
    torch.testing.assert_close(first.hidden(TOKENS), seen[0])


def test_what_is_cut_away_is_as_if_it_gave_nothing(tiny_encoder: Encoder) -> None:
    """The thin encoder equals the whole one whose other heads and FFN units write zeros."""
    weights = tiny_encoder.weights
    thin = thinner(tiny_encoder, num_layers=2, num_heads=2)
    silenced = []
    for layer in weights.layers:
        per_head = [
            float(layer.qkv_weight[64 + 8 * h : 72 + 8 * h].norm())
            * float(layer.attention_weight[:, 8 * h : 8 * h + 8].norm())
            for h in range(4)
        ]
        per_unit = [
            float(layer.up_weight[u].norm()) * float(layer.down_weight[:, u].norm())
            for u in range(64)
        ]
        attention, down = layer.attention_weight.clone(), layer.down_weight.clone()
        for h in sorted(range(4), key=per_head.__getitem__)[:2]:
            attention[:, 8 * h : 8 * h + 8] = 0
        down[:, sorted(range(64), key=per_unit.__getitem__)[:32]] = 0
        silenced.append(replace(layer, attention_weight=attention, down_weight=down))
    expected = tiny_encoder.with_weights(replace(weights, layers=tuple(silenced)))
    torch.testing.assert_close(thin.hidden(TOKENS), expected.hidden(TOKENS))
    assert thin.weights.layers[0].up_weight.shape == (32, 32)


@pytest.mark.parametrize(
    ("num_layers", "num_heads", "message"),
    [
        (3, 4, "a student of 3 layers: its teacher has 2; take 1 to 2"),
        (0, 4, "a student of 0 layers"),
        (1, 5, "a student of 5 attention heads: its teacher has 4"),
        (1, 0, "a student of 0 attention heads"),
    ],
)
def test_a_student_deeper_or_wider_than_its_teacher_is_refused(
    tiny_encoder: Encoder, num_layers: int, num_heads: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        thinner(tiny_encoder, num_layers=num_layers, num_heads=num_heads)


def test_heads_that_share_a_position_bias_are_kept(tmp_path: Path) -> None:
    mpnet = load_encoder(str(save_tiny_encoder(tmp_path, family="mpnet")), dtype="float32")
    assert thinner(mpnet, num_layers=1, num_heads=4).num_layers == 1
    with pytest.raises(ConfigError, match="needs all 4 heads"):
        thinner(mpnet, num_layers=1, num_heads=2)
