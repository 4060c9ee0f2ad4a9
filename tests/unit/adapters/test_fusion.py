"""Factored fusion against AdapterFusion's formula, and the laws of methods.md, section 2."""

import pytest
import torch
from torch import Tensor

from adapterdistill.adapters import AdapterStack, BottleneckAdapter, Fusion
from adapterdistill.backbone import Encoder
from tests.float64_reference import adapter_output, fused_output
from tests.tiny_encoders import random_adapter

SIZES = (3, 8, 1, 5)
NAMES = ("query_weight", "query_bias", "key_weight", "value_weight")
X = torch.randn(13, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def adapters(tiny_encoder: Encoder) -> list[BottleneckAdapter]:
    return [
        random_adapter(tiny_encoder, seed=n, bottleneck_size=size, scale=0.2)
        for n, size in enumerate(SIZES)
    ]


def random_fusion(*, seed: int = 0, scale: float = 0.08) -> Fusion:
    fusion = Fusion.new(2, 32, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return fusion


def identity_values(fusion: Fusion) -> Fusion:
    with torch.no_grad():
        fusion.value_weight.copy_(torch.eye(32).expand(2, 32, 32))
    return fusion


def plain(
    fusion: Fusion, adapters: list[BottleneckAdapter], layer: int, x: Tensor
) -> tuple[Tensor, Tensor]:
    outputs = torch.stack([adapter_output(a)(layer, x) for a in adapters], dim=1)
    return fused_output(x, outputs, *(getattr(fusion, name)[layer].double() for name in NAMES))


@pytest.mark.parametrize("layer", [0, 1])
def test_factored_fusion_equals_the_plain_formula_outputs_and_gradients(
    adapters: list[BottleneckAdapter], layer: int
) -> None:
    fusion, stack = random_fusion(), AdapterStack.of(adapters)
    towards = torch.randn(13, 32, generator=torch.Generator().manual_seed(2)) / 13
    wanted = [getattr(fusion, name) for name in NAMES]

    x = X.clone().requires_grad_()
    found = fusion(layer, x, stack)
    found_gradients = torch.autograd.grad((found * towards).sum(), [x, *wanted])

    x64 = X.double().requires_grad_()
    expected, weights = plain(fusion, adapters, layer, x64)
    expected_gradients = torch.autograd.grad((expected * towards).sum(), [x64, *wanted])

    peak = weights.detach().max(1).values
    assert 0.4 < float(peak.mean()) < 0.99  # neither even nor one-hot
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    for name, one, other in zip(("x", *NAMES), found_gradients, expected_gradients, strict=True):
        assert float(other.abs().max()) > 1e-3, name
        torch.testing.assert_close(
            one.double(), other.double(), rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_attention_weights_equal_the_plain_formula_s_and_sum_to_one(
    adapters: list[BottleneckAdapter],
) -> None:
    fusion = random_fusion()
    weights = fusion.attention(0, X, AdapterStack.of(adapters))
    _, expected = plain(fusion, adapters, 0, X.double())
    torch.testing.assert_close(weights.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(weights.sum(1), torch.ones(13))


def test_one_adapter_with_new_values_equals_that_adapter(
    adapters: list[BottleneckAdapter],
) -> None:
    """V is the identity plus 1e-6 elsewhere, so that the outputs differ by at most 1e-6 |u|_1."""
    fusion = Fusion.new(2, 32, seed=0)
    u = adapters[1](0, X)
    found = fusion(0, X, AdapterStack.of([adapters[1]]))
    allowed = 1.01e-6 * u.abs().sum(1, keepdim=True) + 2e-6  # and float32's own rounding
    assert bool(((found - u).abs() <= allowed).all())
    exact = identity_values(fusion)(0, X, AdapterStack.of([adapters[1]]))
    torch.testing.assert_close(exact, u, rtol=0, atol=2e-6)


def test_identical_adapters_equal_one_for_any_query_and_key(
    adapters: list[BottleneckAdapter],
) -> None:
    fusion = identity_values(random_fusion(scale=0.5))
    found = fusion(1, X, AdapterStack.of([adapters[1]] * 3))
    torch.testing.assert_close(found, adapters[1](1, X), rtol=0, atol=5e-6)


def test_zero_queries_and_keys_give_the_mean(adapters: list[BottleneckAdapter]) -> None:
    stack, fusion = AdapterStack.of(adapters), identity_values(random_fusion())
    with torch.no_grad():
        fusion.query_weight.zero_()
        fusion.query_bias.zero_()
        fusion.key_weight.zero_()
    torch.testing.assert_close(fusion(0, X, stack), stack.mean()(0, X), rtol=0, atol=5e-6)


def test_a_new_fusion_is_near_the_mean(adapters: list[BottleneckAdapter]) -> None:
    stack = AdapterStack.of(adapters)
    mean = stack.mean()(0, X)
    apart = (Fusion.new(2, 32, seed=1)(0, X, stack).detach() - mean).norm() / mean.norm()
    assert 0 < float(apart) < 0.15


def test_the_order_of_adapters_is_irrelevant(adapters: list[BottleneckAdapter]) -> None:
    """methods.md, section 1, test 5."""
    fusion = random_fusion()
    order = [2, 0, 3, 1]
    one, other = AdapterStack.of(adapters), AdapterStack.of([adapters[n] for n in order])
    torch.testing.assert_close(fusion(0, X, one), fusion(0, X, other), rtol=0, atol=5e-6)
    weights, permuted = fusion.attention(0, X, one), fusion.attention(0, X, other)
    torch.testing.assert_close(weights[:, order], permuted, rtol=0, atol=1e-6)


def test_a_bias_on_keys_drops_out(adapters: list[BottleneckAdapter]) -> None:
    """Why there is none: in the plain formula it changes neither weights nor output."""
    fusion, x = random_fusion(), X.double()
    outputs = torch.stack([adapter_output(a)(0, x) for a in adapters], dim=1)
    bias = torch.randn(32, generator=torch.Generator().manual_seed(5)).double()
    asked = x @ fusion.query_weight[0].double().T + fusion.query_bias[0].double()
    keys = outputs @ fusion.key_weight[0].double().T + bias
    biased = torch.softmax((asked[:, None] * keys).sum(-1), -1)
    found = fusion.attention(0, X, AdapterStack.of(adapters))
    torch.testing.assert_close(found.double(), biased, rtol=0, atol=1e-5)


def test_only_queries_keys_and_values_get_gradients(adapters: list[BottleneckAdapter]) -> None:
    trainable = [adapter.copy() for adapter in adapters]
    fusion = random_fusion()
    fusion(0, X, AdapterStack.of(trainable)).square().sum().backward()
    for name in NAMES:
        gradient = getattr(fusion, name).grad
        assert gradient[0].any() and not gradient[1].any(), name
    assert {name for name, _ in fusion.named_parameters()} == set(NAMES)
    assert all(p.grad is None for adapter in trainable for p in adapter.parameters())


@torch.no_grad()
def test_the_regulariser_is_the_squared_distance_of_values_from_identity() -> None:
    fusion = random_fusion()
    expected = sum(
        float((value.double() - torch.eye(32)).pow(2).sum()) for value in fusion.value_weight
    )
    assert float(fusion.value_regulariser()) == pytest.approx(expected, rel=1e-5)
    assert float(identity_values(fusion).value_regulariser()) == 0.0
    assert float(Fusion.new(2, 32, seed=0).value_regulariser()) < 1e-8
