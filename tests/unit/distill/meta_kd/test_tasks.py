"""Tasks over domains beside a tenant's retrieval: what is refused, and what is learnt of them."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from adapterdistill.backbone import Encoder
from adapterdistill.data.tasks import Task, TaskRow
from adapterdistill.distill.batches import make_batch
from adapterdistill.distill.meta_kd.shared_prototypes import prototypes_in, share_prototypes
from adapterdistill.distill.meta_kd.student import TERMS, MetaDistillation
from adapterdistill.distill.meta_kd.tasks import (
    Domains,
    MetaTasksDistillation,
    TaskLesson,
    TaskOverDomains,
    domains_of,
)
from adapterdistill.distill.method import Variant
from adapterdistill.distill.multitask_kd.method import LightTexts, TaskHead
from adapterdistill.distill.multitask_kd.objective import MultitaskDistillation
from adapterdistill.distill.multitask_kd.students import MultitaskModel
from adapterdistill.distill.multitask_kd.task_teachers import (
    TaskSplits,
    accuracy,
    new_teacher,
    read_tasks,
    write_tasks,
)
from adapterdistill.distill.rows import StageRows
from adapterdistill.distill.stage import build_objective as objective_of
from adapterdistill.distill.stage import run_stage, texts_of
from adapterdistill.distill.training import Schedule
from adapterdistill.distill.variants import pack_variant, unpack_variant
from adapterdistill.errors import ConfigError
from tests.random_variants import LIGHT
from tests.separable_tenant import fold_stage, separable_stage
from tests.task_texts import pair_task, single_task
from tests.unit.distill.test_variants import IDS, spec_of

DOMAINS = Domains(3, torch.arange(40) // 2 % 3)
OVER_DOMAINS = TaskSplits(
    "mood", ("glad", "sad"), single_task(40), single_task(8), single_task(4), DOMAINS
)
PAIRS = TaskSplits("same", ("no", "yes"), pair_task(20), pair_task(6), pair_task(0))
TASKS = [PAIRS, OVER_DOMAINS]
SETTINGS = LIGHT.model_copy(update={"kind": "meta_kd", "tasks": tuple(map(TaskHead.of, TASKS))})
SCHEDULE = Schedule(max_steps=30, batch_size=16, evaluate_every=10, learning_rate=5e-3)


def task_of(*domains: str | None, valid: str | None = None, pair: str | None = None) -> Task:
    rows = tuple(
        TaskRow(str(n), "text", pair, ("no", "yes")[n % 2], domain)
        for n, domain in enumerate(domains)
    )
    return Task(
        "mood", ("no", "yes"), pair is not None, rows, (replace(rows[0], domain=valid),), ()
    )


def test_domains_are_those_of_the_training_rows() -> None:
    found = domains_of(task_of("shop", "home", "shop", "home", valid="home"))
    assert found is not None
    assert found.number == 2 and found.of_row.tolist() == [1, 0, 1, 0]
    assert domains_of(task_of(None, None, valid="home")) is None


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (task_of("shop", "shop"), "several domains, got 1: add rows of others"),
        (task_of("shop", "home", None), "1 of 3 train rows have none: give it to all"),
        (task_of("a", "c", valid="b"), "without training rows: 2 of 3 in alphabetical order: give"),
        (task_of("shop", "home", pair=""), "single texts, these rows are pairs: leave the field"),
    ],
)
def test_domains_that_cannot_be_are_refused_and_not_quoted(task: Task, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"tasks/mood\.jsonl, field domain: .*{said}") as caught:
        domains_of(task)
    assert "shop" not in str(caught.value)


def test_domains_survive_their_file(tmp_path: Path) -> None:
    others = share_prototypes(torch.eye(4)[:2], torch.tensor([0, 1]), OVER_DOMAINS.classes)
    with_others = replace(OVER_DOMAINS, domains=replace(DOMAINS, others=(others, others)))
    write_tasks(tmp_path / "tasks", [PAIRS, with_others])
    pairs, found = read_tasks(tmp_path / "tasks")
    assert pairs.domains is None and found.domains is not None
    assert found.domains.number == 3 and found.domains.others == (others, others)
    assert torch.equal(found.domains.of_row, DOMAINS.of_row)


@pytest.mark.parametrize("shared", [False, True])
def test_a_row_s_weight_is_its_typicality_by_the_teacher_s_certainty(
    tiny_encoder: Encoder, shared: bool
) -> None:
    texts, elsewhere = OVER_DOMAINS.train, single_task(24, seed=9)
    others = share_prototypes(
        tiny_encoder.embed_ids(elsewhere.ids),
        elsewhere.labels,
        OVER_DOMAINS.classes,
        domains=torch.arange(24) // 2 % 2,
    )
    domains_with = replace(DOMAINS, others=(others,) if shared else ())
    over_domains = TaskOverDomains(texts, domains_with, tiny_encoder)
    model = new_teacher(OVER_DOMAINS, tiny_encoder, bottleneck_size=4, seed=1)
    teaching = over_domains.teaching(model, seed=1).requires_grad_(False)
    found = over_domains.lesson(teaching, student_layers=1)
    assert found.lesson.transferable is not None

    embedded = tiny_encoder.embed_ids(texts.ids).double()
    labels, domains = texts.labels, DOMAINS.of_row
    sure = model.predict(texts).double().softmax(-1)
    for row in range(0, 40, 7):
        means = [
            embedded[(labels == labels[row]) & (domains == domain)].mean(0) for domain in range(3)
        ]
        if shared:
            means += list(prototypes_in(others).means[:, labels[row]].double())
        cosines = [float(F.cosine_similarity(embedded[row], mean, dim=0)) for mean in means]
        own = cosines.pop(int(domains[row]))
        typical = 0.5 * own + 0.5 * sum(cosines) / (4 if shared else 2)
        p = float(sure[row, labels[row]])
        expected = (1 + typical) / (math.exp((1 - p) ** 2) + 1)
        assert float(found.weights[row]) == pytest.approx(expected, abs=1e-5)


def stage_of(folder: Path, encoder: Encoder, rows: StageRows, schedule: Schedule) -> LightTexts:
    write_tasks(folder / "tasks", TASKS)
    spec = replace(
        spec_of(folder, encoder, SETTINGS, rows), schedule=schedule, tasks=str(folder / "tasks")
    )
    texts = texts_of(spec, encoder, rows)
    assert isinstance(texts, LightTexts)
    return texts


def test_a_batch_of_a_task_over_domains_has_meta_kd_s_loss_and_others_their_distance(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    rows = separable_stage()
    texts = stage_of(tmp_path, tiny_encoder, rows, replace(SCHEDULE, max_steps=2))
    spec = spec_of(tmp_path, tiny_encoder, SETTINGS, rows)
    objective = objective_of(spec, tiny_encoder, rows.train, texts)
    assert isinstance(objective, MetaTasksDistillation)
    none, lesson = texts.tasks.lessons
    assert none is None and isinstance(lesson, TaskLesson)
    student, train = objective.model, OVER_DOMAINS.train

    # A student of the same weights with the task's head alone.
    alone = MultitaskModel(student.body, [train], seed=0)
    alone.heads[0] = student.heads[2]
    meta = MetaDistillation(
        alone, lesson.lesson, train.labels, lesson.weights, terms=TERMS, seed=spec.seed
    )
    plain = MultitaskDistillation(
        student, texts.tasks.batches, [torch.zeros(len(t), t.num_outputs) for t in _tasks(texts)]
    )
    plain._targets = objective._targets
    plain._spreads = objective._spreads
    starts = [0, len(_tasks(texts)[0].ids), len(texts.rows.ids) - len(train.ids)]
    seen = []
    for step in range(texts.tasks.batches.steps_per_epoch(8)):
        chosen = texts.choose(texts.rows, batch_size=8, seed=0, step=step)
        batch = make_batch(texts.rows, chosen)
        task, of_task = texts.tasks.batches.place(chosen)
        expected = plain if task < 2 else meta
        given = batch if task < 2 else replace(batch, rows=tuple(c - starts[2] for c in chosen))
        assert objective(batch).item() == pytest.approx(expected(given).item(), rel=1e-5)
        assert task < 2 or given.rows == tuple(of_task.tolist())
        seen.append(task)
    assert set(seen) == {0, 1, 2}


def _tasks(texts: LightTexts) -> tuple[object, ...]:
    return texts.tasks.batches.tasks


@pytest.mark.parametrize("rows", [fold_stage(), separable_stage()], ids=["folds", "valid"])
def test_a_student_learns_retrieval_and_tasks_with_and_without_domains(
    tmp_path: Path, tiny_encoder: Encoder, rows: StageRows
) -> None:
    write_tasks(tmp_path / "tasks", TASKS)
    spec = replace(
        spec_of(tmp_path, tiny_encoder, SETTINGS, rows),
        schedule=SCHEDULE,
        tasks=str(tmp_path / "tasks"),
    )
    states: list[bytes] = []
    trained = run_stage(spec, tiny_encoder, checkpoint=lambda _, state: states.append(state))
    form = trained.student
    assert isinstance(form, Variant) and isinstance(form.model, MultitaskModel)
    assert trained.tasks["mood"]["valid_student"] == accuracy(form.model, 2, OVER_DOMAINS.valid)
    assert set(trained.tasks["same"]) == {"valid_teacher", "valid_student"}
    payload = pack_variant(form)
    found = unpack_variant(payload, tiny_encoder)
    assert found.settings == SETTINGS and pack_variant(found) == payload
    assert torch.equal(
        tiny_encoder.embed_ids(IDS, found.embedder), tiny_encoder.embed_ids(IDS, form.embedder)
    )
    # Resumed at its first checkpoint it ends as it did uninterrupted.
    again = run_stage(spec, tiny_encoder, resume=states[0]).student
    assert isinstance(again, Variant) and pack_variant(again) == payload
