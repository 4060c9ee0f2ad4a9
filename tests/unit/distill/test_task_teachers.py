"""Tasks beside a tenant's retrieval: their file, their teachers, and the student of all."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adapterdistill.backbone import Encoder
from adapterdistill.data.tasks import Task, TaskRow
from adapterdistill.distill.method import Variant
from adapterdistill.distill.multitask_kd.method import LightSettings, LightTexts, TaskHead
from adapterdistill.distill.multitask_kd.students import MultitaskModel
from adapterdistill.distill.multitask_kd.task_teachers import (
    TaskSplits,
    accuracy,
    fit_teacher,
    new_teacher,
    read_tasks,
    tokenise_task,
    write_tasks,
)
from adapterdistill.distill.rows import StageRows, write_rows
from adapterdistill.distill.stage import run_stage, texts_of
from adapterdistill.distill.training import Schedule
from adapterdistill.distill.variants import pack_variant, unpack_variant
from tests.random_variants import LIGHT, VARIANTS
from tests.separable_tenant import NUM_FAQS, fold_stage, separable_stage
from tests.task_texts import pair_task, single_task
from tests.unit.distill.test_variants import IDS, spec_of

TASKS = [
    TaskSplits("mood", ("glad", "sad"), single_task(40), single_task(8), single_task(4)),
    TaskSplits("same", ("no", "yes"), pair_task(20), pair_task(6), pair_task(0)),
]
SCHEDULE = Schedule(max_steps=30, batch_size=16, evaluate_every=10, learning_rate=5e-3)


def test_tasks_survive_their_file(tmp_path: Path) -> None:
    write_tasks(tmp_path / "tasks", TASKS)
    for found, expected in zip(read_tasks(tmp_path / "tasks"), TASKS, strict=True):
        assert (found.name, found.classes) == (expected.name, expected.classes)
        for split in ("train", "valid", "test"):
            one, other = getattr(found, split), getattr(expected, split)
            assert one.ids == other.ids and torch.equal(one.labels, other.labels)
            assert (one.pairs, one.num_outputs) == (other.pairs, other.num_outputs)
    write_tasks(tmp_path / "none", [])
    assert read_tasks(tmp_path / "none") == []


def test_a_task_s_rows_become_token_ids_and_places_of_classes(tiny_encoder: Encoder) -> None:
    rows = (TaskRow("1", "ab", "c", "yes", None), TaskRow("2", "d", "", "no", None))
    task = tokenise_task(Task("t", ("no", "yes"), True, rows, rows[:1], ()), tiny_encoder)
    assert list(map(list, task.train.ids)) == tiny_encoder.tokenize(["ab", "c", "d", ""])
    assert task.train.labels.tolist() == [1, 0] and task.valid.labels.tolist() == [1]
    assert len(task.test) == 0 and task.train.pairs and task.train.num_outputs == 2


def test_a_teacher_learns_its_task_from_labels(tiny_encoder: Encoder) -> None:
    schedule = replace(SCHEDULE, max_steps=100, learning_rate=2e-2, patience=99)
    teacher = new_teacher(TASKS[0], tiny_encoder, bottleneck_size=8, seed=0)
    fit_teacher(teacher, TASKS[0], schedule=schedule, seed=0)
    found = accuracy(teacher, 0, TASKS[0].test)
    by_hand = (teacher.predict(TASKS[0].test).argmax(1) == TASKS[0].test.labels).double().mean()
    assert found.count == 4 and found.value == float(by_hand) == 1.0


@pytest.mark.parametrize(
    ("body", "rows"), [("transformer", fold_stage()), ("bilstm", separable_stage())]
)
def test_a_student_learns_retrieval_and_its_tasks_together(
    tmp_path: Path, tiny_encoder: Encoder, body: str, rows: StageRows
) -> None:
    settings = VARIANTS[body]
    assert isinstance(settings, LightSettings)
    settings = settings.model_copy(update={"tasks": tuple(map(TaskHead.of, TASKS))})
    write_tasks(tmp_path / "tasks", TASKS)
    spec = replace(
        spec_of(tmp_path, tiny_encoder, settings, rows),
        schedule=SCHEDULE,
        tasks=str(tmp_path / "tasks"),
    )
    trained = run_stage(spec, tiny_encoder)
    form = trained.student
    assert isinstance(form, Variant) and isinstance(form.model, MultitaskModel)
    assert set(trained.tasks) == {"mood", "same"}
    assert set(trained.tasks["mood"]) == {
        f"{split}_{model}" for split in ("valid", "test") for model in ("teacher", "student")
    }
    assert set(trained.tasks["same"]) == {"valid_teacher", "valid_student"}
    assert trained.tasks["mood"]["valid_student"] == accuracy(form.model, 1, TASKS[0].valid)

    # The heads are in the payload; what is served is the retrieval.
    found = unpack_variant(pack_variant(form), tiny_encoder)
    assert isinstance(found.model, MultitaskModel) and found.settings == settings
    assert found.settings.tasks[0].classes == ("glad", "sad")
    for place, task in enumerate(TASKS, start=1):
        expected = form.model.predict(task.train, place)
        assert torch.equal(found.model.predict(task.train, place), expected)
    ranked = tiny_encoder.embed_ids(IDS, found.embedder)
    assert torch.equal(ranked, tiny_encoder.embed_ids(IDS, form.embedder))
    assert len(trained.folds) == len(rows.splits())


def test_no_fold_holds_out_a_task_s_row_and_batches_are_of_one_task(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    settings = LIGHT.model_copy(update={"tasks": tuple(map(TaskHead.of, TASKS))})
    write_tasks(tmp_path / "tasks", TASKS)
    spec = spec_of(tmp_path, tiny_encoder, settings, fold_stage())
    short = replace(SCHEDULE, max_steps=1)
    texts = texts_of(
        replace(spec, tasks=str(tmp_path / "tasks"), schedule=short), tiny_encoder, fold_stage()
    )
    assert texts.folds is not None and isinstance(texts, LightTexts)
    own = len(texts.tasks.batches.tasks[0])
    assert bool((texts.folds[own:] == -1).all()) and bool((texts.folds[:own] >= 0).any())
    assert len(texts.folds) == len(texts.rows.ids) == own + 40 + 2 * 20
    for step in range(6):
        chosen = texts.choose(texts.rows, batch_size=16, seed=0, step=step)
        assert len({sum(row >= start for start in (own, own + 40)) for row in chosen}) == 1


def test_a_step_of_rows_that_one_fold_holds_out_trains_the_others(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    """Small batches of one row: each is held out of one fold or of none."""
    rows = fold_stage()
    spec = spec_of(tmp_path, tiny_encoder, LIGHT, rows)
    few = rows.train.select(torch.arange(len(rows.train.ids)) < 2 * NUM_FAQS)
    assert rows.folds is not None
    write_rows(Path(spec.rows), replace(rows, train=few, folds=rows.folds[: 2 * NUM_FAQS]))
    schedule = Schedule(max_steps=40, batch_size=1, evaluate_every=40, learning_rate=1e-3)
    assert run_stage(replace(spec, schedule=schedule), tiny_encoder).result.steps == 40
