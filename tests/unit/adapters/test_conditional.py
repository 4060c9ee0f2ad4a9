"""CoDA in its post-LayerNorm form against float64 formulas, and every test of its specification."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import AutoModel

from adapterdistill.adapters import BottleneckAdapter, ConditionalAdapter, Parallel, Routing
from adapterdistill.adapters.conditional import Conditional, Passage, choose
from adapterdistill.backbone import (
    Encoder,
    FrozenLayer,
    Head,
    LayerRule,
    PackedTokens,
    load_encoder,
    pack,
)
from adapterdistill.errors import ConfigError
from tests.float64_reference import adapter_output, conditional_embedding, parallel_hidden
from tests.tiny_encoders import FAMILIES, random_adapter, random_rows, save_tiny_encoder

LENGTHS = [5, 2, 9, 5, 1, 9, 2, 5, 17, 30]
MODES = pytest.mark.parametrize("to_all", [False, True])
PLACES = pytest.mark.parametrize("parallel", [False, True])


def conditional_of(
    encoder: Encoder, *, seed: int = 0, scale: float = 0.2, parallel: bool = False
) -> ConditionalAdapter:
    conditional = ConditionalAdapter.new(
        random_adapter(encoder, seed=seed, scale=scale),
        skipping_size=3,
        seed=seed,
        parallel=parallel,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in conditional.skipping.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
        conditional.router.mul_(3)
    return conditional


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The Hugging Face model of `tiny_encoder`: both are drawn from seed 0."""
    folder = save_tiny_encoder(tmp_path_factory.mktemp("tiny-bert"))
    return AutoModel.from_pretrained(folder).eval()


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
@PLACES
@pytest.mark.parametrize("speed", [2.0, 3.0, 5.0])
def test_the_embedding_equals_its_formula_token_by_token(
    tiny_encoder: Encoder, tiny_bert: object, speed: float, parallel: bool, to_all: bool
) -> None:
    conditional = conditional_of(tiny_encoder, seed=2, parallel=parallel)
    routing = Routing(speed, least=3, to_all=to_all)
    rows = random_rows([30, 7, 12, 7])
    rows[0][5:8] = rows[0][1:4]  # repeated tokens come last
    found = tiny_encoder.embed_ids(rows, conditional.at(routing))
    for mine, row in zip(found, rows, strict=True):
        expected = conditional_embedding(
            tiny_bert,
            row,
            adapter_output(conditional.adapter),
            adapter_output(conditional.skipping),
            conditional.router.detach(),
            routing.chosen_of(len(row)),
            parallel=parallel,
            to_all=to_all,
        )
        torch.testing.assert_close(mine.double(), expected, rtol=0, atol=5e-5)


@PLACES
def test_all_tokens_chosen_is_the_dense_adapter_exactly(
    tiny_encoder: Encoder, parallel: bool
) -> None:
    conditional = conditional_of(tiny_encoder, parallel=parallel)
    tokens, adapter = pack(random_rows(LENGTHS)), conditional.adapter
    dense = tiny_encoder.embed(tokens, Parallel(adapter) if parallel else adapter)
    for routing in (Routing(1.0, least=3), Routing(1.0, least=3, to_all=False, exact=False)):
        assert torch.equal(tiny_encoder.embed(tokens, conditional.at(routing)), dense)


@MODES
@pytest.mark.parametrize("family", FAMILIES)
def test_through_gather_and_scatter_all_tokens_are_the_dense_adapter_in_every_family(
    family: str, to_all: bool, tmp_path: object
) -> None:
    encoder = load_encoder(str(save_tiny_encoder(tmp_path, family=family)))  # type: ignore[arg-type]
    conditional, tokens = conditional_of(encoder), pack(random_rows(LENGTHS))
    rule = Conditional(conditional, Routing(1.0, least=3, to_all=to_all))
    dense = encoder.embed(tokens, conditional.adapter)
    torch.testing.assert_close(encoder.embed(tokens, rule), dense, rtol=0, atol=2e-5)


