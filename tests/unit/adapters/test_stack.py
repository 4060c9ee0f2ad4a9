"""Adapters side by side equal each adapter alone."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from jaxtyping import TypeCheckError

from adapterdistill.adapters import AdapterStack, BottleneckAdapter
from adapterdistill.backbone import Encoder, pack
from tests.float64_reference import adapter_output
from tests.tiny_encoders import random_adapter, random_rows

SIZES = (3, 8, 1, 5)
LENGTHS = [5, 2, 9, 5, 1, 9, 2, 5, 5, 17]
SLOTS = [0, 3, -1, 2, 2, 1, 0, -1, 0, 3]
X = torch.randn(13, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def adapters(tiny_encoder: Encoder) -> list[BottleneckAdapter]:
    return [
        random_adapter(tiny_encoder, seed=n, bottleneck_size=size, scale=0.2)
        for n, size in enumerate(SIZES)
    ]


@pytest.fixture(scope="module")
def stack(adapters: list[BottleneckAdapter]) -> AdapterStack:
    return AdapterStack.of(adapters)


def test_narrow_bottlenecks_are_padded_with_units_that_are_exactly_silent(
    adapters: list[BottleneckAdapter], stack: AdapterStack
) -> None:
    assert stack.down.shape == (2, 4, 8, 32) and stack.num_adapters == 4
    for n, adapter in enumerate(adapters):
        size = adapter.bottleneck_size
        assert not stack.down[:, n, size:].any() and not stack.up[:, n, size:].any()
        for layer in range(2):
            units = stack.bottleneck(layer, X).unflatten(1, (4, 8))[:, n]
            assert not units[:, size:].any()
            alone = torch.relu(X @ adapter.down_weight[layer].T + adapter.down_bias[layer])
            torch.testing.assert_close(units[:, :size], alone, rtol=0, atol=1e-5)


def test_weighted_equals_the_weighted_sum_of_outputs(
    adapters: list[BottleneckAdapter], stack: AdapterStack
) -> None:
    weights = torch.rand(13, 4, generator=torch.Generator().manual_seed(1))
    outputs = torch.stack([adapter_output(a)(1, X.double()) for a in adapters], dim=1)
    expected = (weights.double()[:, :, None] * outputs).sum(1)
    found = stack.weighted(1, stack.bottleneck(1, X), weights)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("weights", [None, [0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.0]])
def test_mean_equals_the_mean_of_outputs(
    adapters: list[BottleneckAdapter], stack: AdapterStack, weights: list[float] | None
) -> None:
    share = torch.full((4,), 0.25) if weights is None else torch.tensor(weights)
    delta = stack.mean(None if weights is None else share)
    for layer in range(2):
        outputs = torch.stack([adapter_output(a)(layer, X.double()) for a in adapters])
        expected = (share.double()[:, None, None] * outputs).sum(0)
        torch.testing.assert_close(delta(layer, X).double(), expected, rtol=0, atol=2e-5)


def test_mixed_batch_equals_each_adapter_alone(
    tiny_encoder: Encoder, adapters: list[BottleneckAdapter], stack: AdapterStack
) -> None:
    rows = random_rows(LENGTHS)
    tokens = pack(rows)
    found = tiny_encoder.hidden(tokens, stack.mixed(torch.tensor(SLOTS), tokens))
    for index, (row, slot) in enumerate(zip(rows, SLOTS, strict=True)):
        alone = pack([row])
        expected = tiny_encoder.hidden(alone, adapters[slot] if slot >= 0 else None)
        torch.testing.assert_close(found[tokens.row_of_token == index], expected, rtol=0, atol=1e-5)


def test_threads_with_batches_of_their_own_do_not_meet(
    tiny_encoder: Encoder, adapters: list[BottleneckAdapter], stack: AdapterStack
) -> None:
    rows = random_rows(LENGTHS)
    alone = {
        (row, slot): tiny_encoder.embed_ids([rows[row]], adapters[slot])[0]
        for row in range(len(rows))
        for slot in range(len(adapters))
    }

    def worst(seed: int) -> float:
        """The largest difference of 40 batches, each of other rows and other adapters."""
        draw, found = random.Random(seed), 0.0
        for _ in range(40):
            asked = [(draw.randrange(len(rows)), draw.randrange(4)) for _ in range(7)]
            tokens = pack([rows[row] for row, _ in asked])
            delta = stack.mixed(torch.tensor([slot for _, slot in asked]), tokens)
            expected = torch.stack([alone[one] for one in asked])
            with torch.inference_mode():
                apart = (tiny_encoder.embed(tokens, delta) - expected).abs().max()
            found = max(found, float(apart))
        return found

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(worst, range(4))) < 1e-5


def test_rows_without_an_adapter_are_the_backbone_s(
    tiny_encoder: Encoder, stack: AdapterStack
) -> None:
    tokens = pack(random_rows(LENGTHS))
    none = stack.mixed(torch.full((10,), -1), tokens)
    assert torch.equal(tiny_encoder.hidden(tokens, none), tiny_encoder.hidden(tokens))


def test_a_row_without_an_adapter_is_the_backbone_s_to_the_bit_beside_rows_with_one(
    tiny_encoder: Encoder, stack: AdapterStack
) -> None:
    tokens = pack(random_rows(LENGTHS))
    found = tiny_encoder.embed(tokens, stack.mixed(torch.tensor(SLOTS), tokens))
    bare = tiny_encoder.embed(tokens)
    without = [row for row, slot in enumerate(SLOTS) if slot < 0]
    assert torch.equal(found[without], bare[without])
    others = [row for row, slot in enumerate(SLOTS) if slot >= 0]
    assert (found[others] - bare[others]).abs().amax(1).min() > 1e-4


def test_adding_a_tenant_changes_no_output_of_the_others(
    tiny_encoder: Encoder, adapters: list[BottleneckAdapter]
) -> None:
    """methods.md, section 1, test 7; the newcomer is no wider, so shapes stay."""
    tokens = pack(random_rows(LENGTHS))
    slots = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    outputs = []
    for tenants in (adapters[:3], adapters):
        stack = AdapterStack.of(tenants)
        outputs.append(tiny_encoder.embed(tokens, stack.mixed(slots, tokens)))
    assert torch.equal(*outputs)


def test_a_stack_copies_its_adapters(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    stack = AdapterStack.of([adapter])
    before = stack.up.clone()
    adapter.up_weight.zero_()
    assert torch.equal(stack.up, before)
    assert not any(t.requires_grad for t in (stack.down, stack.down_bias, stack.up, stack.up_bias))


def test_adapters_of_unlike_encoders_do_not_stack(tiny_encoder: Encoder) -> None:
    other = BottleneckAdapter.new(2, 16, 4, seed=0)
    with pytest.raises(ValueError, match=r"\(2, 16\), \(2, 32\)"):
        AdapterStack.of([random_adapter(tiny_encoder, seed=1), other])
    with pytest.raises(ValueError, match="one shape, got"):
        AdapterStack.of([])


def test_shapes_are_checked_at_run_time(stack: AdapterStack) -> None:
    with pytest.raises(TypeCheckError):
        stack.bottleneck(0, torch.zeros(32))
    with pytest.raises(TypeCheckError):
        AdapterStack(stack.down, stack.down_bias, stack.up[:, :2], stack.up_bias)
