"""The loop: exact resume, the best step, patience, failure."""

import pytest
import torch
from torch import Tensor

from adapterdistill.adapters import BottleneckAdapter, Fusion
from adapterdistill.backbone import Encoder, LayerDelta
from adapterdistill.checkpoint import pack_adapter
from adapterdistill.distill.attention_distillation import AttentionDistillation
from adapterdistill.distill.batches import Batch
from adapterdistill.distill.objective import Objective, OwnAdapter
from adapterdistill.distill.training import Schedule, TrainResult, Workers, train
from adapterdistill.errors import TrainingError
from tests.separable_tenant import held_out_of, separable_rows, teachers_of

SCHEDULE = Schedule(max_steps=12, batch_size=12, evaluate_every=3, warmup_steps=4, patience=9)
ROWS = separable_rows(5, seed=1)


def own(encoder: Encoder, *, seed: int = 0) -> OwnAdapter:
    return OwnAdapter(encoder, BottleneckAdapter.new(2, 32, 6, seed=seed))


def distilled(encoder: Encoder) -> AttentionDistillation:
    student = BottleneckAdapter.new(2, 32, 6, seed=0)
    return AttentionDistillation(encoder, student, teachers_of(encoder), Fusion.new(2, 32, seed=0))


class Scores:
    """Held-out scores by script; remembers the parameters that each was given to."""

    def __init__(self, *scores: float) -> None:
        self.left = list(scores)
        self.seen: list[bytes] = []

    def __call__(self, delta: LayerDelta) -> float:
        assert isinstance(delta, BottleneckAdapter)
        self.seen.append(pack_adapter(delta, model_name="test"))
        return self.left.pop(0)


@pytest.mark.parametrize("make", [own, distilled])
@pytest.mark.parametrize("stop", [3, 9])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    tiny_encoder: Encoder, make: type[Objective], stop: int
) -> None:
    states: dict[int, bytes] = {}
    held_out = held_out_of(tiny_encoder)

    def run(resume: bytes | None = None) -> tuple[dict[str, Tensor], TrainResult]:
        objective = make(tiny_encoder)
        result = train(
            objective,
            ROWS,
            SCHEDULE,
            seed=3,
            held_out=held_out,
            checkpoint=lambda step, state: states.__setitem__(step, state),
            resume=resume,
        )
        return objective.state_dict(), result

    expected, whole = run()
    assert list(states) == [3, 6, 9, 12] and whole.steps == 12
    last = states[12]
    found, rest = run(states[stop])
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (rest.losses, rest.scores) == (whole.losses, whole.scores)
    assert (rest.best_step, rest.best_score, rest.steps) == (
        whole.best_step,
        whole.best_score,
        whole.steps,
    )
    assert states[12] == last