@PLACES
def test_a_zero_up_projection_with_all_tokens_is_the_frozen_encoder_exactly(
    tiny_encoder: Encoder, parallel: bool
) -> None:
    conditional, tokens = (
        conditional_of(tiny_encoder, parallel=parallel),
        pack(random_rows(LENGTHS)),
    )
    with torch.no_grad():
        conditional.adapter.up_weight.zero_()
        conditional.adapter.up_bias.zero_()
    found = tiny_encoder.embed(tokens, conditional.at(Routing(1.0, least=3)))
    assert torch.equal(found, tiny_encoder.embed(tokens))


class Watching(LayerRule):
    """Keeps the rule of its batch, and every layer's input and output."""

    def __init__(self, rule: LayerRule) -> None:
        self.rule, self.seen = rule, list[tuple[FrozenLayer, Tensor, Tensor]]()

    def started(self, h: Tensor, tokens: PackedTokens) -> "Watching":
        self.rule = self.rule.started(h, tokens)
        return self

    def finish(self, layer: FrozenLayer, residual: Tensor, h: Tensor) -> Tensor:
        return self.rule.finish(layer, residual, h)

    def run(self, layer: FrozenLayer, h: Tensor, tokens: PackedTokens) -> Tensor:
        out = self.rule.run(layer, h, tokens)
        self.seen.append((layer, h, out))
        return out


@MODES
def test_tokens_that_are_not_chosen_are_x_plus_their_adapter_exactly(
    tiny_encoder: Encoder, to_all: bool
) -> None:
    conditional, tokens = conditional_of(tiny_encoder), pack(random_rows(LENGTHS))
    watching = Watching(conditional.at(Routing(2.0, least=3, to_all=to_all)))
    with torch.no_grad():
        tiny_encoder.hidden(tokens, watching)
    assert len(watching.seen) == tiny_encoder.num_layers
    passage = watching.rule
    assert isinstance(passage, Passage)
    skipped = torch.ones(len(tokens.position), dtype=torch.bool)
    skipped[passage.chosen.index] = False
    for layer, h, out in watching.seen:
        # Nothing reads them again in k-to-k.
        past = h + conditional.skipping(layer.index, h) if to_all else h
        assert torch.equal(out[skipped], past[skipped])
        assert bool((out[~skipped] != past[~skipped]).any(-1).all())
    for row, length in enumerate(LENGTHS):
        among = tokens.row_of_token[passage.chosen.index] == row
        assert int(among.sum()) == Routing(2.0, least=3).chosen_of(length)


@MODES
def test_only_k_to_all_sees_the_tokens_that_are_not_chosen(
    tiny_encoder: Encoder, to_all: bool
) -> None:
    """Selection and m held."""
    conditional, tokens = conditional_of(tiny_encoder), pack(random_rows([12, 7]))
    watching = Watching(conditional.at(Routing(2.0, least=3, to_all=to_all)))
    tiny_encoder.hidden(tokens, watching)
    passage, (layer, h, _) = watching.rule, watching.seen[0]
    assert isinstance(passage, Passage)
    index = passage.chosen.index
    changed = h + torch.randn(h.shape, generator=torch.Generator().manual_seed(1))
    changed[index] = h[index]
    before, after = (passage.run(layer, x, tokens)[index] for x in (h, changed))
    assert torch.equal(before, after) != to_all


@MODES
def test_only_chosen_tokens_make_the_embedding(tiny_encoder: Encoder, to_all: bool) -> None:
    conditional, tokens = conditional_of(tiny_encoder), pack(random_rows([12, 7]))
    watching = Watching(conditional.at(Routing(3.0, least=3, to_all=to_all)))
    h = tiny_encoder.hidden(tokens, watching)
    passage = watching.rule
    assert isinstance(passage, Passage)
    pooled = passage.pool(h, tokens, Head())
    for row in range(2):
        mine = [i for i in passage.chosen.index.tolist() if int(tokens.row_of_token[i]) == row]
        torch.testing.assert_close(pooled[row], h[mine].mean(0))


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
    tiny_encoder.hidden(tokens, conditional_of(tiny_encoder).at(Routing(3.0, least=3)))
    assert sizes == [10 + 4] * tiny_encoder.num_layers


