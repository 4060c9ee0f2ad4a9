"""CoDA in its post-LayerNorm form against float64 formulas, and every test of its specification."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from adapterdistill.adapters import BottleneckAdapter, ConditionalAdapter, Parallel, Routing
from adapterdistill.adapters.conditional import Conditional, choose
from adapterdistill.backbone import (
    Encoder,
    FrozenLayer,
    LayerRule,
    PackedTokens,
    load_encoder,
    pack,
)
from adapterdistill.errors import ConfigError
from tests.float64_reference import adapter_output, conditional_hidden, parallel_hidden
from tests.tiny_encoders import FAMILIES, random_adapter, random_rows, save_tiny_encoder

LENGTHS = [5, 2, 9, 5, 1, 9, 2, 5, 17, 30]
MODES = pytest.mark.parametrize("to_all", [False, True])


def conditional_of(encoder: Encoder, *, seed: int = 0, scale: float = 0.2) -> ConditionalAdapter:
    return ConditionalAdapter.new(random_adapter(encoder, seed=seed, scale=scale), seed=seed)


def silent(encoder: Encoder) -> ConditionalAdapter:
    """An adapter whose up-projection gives zero."""
    conditional = conditional_of(encoder)
    with torch.no_grad():
        conditional.adapter.up_weight.zero_()
        conditional.adapter.up_bias.zero_()
    return conditional


class Watching(LayerRule):
    """Keeps every layer's input and output."""

    def __init__(self, rule: LayerRule) -> None:
        self.rule, self.seen = rule, list[tuple[FrozenLayer, Tensor, Tensor]]()

    def run(self, layer: FrozenLayer, h: Tensor, tokens: PackedTokens) -> Tensor:
        out = self.rule.run(layer, h, tokens)
        self.seen.append((layer, h, out))
        return out


def test_the_parallel_adapter_equals_its_formula(tiny_encoder: Encoder, tiny_bert: object) -> None:
    adapter = random_adapter(tiny_encoder, seed=3, scale=0.2)
    rows = random_rows(LENGTHS)
    tokens = pack(rows)
    found = tiny_encoder.hidden(tokens, Parallel(adapter))
    for place, row in enumerate(rows):
        expected = parallel_hidden(tiny_bert, row, adapter_output(adapter))
        mine = found[tokens.row_of_token == place].double()
        torch.testing.assert_close(mine, expected, rtol=0, atol=2e-5)


