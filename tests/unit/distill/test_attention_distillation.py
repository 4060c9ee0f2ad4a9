"""The seven tests of methods.md, section 1 (5 and 7 are with fusion and stack)."""

import pytest
import torch
from torch import Tensor

from adapterdistill.adapters import AdapterStack, BottleneckAdapter, Fusion
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter, state_digest
from adapterdistill.distill.attention_distillation import AttentionDistillation, DistilWeights
from adapterdistill.distill.batches import Batch, make_batch
from adapterdistill.distill.losses import (
    embedding_distance,
    feature_distance,
    prototype_loss,
    relation_distance,
)
from adapterdistill.distill.objective import Objective, OwnAdapter, Recording
from adapterdistill.distill.training import Schedule, train
from tests.separable_tenant import held_out_of, separable_rows, teachers_of
from tests.tiny_encoders import random_adapter

ROWS = separable_rows(3, seed=1)
SCHEDULE = Schedule(max_steps=8, batch_size=12, evaluate_every=4)
NO_DISTANCE = DistilWeights(feature=0.0, relation=0.0, embedding=0.0)


def batch_of(size: int = 12) -> Batch:
    return make_batch(ROWS, list(range(size)))


def objective_of(
    encoder: Encoder,
    *,
    student: BottleneckAdapter | None = None,
    teachers: AdapterStack | None = None,
    fusion: Fusion | None = None,
    weights: DistilWeights | None = None,
) -> AttentionDistillation:
    return AttentionDistillation(
        encoder,
        student or BottleneckAdapter.new(2, 32, 6, seed=0),
        teachers or teachers_of(encoder),
        fusion or Fusion.new(2, 32, seed=0),
        weights=weights,
    )


def encoder_tensors(encoder: Encoder) -> list[Tensor]:
    parts = [encoder._weights, *encoder._weights.layers]
    return [v for part in parts for v in vars(part).values() if isinstance(v, Tensor)]


def test_1_without_distances_the_student_is_plain_adapter_tuning_s(
    tiny_encoder: Encoder,
) -> None:
    plain = OwnAdapter(tiny_encoder, BottleneckAdapter.new(2, 32, 6, seed=0))
    distilled = objective_of(tiny_encoder, weights=NO_DISTANCE)
    scores = []
    for objective in (plain, distilled):
        result = train(objective, ROWS, SCHEDULE, seed=4, held_out=held_out_of(tiny_encoder))
        scores.append(result.scores)
    assert scores[0] == scores[1]
    assert pack_adapter(plain.student, model_name="t") == pack_adapter(
        distilled.student, model_name="t"
    )


def test_with_distances_the_student_is_another(tiny_encoder: Encoder) -> None:
    """Control for the test above."""
    payloads = []
    for weights in (NO_DISTANCE, DistilWeights()):
        objective = objective_of(tiny_encoder, weights=weights)
        train(objective, ROWS, SCHEDULE, seed=4)
        payloads.append(pack_adapter(objective.student, model_name="t"))
    assert payloads[0] != payloads[1]


def test_2_backbone_and_teachers_are_byte_identical_after_stage_2(tiny_encoder: Encoder) -> None:
    teachers = teachers_of(tiny_encoder)
    frozen = [*encoder_tensors(tiny_encoder), *vars(teachers).values()]
    assert len(frozen) == 4 + 2 * 12 + 4
    before = [value.clone() for value in frozen]
    objective = objective_of(tiny_encoder, teachers=teachers)
    start = state_digest(objective.fusion), state_digest(objective.student)
    train(objective, ROWS, SCHEDULE, seed=0)
    assert all(map(torch.equal, before, frozen))
    assert state_digest(objective.fusion) != start[0]
    assert state_digest(objective.student) != start[1]
    assert not any(value.requires_grad or value.grad is not None for value in frozen)


def test_3_what_is_deployed_is_one_plain_adapter(tiny_encoder: Encoder) -> None:
    many = objective_of(tiny_encoder, teachers=teachers_of(tiny_encoder, 9))
    train(many, ROWS, SCHEDULE, seed=0)
    deployed = many.deployed()
    assert type(deployed) is BottleneckAdapter and deployed is many.student
    plain = BottleneckAdapter.new(2, 32, 6, seed=0)
    assert [tuple(p.shape) for p in deployed.parameters()] == [
        tuple(p.shape) for p in plain.parameters()
    ]
    assert len(pack_adapter(deployed, model_name="t")) == len(pack_adapter(plain, model_name="t"))


def test_4_a_student_equal_to_its_only_teacher_has_no_distance(tiny_encoder: Encoder) -> None:
    teacher = random_adapter(tiny_encoder, seed=1, scale=0.1)
    fusion = Fusion.new(2, 32, seed=0)
    with torch.no_grad():
        fusion.value_weight.copy_(torch.eye(32).expand(2, 32, 32))
    objective = objective_of(
        tiny_encoder, student=teacher.copy(), teachers=AdapterStack.of([teacher]), fusion=fusion
    )
    batch = batch_of()
    fused, own = Recording(objective.fused()), Recording(objective.student)
    ahead = tiny_encoder.embed(batch.tokens, fused), tiny_encoder.embed(batch.tokens, own)
    tokens = batch.total_tokens
    assert float(feature_distance(own.outputs, fused.outputs, total_tokens=tokens).detach()) < 1e-9
    assert float(relation_distance(ahead[1], ahead[0]).detach()) < 1e-6
    assert abs(float(embedding_distance(ahead[1], ahead[0]).detach())) < 1e-6


