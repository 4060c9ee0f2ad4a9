"""The meta-teacher's objective, and what a teacher says of rows."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder, pack
from adapterdistill.distill.batches import Batch, TrainingRows, make_batch
from adapterdistill.distill.meta_kd.formulas import DomainHead
from adapterdistill.distill.meta_kd.teacher import (
    Lesson,
    MetaTeaching,
    Teacher,
    check_domains,
    mapped_layers,
)
from adapterdistill.distill.multitask_kd.objective import TaskBatches
from adapterdistill.distill.multitask_kd.students import AdapterBody, MultitaskModel
from adapterdistill.distill.training import Schedule, train
from adapterdistill.errors import ConfigError
from tests.task_texts import single_task
from tests.tiny_encoders import random_adapter

TEXTS = single_task(24)
DOMAINS = torch.arange(24) // 8
TYPICAL = torch.linspace(0.1, 0.9, 24)
ROWS = TrainingRows(TEXTS.ids, TEXTS.labels)


def model_on(encoder: Encoder, *, seed: int = 0) -> MultitaskModel:
    adapter = random_adapter(encoder, seed=seed).requires_grad_(True)
    return MultitaskModel(AdapterBody(encoder, adapter), [TEXTS], seed=seed)


def batch_of(rows: list[int]) -> Batch:
    return make_batch(ROWS, rows)


def test_with_even_weights_and_no_domain_weight_it_is_plain_mixed_domain_training(
    tiny_encoder: Encoder,
) -> None:
    model, head = model_on(tiny_encoder), DomainHead(32, 3, seed=0)
    weighted = MetaTeaching(
        model, TEXTS.labels, typical=torch.ones(24), domains=DOMAINS, domain_head=head,
        domain_weight=0.0,
    )  # fmt: skip
    batch = batch_of([3, 9, 20, 21])
    expected = F.cross_entropy(model(batch.tokens, 0), TEXTS.labels[[3, 9, 20, 21]])
    assert weighted(batch).item() == pytest.approx(expected.item(), abs=1e-6)
    plain = MetaTeaching(model, TEXTS.labels)
    assert plain(batch).item() == pytest.approx(expected.item())


def test_permuting_the_rows_typicality_changes_the_loss(tiny_encoder: Encoder) -> None:
    model, head, batch = model_on(tiny_encoder), DomainHead(32, 3, seed=0), batch_of([0, 9, 18])

    def loss(typical: torch.Tensor) -> float:
        objective = MetaTeaching(
            model, TEXTS.labels, typical=typical, domains=DOMAINS, domain_head=head
        )
        return objective(batch).item()

    swapped = TYPICAL.clone()
    swapped[[0, 18]] = TYPICAL[[18, 0]]
    assert loss(TYPICAL) == loss(TYPICAL)  # the corrupted domains are the batch's own
    assert loss(swapped) != pytest.approx(loss(TYPICAL), abs=1e-4)


def test_it_trains_the_adapter_and_both_heads(tiny_encoder: Encoder) -> None:
    adapter = BottleneckAdapter.new(2, 32, 6, seed=0)
    model = MultitaskModel(AdapterBody(tiny_encoder, adapter), [TEXTS], seed=0)
    head = DomainHead(32, 3, seed=0)
    before = [p.detach().clone() for part in (model, head) for p in part.parameters()]
    objective = MetaTeaching(
        model, TEXTS.labels, typical=TYPICAL, domains=DOMAINS, domain_head=head
    )
    batches = TaskBatches([TEXTS])
    schedule = Schedule(max_steps=60, learning_rate=1e-2, batch_size=8)
    train(objective, batches.texts, schedule, seed=0, choose=batches.choose)
    after = [p for part in (model, head) for p in part.parameters()]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (model.predict(TEXTS).argmax(-1) == TEXTS.labels).float().mean() > 0.8
    with pytest.raises(ConfigError, match="one worker"):
        objective(replace(batch_of([0, 1]), world_size=2))


def test_one_domain_or_a_domain_without_rows_is_refused() -> None:
    check_domains(DOMAINS, ["a", "b", "c"])
    with pytest.raises(ConfigError, match=r"several domains, got 1: add rows"):
        check_domains(torch.zeros(4, dtype=torch.int64), ["a"])
    with pytest.raises(ConfigError, match=r"without training rows: d: give them rows"):
        check_domains(DOMAINS, ["a", "b", "c", "d"])


def test_layers_are_mapped_evenly_and_the_last_to_the_last() -> None:
    assert mapped_layers(6, 2) == [3, 6]
    assert mapped_layers(6, 3) == [2, 4, 6]
    assert mapped_layers(12, 4) == [3, 6, 9, 12]
    assert mapped_layers(6, 6) == [1, 2, 3, 4, 5, 6]
    assert mapped_layers(6, 4)[-1] == 6


def test_a_lesson_is_the_teacher_s_forward_of_each_row_alone(tiny_encoder: Encoder) -> None:
    model, head = model_on(tiny_encoder), DomainHead(32, 3, seed=1)
    assert isinstance(model.body, AdapterBody)
    teacher = Teacher(tiny_encoder, model.body.adapter, model.heads[0], head)
    lesson = Lesson.of(teacher, TEXTS.ids, DOMAINS, student_layers=1, batch_size=5)
    for row in (0, 7, 23):
        tokens = pack([TEXTS.ids[row]])
        h = tiny_encoder.hidden(tokens, model.body.adapter)
        assert torch.allclose(lesson.kept[row][0][1], h, atol=1e-5)
        assert lesson.kept[row][1][0].shape == (len(TEXTS.ids[row]) ** 2,)
        pooled = h.mean(0, keepdim=True)
        assert torch.allclose(lesson.logits[row], model.heads[0](pooled)[0], atol=1e-5)
        assert lesson.transferable is not None
        feature = head.transferable(pooled, DOMAINS[[row]])[0]
        assert torch.allclose(lesson.transferable[row], feature, atol=1e-5)
    hidden, scores = lesson.packed([4, 1, 2])
    tokens = pack([TEXTS.ids[row] for row in (4, 1, 2)])
    assert torch.allclose(hidden[1], tiny_encoder.hidden(tokens, model.body.adapter), atol=1e-5)
    assert len(scores[0]) == sum(n * n for n in tokens.lengths)
    chosen = lesson.select([4, 1, 2])
    assert torch.equal(chosen.packed([0, 1, 2])[0][1], hidden[1])
    assert torch.equal(chosen.logits, lesson.logits[[4, 1, 2]])


@pytest.mark.parametrize("kept_bytes", [0, 30_000])
def test_rows_without_room_pass_the_teacher_again_and_the_lesson_stays_the_same(
    tiny_encoder: Encoder, kept_bytes: int
) -> None:
    model = model_on(tiny_encoder)
    assert isinstance(model.body, AdapterBody)
    teacher = Teacher(tiny_encoder, model.body.adapter, model.heads[0])
    whole, bounded = (
        Lesson.of(teacher, TEXTS.ids, DOMAINS, student_layers=2, batch_size=4, kept_bytes=most)
        for most in (2**20, kept_bytes)
    )
    assert len(whole.kept) == 24 and (len(bounded.kept) > 0) == (kept_bytes > 0)
    held = sum(p.nbytes for one in bounded.kept.values() for part in one for p in part)
    assert held <= kept_bytes and len(bounded.kept) < 24
    rows = [*range(0, 24, 2), 1]
    for lesson in (bounded, bounded.select(range(24))):
        for found, wanted in zip(lesson.packed(rows), whole.packed(rows), strict=True):
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert torch.equal(whole.logits, bounded.logits)


def test_a_domain_that_was_not_there_stands_for_the_mean_of_those_that_were() -> None:
    head, pooled = DomainHead(8, 3, seed=0), torch.randn(1, 8)
    found = head.transferable(pooled, torch.tensor([-1]))
    assert torch.allclose(found, head.feature(pooled + head.domain.weight.mean(0)), atol=1e-6)