@MODES
@pytest.mark.parametrize("exact", [False, True])
def test_a_row_does_not_depend_on_its_batch(
    tiny_encoder: Encoder, exact: bool, to_all: bool
) -> None:
    rows = random_rows(LENGTHS * 2)
    rule = conditional_of(tiny_encoder).at(Routing(2.5, least=3, to_all=to_all, exact=exact))
    together = tiny_encoder.embed_ids(rows, rule)
    alone = torch.cat([tiny_encoder.embed_ids([row], rule) for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=5e-6)


def test_one_rule_serves_threads_and_batches_without_keeping_anything(
    tiny_encoder: Encoder,
) -> None:
    rule = conditional_of(tiny_encoder).at(Routing(2.0, least=3))
    assert isinstance(rule, Conditional)
    before = dict(vars(rule))
    first = rule.started(torch.zeros(7, tiny_encoder.hidden_size), pack(random_rows([7])))
    second = rule.started(torch.zeros(9, tiny_encoder.hidden_size), pack(random_rows([9])))
    assert first is not second and vars(rule) == before


def test_special_tokens_are_always_chosen_then_new_ones_then_repeated_ones() -> None:
    row = [101, 7, 8, 7, 9, 8, 102]
    scores = torch.tensor([-9.0, 1.0, 3.0, 8.0, 2.0, 7.0, -9.0])
    orders = {3: [0, 2, 6], 4: [0, 2, 4, 6], 5: [0, 1, 2, 4, 6], 6: [0, 1, 2, 3, 4, 6]}
    for k, expected in orders.items():
        chosen, m = choose(scores, pack([row]), Routing(7 / k, least=3))
        assert chosen.index.tolist() == expected
        assert m.tolist() == [1.0] * k


def test_equal_scores_choose_the_earlier_tokens_in_any_batch() -> None:
    for lengths in ([7], [7, 40]):
        rows = [list(range(10, 10 + length)) for length in lengths]
        chosen, _ = choose(torch.zeros(sum(lengths)), pack(rows), Routing(2.0, least=3))
        assert chosen.index[:4].tolist() == [0, 1, 2, 6]


def test_m_is_one_and_the_routers_only_path_to_a_gradient(tiny_encoder: Encoder) -> None:
    conditional, tokens = conditional_of(tiny_encoder), pack(random_rows(LENGTHS))
    conditional.adapter.requires_grad_(False)
    conditional.skipping.requires_grad_(False)
    routing = Routing(2.0, least=3)
    target = torch.randn(len(LENGTHS), 32, generator=torch.Generator().manual_seed(5))
    embedded = tiny_encoder.embed(tokens, conditional.at(routing))
    (embedded * target).sum().backward()
    assert conditional.router.grad is not None
    assert float(conditional.router.grad.abs().max()) > 1e-6

    class Detached(Conditional):
        def started(self, h: Tensor, tokens: PackedTokens) -> Passage:
            passage = super().started(h, tokens)
            return Passage(conditional, passage.chosen, passage.m.detach(), to_all=True)

    without = tiny_encoder.embed(tokens, Detached(conditional, routing))
    assert not without.requires_grad
    torch.testing.assert_close(without, embedded.detach(), rtol=0, atol=2e-6)


def test_the_gradient_of_m_is_that_of_the_soft_top_k() -> None:
    from adapterdistill.adapters.soft_top_k import exact_soft_top_k

    scores = torch.tensor([0.0, 0.3, -0.2, 1.0, 0.5, 0.0], requires_grad=True)
    row, weights = [1, 2, 3, 4, 5, 6], torch.tensor([1.0, -2.0, 3.0])
    chosen, m = choose(scores, pack([row]), Routing(2.0, least=3))
    assert chosen.index.tolist() == [0, 3, 5]
    (m * weights).sum().backward()
    other = scores.detach().clone().requires_grad_()
    padded = other.masked_fill(torch.tensor([1, 0, 0, 0, 0, 1]).bool(), 100.0)
    soft = exact_soft_top_k(padded[None], torch.tensor([3]), epsilon=1.0)[0]
    (soft[[0, 3, 5]] * weights).sum().backward()
    assert scores.grad is not None and float(scores.grad.abs().max()) > 1e-3
    torch.testing.assert_close(scores.grad, other.grad)


def test_bfloat16_runs_as_float32_nearly(tiny_encoder_folder: object) -> None:
    half = load_encoder(str(tiny_encoder_folder), dtype="bfloat16")
    full = load_encoder(str(tiny_encoder_folder), dtype="float32")
    rows = random_rows(LENGTHS)
    dense = Parallel(random_adapter(full, seed=1, scale=0.1))
    rough, fine = (encoder.embed_ids(rows, dense) for encoder in (half, full))
    assert float((rough * fine).sum(-1).min()) > 0.99
    found = half.embed_ids(rows, conditional_of(half).at(Routing(2.0, least=3)))
    assert found.dtype == torch.float32 and bool(found.isfinite().all())


@pytest.mark.parametrize(
    ("length", "speed", "k"),
    [(1, 5.0, 1), (2, 5.0, 2), (4, 5.0, 3), (9, 3.0, 3), (10, 3.0, 4), (7, 1.5, 5)],
)
def test_k_is_the_length_over_the_speed_rounded_up_and_the_least_where_there_are(
    length: int, speed: float, k: int
) -> None:
    routing = Routing(speed, least=3)
    assert routing.chosen_of(length) == k
    assert routing.skips(length) == (k < length)


def test_short_texts_pass_whole_and_are_embedded_as_by_the_dense_model(
    tiny_encoder: Encoder,
) -> None:
    conditional, rows = conditional_of(tiny_encoder), random_rows([16, 5, 1, 40])
    found, dense = (
        tiny_encoder.embed_ids(rows, rule)
        for rule in (conditional.at(Routing(5.0)), conditional.adapter)
    )
    torch.testing.assert_close(found[:3], dense[:3], rtol=0, atol=5e-6)
    assert float((found[3] - dense[3]).norm()) > 0.01


def test_a_speed_below_1_would_choose_more_tokens_than_there_are_and_is_refused() -> None:
    for speed in (0.5, 0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"n / k: expected 1 \(all\) or more, got"):
            Routing(speed, least=3)
    for epsilon in (0.0, float("nan")):
        with pytest.raises(ConfigError, match="epsilon must be above 0, got"):
            Routing(2.0, least=3, epsilon=epsilon)
    with pytest.raises(ConfigError, match="3 or more, got 2"):
        Routing(2.0, least=2)


def test_parts_of_other_shapes_than_the_adapter_are_refused() -> None:
    adapter = BottleneckAdapter.new(2, 16, 4, seed=0)
    other = BottleneckAdapter.new(2, 15, 4, seed=0)
    for skipping, router in ((adapter, torch.zeros(15)), (other, torch.zeros(16))):
        with pytest.raises(ValueError, match=r"the adapter has \(2, 16\)"):
            ConditionalAdapter(adapter, skipping, router)


def test_a_new_router_scores_tokens_apart_and_its_adapter_is_a_copy(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    first, second = (ConditionalAdapter.new(adapter, skipping_size=5, seed=s) for s in (1, 2))
    assert not torch.equal(first.router, second.router)
    assert torch.equal(first.adapter.up_weight, adapter.up_weight)
    assert first.adapter.up_weight is not adapter.up_weight
    assert first.skipping.bottleneck_size == 5
    assert all(parameter.requires_grad for parameter in first.parameters())