def test_6_the_fused_task_loss_reaches_queries_keys_and_values(tiny_encoder: Encoder) -> None:
    objective = objective_of(tiny_encoder)
    batch = batch_of()
    embeddings = tiny_encoder.embed(batch.tokens, objective.fused())
    prototype_loss(embeddings, batch.labels).backward()
    for name in ("query_weight", "key_weight", "value_weight"):
        gradient = getattr(objective.fusion, name).grad
        assert all(gradient[layer].abs().max() > 1e-7 for layer in range(2)), name
    assert all(p.grad is None for p in objective.student.parameters())


def gradients(objective: Objective, batch: Batch) -> dict[str, Tensor]:
    objective.zero_grad()
    objective(batch).backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in objective.named_parameters()
    }


def test_distances_pull_the_student_only(tiny_encoder: Encoder) -> None:
    """Queries, keys and values learn by the task alone: whatever the distances weigh."""
    none = gradients(objective_of(tiny_encoder, weights=NO_DISTANCE), batch_of())
    heavy = gradients(objective_of(tiny_encoder, weights=DistilWeights(5.0, 5.0, 5.0)), batch_of())
    for name, gradient in none.items():
        assert torch.equal(gradient, heavy[name]) == name.startswith("fusion."), name


def test_the_loss_is_the_sum_of_its_terms(tiny_encoder: Encoder) -> None:
    weights = DistilWeights(feature=0.5, relation=2.0, embedding=3.0, value_regulariser=0.25)
    objective, batch = objective_of(tiny_encoder, weights=weights), batch_of()
    with torch.no_grad():
        objective.fusion.value_weight.mul_(1.1)
        fused, own = Recording(objective.fused()), Recording(objective.student)
        teacher = tiny_encoder.embed(batch.tokens, fused)
        student = tiny_encoder.embed(batch.tokens, own)
        apart = [(u - o).double() for u, o in zip(own.outputs, fused.outputs, strict=True)]
        squares = sum(float(a.pow(2).sum(1).mean()) for a in apart) / 2
        cosine = float((student * teacher).sum(1).mean())
        expected = (
            float(prototype_loss(teacher, batch.labels))
            + float(prototype_loss(student, batch.labels))
            + 0.25 * float(objective.fusion.value_regulariser())
            + 0.5 * squares
            + 2.0 * float(relation_distance(student, teacher))
            + 3.0 * (1 - cosine)
        )
        assert float(objective(batch)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["own", "distilled"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_gradients_sum_to_the_single_worker_s(
    tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch, kind: str, world_size: int
) -> None:
    """The ranks run in turn; what a rank would have received is computed beforehand."""
    objective: Objective = (
        OwnAdapter(tiny_encoder, BottleneckAdapter.new(2, 32, 6, seed=0))
        if kind == "own"
        else objective_of(tiny_encoder, weights=DistilWeights(embedding=1.0, value_regulariser=0.5))
    )
    if isinstance(objective, AttentionDistillation):
        with torch.no_grad():  # away from the identity, where the regulariser has no gradient
            objective.fusion.value_weight.mul_(1.5)
    chosen = [0, 4, 1, 3, 10, 9, 13, 2, 5, 16, 17]  # not divisible by the workers
    expected = gradients(objective, make_batch(ROWS, chosen))

    def batch(rank: int) -> Batch:
        return make_batch(ROWS, chosen, rank=rank, world_size=world_size)

    offered: list[list[Tensor]] = [[] for _ in range(world_size)]
    calls = 0

    def record(rank: int) -> None:
        def keep(parts: list[Tensor], own: Tensor) -> None:
            offered[rank].append(own)
            for part in parts:
                part.copy_(own)

        monkeypatch.setattr(torch.distributed, "all_gather", keep)
        objective(batch(rank))

    def answer(parts: list[Tensor], own: Tensor) -> None:
        nonlocal calls
        for part, all_offered in zip(parts, offered, strict=True):
            part.copy_(all_offered[calls])
        calls += 1

    for rank in range(world_size):
        record(rank)
    total = {name: torch.zeros_like(value) for name, value in expected.items()}
    for rank in range(world_size):
        calls = 0
        monkeypatch.setattr(torch.distributed, "all_gather", answer)
        for name, value in gradients(objective, batch(rank)).items():
            total[name] += value
        assert calls == len(offered[rank]) > 0
    for name, value in expected.items():
        assert value.any(), name
        torch.testing.assert_close(total[name], value, rtol=1e-4, atol=1e-6)