def test_resuming_a_finished_run_changes_nothing(tiny_encoder: Encoder) -> None:
    states: dict[int, bytes] = {}
    objective = own(tiny_encoder)
    train(objective, ROWS, SCHEDULE, seed=0, checkpoint=states.__setitem__)
    again = own(tiny_encoder, seed=5)
    result = train(again, ROWS, SCHEDULE, seed=0, resume=states[12])
    assert result.steps == 12
    for one, other in zip(objective.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_same_seed_gives_the_same_adapter_digest(tiny_encoder: Encoder) -> None:
    def payload(seed: int) -> bytes:
        objective = own(tiny_encoder)
        train(objective, ROWS, SCHEDULE, seed=seed)
        return pack_adapter(objective.student, model_name="test")

    assert payload(1) == payload(1)
    assert payload(1) != payload(2)


def test_the_best_step_s_parameters_are_restored(tiny_encoder: Encoder) -> None:
    held_out = Scores(0.0, 1.0, 3.0, 2.0, 2.5)
    objective = own(tiny_encoder)
    result = train(objective, ROWS, SCHEDULE, seed=0, held_out=held_out)
    assert (result.best_step, result.best_score, result.steps) == (6, 3.0, 12)
    assert result.scores == [(0, 0.0), (3, 1.0), (6, 3.0), (9, 2.0), (12, 2.5)]
    assert pack_adapter(objective.student, model_name="test") == held_out.seen[2]


def test_training_that_never_helps_gives_back_the_start(tiny_encoder: Encoder) -> None:
    held_out = Scores(5.0, 4.0, 3.0, 5.0, 1.0)
    objective = own(tiny_encoder)
    start = pack_adapter(objective.student, model_name="test")
    result = train(objective, ROWS, SCHEDULE, seed=0, held_out=held_out)
    assert (result.best_step, result.best_score) == (0, 5.0)
    assert pack_adapter(objective.student, model_name="test") == start


def test_training_ends_after_patience_scores_without_a_new_best(tiny_encoder: Encoder) -> None:
    schedule = Schedule(max_steps=30, batch_size=12, evaluate_every=2, patience=2)
    result = train(
        own(tiny_encoder), ROWS, schedule, seed=0, held_out=Scores(0.0, 1.0, 0.5, 2.0, 1.0, 2.0)
    )
    assert (result.steps, result.best_step) == (10, 6)


def test_a_resumed_run_remembers_the_best_step_and_its_patience(tiny_encoder: Encoder) -> None:
    schedule = Schedule(max_steps=30, batch_size=12, evaluate_every=2, patience=2)
    states: dict[int, bytes] = {}
    whole = own(tiny_encoder)
    train(
        whole,
        ROWS,
        schedule,
        seed=0,
        held_out=Scores(0.0, 2.0, 1.0, 1.5),
        checkpoint=states.__setitem__,
    )
    resumed = own(tiny_encoder, seed=5)
    result = train(resumed, ROWS, schedule, seed=0, held_out=Scores(1.5), resume=states[4])
    assert (result.steps, result.best_step, result.best_score) == (6, 2, 2.0)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_last_step_is_scored_and_reported(tiny_encoder: Encoder) -> None:
    schedule = Schedule(max_steps=4, batch_size=12, evaluate_every=3)
    seen: list[tuple[int, int, float | None]] = []
    result = train(
        own(tiny_encoder),
        ROWS,
        schedule,
        seed=0,
        held_out=Scores(0.0, 1.0, 2.0),
        progress=lambda step, steps, loss, score: seen.append((step, steps, score)),
    )
    assert seen == [(1, 4, None), (2, 4, None), (3, 4, 1.0), (4, 4, 2.0)]
    assert len(result.losses) == 4 and result.best_step == 4


def test_without_held_out_rows_every_step_runs(tiny_encoder: Encoder) -> None:
    objective = own(tiny_encoder)
    result = train(objective, ROWS, SCHEDULE, seed=0)
    assert (result.steps, result.best_step, result.best_score) == (12, 12, None)
    assert sum(result.losses[-3:]) < sum(result.losses[:3])


def test_the_learning_rate_warms_up_by_group(tiny_encoder: Encoder) -> None:
    """Adam's first step moves a parameter by its rate: a quarter of it in the first of four."""
    objective = distilled(tiny_encoder)
    before = objective.fusion.query_weight.detach().clone(), objective.student.up_weight.detach()
    before = before[0], before[1].clone()
    schedule = Schedule(max_steps=1, warmup_steps=4, weight_decay=0.0, learning_rate=1e-3)
    train(objective, ROWS, schedule, seed=0)
    for value, start, rate in (
        (objective.fusion.query_weight, before[0], 5e-5),
        (objective.student.up_weight, before[1], 1e-3),
    ):
        moved = float((value.detach() - start).abs().max())
        assert moved == pytest.approx(rate / 4, rel=0.05)


def test_a_loss_that_is_not_finite_ends_training(tiny_encoder: Encoder) -> None:
    class Breaks(OwnAdapter):
        def forward(self, batch: Batch) -> Tensor:
            return super().forward(batch) * torch.tensor(float("nan"))

    objective = Breaks(tiny_encoder, BottleneckAdapter.new(2, 32, 6, seed=0))
    with pytest.raises(TrainingError, match="not finite at step 1"):
        train(objective, ROWS, SCHEDULE, seed=0)


def test_more_workers_than_rows_are_refused(tiny_encoder: Encoder) -> None:
    rows = separable_rows(1, seed=0)
    with pytest.raises(TrainingError, match="7 workers need as many rows a step, got 6"):
        train(own(tiny_encoder), rows, SCHEDULE, seed=0, workers=Workers(0, 7))
