"""One adapter: placement in the layer, the published formula, near identity."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor
from transformers import AutoModel

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, pack
from tests.float64_reference import adapter_output, bert_hidden
from tests.tiny_encoders import random_adapter, random_rows


def test_an_adapter_in_every_layer_equals_a_float64_reference(
    tiny_encoder: Encoder, tiny_encoder_folder: Path
) -> None:
    model = AutoModel.from_pretrained(tiny_encoder_folder)
    adapter = random_adapter(tiny_encoder, seed=1, scale=0.2)
    rows = random_rows([9, 1, 30, 9])
    tokens = pack(rows)
    found = tiny_encoder.hidden(tokens, adapter)
    for index, row in enumerate(rows):
        expected = bert_hidden(model, row, adapter_output(adapter))
        moved = (expected - bert_hidden(model, row)).abs().max()
        assert moved > 0.1
        torch.testing.assert_close(
            found[tokens.row_of_token == index].double(), expected.detach(), rtol=0, atol=1e-5
        )


def test_output_is_up_of_relu_of_down_without_residual() -> None:
    """Values by hand: D x + b is 0.1 for the first token, -0.4 (so relu gives 0) for the second."""
    adapter = BottleneckAdapter(
        down_weight=torch.tensor([[[0.5, -0.25]]]),
        down_bias=torch.tensor([[0.1]]),
        up_weight=torch.tensor([[[2.0], [-1.0]]]),
        up_bias=torch.tensor([[0.3, 0.4]]),
    )
    found = adapter(0, torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.3], [0.3, 0.4]]))


def test_each_layer_has_its_own_weights(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=2)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    for layer in range(2):
        expected = adapter_output(adapter)(layer, x.double())
        torch.testing.assert_close(adapter(layer, x).double(), expected, rtol=0, atol=1e-5)


def test_a_new_adapter_is_near_identity_and_the_seed_s_own(minilm: Encoder) -> None:
    def new(seed: int) -> BottleneckAdapter:
        return BottleneckAdapter.new(6, 384, 24, seed=seed)

    rows = minilm.tokenize(["Where is my parcel?", "hi"])
    bare, adapted = (minilm.embed_ids(rows, delta) for delta in (None, new(0)))
    assert 0 < float((bare - adapted).norm(dim=-1).max()) < 0.1
    assert torch.equal(new(0).down_weight, new(0).down_weight)
    assert not torch.equal(new(0).down_weight, new(1).down_weight)
    assert abs(float(new(0).up_weight.detach().std()) - 0.02) < 0.001
    assert not new(0).down_bias.any() and not new(0).up_bias.any()


def test_a_zero_up_projection_gives_the_backbone(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=3)
    adapter.up_weight.zero_()
    adapter.up_bias.zero_()
    tokens = pack(random_rows([4, 11, 4]))
    assert torch.equal(tiny_encoder.hidden(tokens, adapter), tiny_encoder.hidden(tokens))


def test_output_comes_in_the_dtype_of_the_input(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=4)
    assert adapter(0, torch.ones(2, 32, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert adapter.down_weight.dtype == torch.float32


def test_a_copy_shares_nothing_and_trains(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=5)
    twin = adapter.copy()
    with torch.no_grad():
        for parameter in twin.parameters():
            assert parameter.requires_grad
            parameter.add_(1.0)
    for own, other in zip(adapter.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own + 1.0, other.detach())


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3, 8), (2, 4), (2, 8, 3), (2, 8)),
        ((2, 3, 8), (2, 3), (2, 3, 8), (2, 8)),
        ((2, 3, 8), (2, 3), (2, 8, 3), (1, 8)),
        ((3, 8), (2, 3), (2, 8, 3), (2, 8)),
        ((2, 0, 8), (2, 0), (2, 8, 0), (2, 8)),
        ((0, 3, 8), (0, 3), (0, 8, 3), (0, 8)),
    ],
)
def test_tensors_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        BottleneckAdapter(*(torch.zeros(shape) for shape in shapes))


def test_shapes_are_checked_at_run_time(tiny_encoder: Encoder) -> None:
    """Proof that the suite runs with jaxtyping's checks on."""
    adapter = random_adapter(tiny_encoder, seed=6)
    wrong: list[Callable[[], Tensor]] = [
        lambda: adapter(0, torch.zeros(32)),
        lambda: adapter(0, torch.zeros(1, 2, 32)),
        lambda: adapter(0, torch.zeros(2, 32, dtype=torch.int64)),
    ]
    for call in wrong:
        with pytest.raises(TypeCheckError):
            call()
