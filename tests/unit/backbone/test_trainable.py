"""Trainable copies of an encoder, and smaller encoders cut out of it."""

import pytest
import torch

from adapterdistill.backbone import Encoder, pack
from adapterdistill.backbone.trainable import TrainableEncoder, smaller
from adapterdistill.errors import ConfigError
from tests.tiny_encoders import random_rows

TOKENS = pack(random_rows([5, 3, 9]))


def test_an_untrained_copy_gives_what_the_encoder_gives(tiny_encoder: Encoder) -> None:
    for train_words in (True, False):
        copy = TrainableEncoder(tiny_encoder, train_words=train_words)
        assert torch.equal(copy.cast().embed(TOKENS), tiny_encoder.embed(TOKENS))


def test_gradients_reach_every_weight_of_the_copy_and_none_of_the_encoder(
    tiny_encoder: Encoder,
) -> None:
    copy = TrainableEncoder(tiny_encoder, train_words=False)
    copy.cast().hidden(TOKENS).square().sum().backward()
    assert all(part.grad is not None for part in copy.parts)
    assert not tiny_encoder.weights.layers[0].up_weight.requires_grad
    with_words = TrainableEncoder(tiny_encoder)
    assert len(list(with_words.parameters())) == len(list(copy.parameters())) + 1


def test_a_full_width_encoder_of_all_layers_is_the_encoder(tiny_encoder: Encoder) -> None:
    whole = smaller(tiny_encoder, num_layers=2, width=32)
    assert torch.equal(whole.hidden(TOKENS), tiny_encoder.hidden(TOKENS))


def test_a_full_width_encoder_of_one_layer_is_the_encoders_first(tiny_encoder: Encoder) -> None:
    seen = []

    def stop(layer: int, x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    tiny_encoder.hidden(TOKENS, stop)
    first = smaller(tiny_encoder, num_layers=1, width=32)
    torch.testing.assert_close(first.hidden(TOKENS), seen[0])


def test_a_narrow_encoder_is_cut_from_the_encoders_weights(tiny_encoder: Encoder) -> None:
    narrow = smaller(tiny_encoder, num_layers=2, width=16)
    assert narrow.hidden(TOKENS).shape == (17, 16)
    assert (narrow.hidden_size, narrow.weights.num_heads, narrow.num_layers) == (16, 2, 2)
    spread = tiny_encoder.weights.words.var(0) * tiny_encoder.weights.embedding_norm_weight**2
    units = sorted(sorted(range(32), key=lambda unit: -float(spread[unit]))[:16])
    assert torch.equal(narrow.weights.words, tiny_encoder.weights.words[:, units])
    layer, cut = tiny_encoder.weights.layers[1], narrow.weights.layers[1]
    assert cut.up_weight.shape == (32, 16)
    # Keys of the first two heads of four: rows 32 to 47 of queries, keys and values.
    assert torch.equal(cut.qkv_weight[16:32], layer.qkv_weight[32:48][:, units])


@pytest.mark.parametrize(
    ("num_layers", "width", "message"),
    [
        (3, 32, "a student of 3 layers: its teacher has 2; take 1 to 2"),
        (0, 32, "a student of 0 layers"),
        (1, 40, "a student 40 units wide: take a multiple of 8 .* up to its teacher's 32"),
        (1, 12, "a student 12 units wide"),
    ],
)
def test_a_student_deeper_or_wider_than_its_teacher_is_refused(
    tiny_encoder: Encoder, num_layers: int, width: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        smaller(tiny_encoder, num_layers=num_layers, width=width)
