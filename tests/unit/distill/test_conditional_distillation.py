"""The light training of a conditional adapter towards the dense model, and where it starts."""

import math

import pytest
import torch

from adapterdistill.adapters import ConditionalAdapter, Parallel, Routing
from adapterdistill.backbone import Encoder, pack
from adapterdistill.checkpoint import state_digest
from adapterdistill.distill.batches import make_batch
from adapterdistill.distill.conditional_distillation import (
    SIMILARITY_WEIGHT,
    ConditionalDistillation,
    OwnParallelAdapter,
    fitted,
    rarity,
    skippable,
)
from adapterdistill.distill.objective import HiddenStates
from adapterdistill.distill.training import Schedule, train
from tests.separable_tenant import held_out_of, separable_rows
from tests.tiny_encoders import random_adapter

ROWS = separable_rows(3, seed=1)
ROUTING = Routing(2.0, least=3)


def objective_of(encoder: Encoder, routing: Routing = ROUTING) -> ConditionalDistillation:
    dense = random_adapter(encoder, seed=4, scale=0.1)
    conditional = ConditionalAdapter.new(dense, skipping_size=4, seed=0, parallel=True)
    return ConditionalDistillation(encoder, conditional, Parallel(dense), routing)


def test_with_all_tokens_chosen_it_starts_at_the_dense_model(tiny_encoder: Encoder) -> None:
    loss = objective_of(tiny_encoder, Routing(1.0, least=3))(make_batch(ROWS, range(12)))
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)


def test_the_loss_is_the_sum_of_its_distances_by_hand(tiny_encoder: Encoder) -> None:
    objective = objective_of(tiny_encoder)
    batch = make_batch(ROWS, range(12))
    with torch.no_grad():
        theirs = tiny_encoder.embed(batch.tokens, objective._dense).double()
        mine = tiny_encoder.embed(batch.tokens, objective.deployed()).double()
        loss = objective(batch)
    turned = sum(1 - float(mine[row] @ theirs[row]) for row in range(12)) / 12
    apart = [
        (float(mine[i] @ mine[j]) - float(theirs[i] @ theirs[j])) ** 2
        for i in range(12)
        for j in range(12)
    ]
    expected = turned + SIMILARITY_WEIGHT * sum(apart) / 144
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_rarity_by_hand() -> None:
    found = rarity([[1, 5, 5, 2], [1, 6, 2]])
    assert found.tolist() == pytest.approx(
        [0, math.log(3 / 2), math.log(3 / 2), 0, 0, math.log(3 / 2), 0]
    )


def test_texts_too_short_to_skip_from_teach_nothing_unless_all_are() -> None:
    ids = [[1] * length for length in (3, 16, 17, 40)]
    assert skippable(ids, Routing(2.0)).tolist() == [False, False, True, True]
    assert skippable(ids[:2], Routing(2.0)).tolist() == [True, True]


@pytest.mark.parametrize("parallel", [False, True])
def test_it_starts_near_the_dense_model_and_with_rare_tokens_chosen(
    tiny_encoder: Encoder, parallel: bool
) -> None:
    """Near: each layer's skipped states are nearer to the dense ones than the entering states."""
    adapter = random_adapter(tiny_encoder, seed=4, scale=0.1)
    conditional = fitted(
        tiny_encoder, adapter, ROWS.ids, skipping_size=32, seed=0, parallel=parallel
    )
    assert state_digest(conditional.adapter) == state_digest(adapter)
    dense = HiddenStates(conditional.dense)
    tokens = pack(ROWS.ids)
    with torch.no_grad():
        tiny_encoder.hidden(tokens, dense)
        assert dense.entered is not None
        lengths = torch.tensor(tokens.lengths)[tokens.row_of_token]
        inner = (tokens.position > 0) & (tokens.position < lengths - 1)
        x = start = dense.entered[inner]
        for layer, state in enumerate(dense.outputs):
            x = x + conditional.skipping(layer, x)
            assert (x - state[inner]).norm() < 0.6 * (start - state[inner]).norm()
        scores = conditional.scores(dense.entered)[inner]
    by_text = rarity(ROWS.ids).split([len(ids) for ids in ROWS.ids])
    places = zip(tokens.row_of_token.tolist(), tokens.position.tolist(), strict=True)
    rare = torch.stack([by_text[row][position] for row, position in places])[inner]
    assert float(torch.corrcoef(torch.stack([scores, rare]))[0, 1]) > 0.6
    assert float(scores.std()) == pytest.approx(2, rel=0.05)


def test_a_bottleneck_wider_than_the_states_is_fitted_too(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=4, scale=0.1)
    conditional = fitted(tiny_encoder, adapter, ROWS.ids, skipping_size=40, seed=0)
    found = tiny_encoder.embed_ids(ROWS.ids, conditional.at(ROUTING))
    assert bool(found.isfinite().all())


def test_training_brings_it_close_to_the_dense_model_which_stays_as_it_was(
    tiny_encoder: Encoder,
) -> None:
    objective = objective_of(tiny_encoder)
    goal = tiny_encoder.embed_ids(ROWS.ids, objective._dense)

    def missed() -> float:
        found = tiny_encoder.embed_ids(ROWS.ids, objective.deployed())
        return 1 - float((found * goal).sum(-1).mean())

    before, router = missed(), objective.conditional.router.detach().clone()
    schedule = Schedule(max_steps=40, learning_rate=5e-3)
    train(objective, ROWS, schedule, seed=0)
    assert missed() < 0.7 * before
    assert not torch.equal(objective.conditional.router, router)
    assert torch.equal(tiny_encoder.embed_ids(ROWS.ids, objective._dense), goal)


def test_the_encoder_itself_or_an_adapter_in_another_place_may_teach(
    tiny_encoder: Encoder,
) -> None:
    conditional = ConditionalAdapter.new(
        random_adapter(tiny_encoder, seed=1, scale=0.1), skipping_size=4, seed=0
    )
    own = random_adapter(tiny_encoder, seed=2)
    before = state_digest(own)
    for teacher in (None, own):
        objective = ConditionalDistillation(tiny_encoder, conditional, teacher, ROUTING)
        objective(make_batch(ROWS, range(12))).backward()
        assert all(parameter.grad is not None for parameter in conditional.parameters())
    assert own.up_weight.grad is None and state_digest(own) == before


def test_held_out_rows_bound_the_steps_of_either_objective(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1, scale=0.05).copy()
    schedule = Schedule(max_steps=4, evaluate_every=2)
    for objective in (OwnParallelAdapter(tiny_encoder, adapter), objective_of(tiny_encoder)):
        result = train(objective, ROWS, schedule, seed=0, held_out=held_out_of(tiny_encoder))
        assert [step for step, _ in result.scores] == [0, 2, 4]


def test_the_dense_adapter_is_trained_in_its_own_place(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1, scale=0.05).copy()
    objective = OwnParallelAdapter(tiny_encoder, adapter)
    before = objective(make_batch(ROWS, range(18))).item()
    train(objective, ROWS, Schedule(max_steps=30, learning_rate=5e-3), seed=0)
    assert objective(make_batch(ROWS, range(18))).item() < 0.7 * before