@MODES
@pytest.mark.parametrize("speed", [2.0, 3.0, 5.0])
def test_the_conditional_layer_equals_its_formula_token_by_token(
    tiny_encoder: Encoder, tiny_bert: object, speed: float, to_all: bool
) -> None:
    conditional = conditional_of(tiny_encoder, seed=2)
    routing = Routing(speed, to_all=to_all, epsilon=0.5, exact=True)
    rows = random_rows([30, 7, 12, 7])
    tokens = pack(rows)
    with torch.no_grad():
        found = tiny_encoder.hidden(tokens, conditional.at(routing))
    for place, row in enumerate(rows):
        expected = conditional_hidden(
            tiny_bert,
            row,
            adapter_output(conditional.adapter),
            conditional.router.detach(),
            -(-len(row) // int(speed)),
            epsilon=0.5,
            to_all=to_all,
        )
        mine = found[tokens.row_of_token == place].double()
        torch.testing.assert_close(mine, expected, rtol=0, atol=5e-5)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The Hugging Face model of `tiny_encoder`: both are drawn from seed 0."""
    folder = save_tiny_encoder(tmp_path_factory.mktemp("tiny-bert"))
    return AutoModel.from_pretrained(folder).eval()


def test_all_tokens_chosen_is_the_dense_parallel_adapter_exactly(tiny_encoder: Encoder) -> None:
    conditional, tokens = conditional_of(tiny_encoder), pack(random_rows(LENGTHS))
    dense = tiny_encoder.hidden(tokens, Parallel(conditional.adapter))
    for routing in (Routing(1.0), Routing(1.0, to_all=True, exact=True)):
        assert torch.equal(tiny_encoder.hidden(tokens, conditional.at(routing)), dense)


@MODES
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_which_all_tokens_are_chosen_run_densely_in_every_family(
    family: str, to_all: bool, tmp_path: object
) -> None:
    """One token of one is all of them at any speed; also through gather and scatter."""
    encoder = load_encoder(str(save_tiny_encoder(tmp_path, family=family)))  # type: ignore[arg-type]
    conditional, tokens = conditional_of(encoder), pack(random_rows(LENGTHS))
    rule = Conditional(conditional, Routing(1.0, to_all=to_all))
    dense = encoder.hidden(tokens, Parallel(conditional.adapter))
    torch.testing.assert_close(encoder.hidden(tokens, rule), dense, rtol=0, atol=2e-5)


def test_a_zero_up_projection_with_all_tokens_is_the_frozen_encoder_exactly(
    tiny_encoder: Encoder,
) -> None:
    tokens = pack(random_rows(LENGTHS))
    found = tiny_encoder.hidden(tokens, silent(tiny_encoder).at(Routing(1.0)))
    assert torch.equal(found, tiny_encoder.hidden(tokens))


@MODES
def test_tokens_that_are_not_chosen_are_x_plus_the_adapter_exactly(
    tiny_encoder: Encoder, to_all: bool
) -> None:
    conditional, tokens = conditional_of(tiny_encoder), pack(random_rows(LENGTHS))
    routing = Routing(2.0, to_all=to_all)
    watching = Watching(conditional.at(routing))
    tiny_encoder.hidden(tokens, watching)
    assert len(watching.seen) == tiny_encoder.num_layers
    for layer, h, out in watching.seen:
        chosen, m = choose(conditional.scores(layer.index, h), tokens, routing)
        skipped = torch.ones(len(h), dtype=torch.bool)
        skipped[chosen.index] = False
        past = h + conditional.adapter(layer.index, h)
        assert torch.equal(out[skipped], past[skipped])
        assert bool((out[chosen.index] != past[chosen.index]).any(-1).all())
        assert bool((m > 0).all()) and bool((m <= 1 + 1e-6).all())
        for row, length in enumerate(LENGTHS):
            among = tokens.row_of_token[chosen.index] == row
            assert int(among.sum()) == -(-length // 2)


@MODES
def test_only_k_to_all_sees_the_tokens_that_are_not_chosen(
    tiny_encoder: Encoder, to_all: bool
) -> None:
    """Selection and m held."""
    conditional, tokens = conditional_of(tiny_encoder), pack(random_rows([12, 7]))
    rule = Conditional(conditional, Routing(2.0, to_all=to_all))
    watching = Watching(rule)
    tiny_encoder.hidden(tokens, watching)
    layer, h, _ = watching.seen[0]
    chosen, m = choose(conditional.scores(layer.index, h), tokens, Routing(2.0))
    changed = h + torch.randn(h.shape, generator=torch.Generator().manual_seed(1))
    changed[chosen.index] = h[chosen.index]
    before, after = (rule.with_choice(layer, x, tokens, chosen, m) for x in (h, changed))
    same = torch.equal(before[chosen.index], after[chosen.index])
    assert same != to_all


def test_the_frozen_layer_sees_the_chosen_tokens_alone(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens that are skipped cost nothing: the FFN's matrix products have k rows."""
    sizes: list[int] = []
    plain: Callable[..., Tensor] = FrozenLayer._after_attention

    def counted(layer: FrozenLayer, mixed: Tensor, h: Tensor) -> Tensor:
        sizes.append(len(h))
        return plain(layer, mixed, h)

    monkeypatch.setattr(FrozenLayer, "_after_attention", counted)
    tokens = pack(random_rows([30, 12]))
    tiny_encoder.hidden(tokens, conditional_of(tiny_encoder).at(Routing(3.0)))
    assert sizes == [10 + 4] * tiny_encoder.num_layers


@MODES
@pytest.mark.parametrize("exact", [False, True])
def test_a_row_does_not_depend_on_its_batch(
    tiny_encoder: Encoder, exact: bool, to_all: bool
) -> None:
    rows = random_rows(LENGTHS * 2)
    rule = conditional_of(tiny_encoder).at(Routing(2.5, to_all=to_all, exact=exact))
    together = tiny_encoder.embed_ids(rows, rule)
    alone = torch.cat([tiny_encoder.embed_ids([row], rule) for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=5e-6)


def test_equal_scores_choose_the_earlier_tokens_in_any_batch(tiny_encoder: Encoder) -> None:
    conditional = conditional_of(tiny_encoder)
    with torch.no_grad():
        conditional.router.zero_()
    for lengths in ([7], [7, 40]):
        tokens = pack(random_rows(lengths))
        chosen, m = choose(torch.zeros(sum(lengths)), tokens, Routing(2.0))
        assert chosen.index[:4].tolist() == [0, 1, 2, 3]
        torch.testing.assert_close(m[:4], torch.full((4,), 4 / 7))


def test_m_is_the_routers_only_path_to_a_gradient(tiny_encoder: Encoder) -> None:
    conditional, tokens = conditional_of(tiny_encoder), pack(random_rows(LENGTHS))
    conditional.adapter.requires_grad_(False)
    routing = Routing(2.0)

    class Detached(LayerRule):
        def run(self, layer: FrozenLayer, h: Tensor, tokens: PackedTokens) -> Tensor:
            chosen, m = choose(conditional.scores(layer.index, h), tokens, routing)
            rule = Conditional(conditional, routing)
            return rule.with_choice(layer, h, tokens, chosen, m.detach())

    target = torch.randn(len(LENGTHS), 32, generator=torch.Generator().manual_seed(5))
    (tiny_encoder.embed(tokens, conditional.at(routing)) * target).sum().backward()
    assert conditional.router.grad is not None
    assert bool((conditional.router.grad.abs().amax(1) > 1e-6).all())
    assert not tiny_encoder.embed(tokens, Detached()).requires_grad


def test_bfloat16_runs_as_float32_nearly(tiny_encoder_folder: object) -> None:
    half = load_encoder(str(tiny_encoder_folder), dtype="bfloat16")
    full = load_encoder(str(tiny_encoder_folder), dtype="float32")
    rows = random_rows(LENGTHS)
    dense = Parallel(random_adapter(full, seed=1, scale=0.1))
    rough, fine = (encoder.embed_ids(rows, dense) for encoder in (half, full))
    assert float((rough * fine).sum(-1).min()) > 0.99
    found = half.embed_ids(rows, conditional_of(half).at(Routing(2.0)))
    assert found.dtype == torch.float32 and bool(found.isfinite().all())


@pytest.mark.parametrize(
    ("length", "speed", "k"), [(1, 5.0, 1), (9, 3.0, 3), (10, 3.0, 4), (7, 1.5, 5)]
)
def test_k_is_the_length_over_the_speed_rounded_up(length: int, speed: float, k: int) -> None:
    assert Routing(speed).chosen_of(length) == k


def test_a_speed_below_1_would_choose_more_tokens_than_there_are_and_is_refused() -> None:
    for speed in (0.5, 0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"n / k: expected 1 \(all\) or more, got"):
            Routing(speed)
    for epsilon in (0.0, float("nan")):
        with pytest.raises(ConfigError, match="epsilon must be above 0, got"):
            Routing(2.0, epsilon=epsilon)


def test_a_router_of_another_shape_than_the_adapter_is_refused() -> None:
    adapter = BottleneckAdapter.new(2, 16, 4, seed=0)
    with pytest.raises(ValueError, match=r"shape \(2, 15\), expected \(2, 16\)"):
        ConditionalAdapter(adapter, torch.zeros(2, 15))


def test_a_new_router_scores_tokens_apart_and_its_adapter_is_a_copy(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    first, second = (ConditionalAdapter.new(adapter, seed=seed) for seed in (1, 2))
    assert not torch.equal(first.router, second.router)
    assert torch.equal(first.adapter.up_weight, adapter.up_weight)
    assert first.adapter.up_weight is not adapter.up_weight
    assert all(parameter.requires_grad for parameter in first.parameters())
