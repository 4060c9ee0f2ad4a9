"""A stage as data, run alone and by two workers."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter, unpack_adapter
from adapterdistill.distill.adapter_distillation import AdapterDistillation
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.held_out import HeldOutRows
from adapterdistill.distill.objective import OwnAdapter
from adapterdistill.distill.rows import StageRows, read_rows, write_rows
from adapterdistill.distill.stage import StageSpec, build_objective, run_stage
from adapterdistill.distill.training import Schedule
from tests.separable_tenant import (
    NUM_FAQS,
    fold_stage,
    held_out_of,
    separable_rows,
    separable_stage,
)
from tests.tiny_encoders import random_adapter
from tests.two_workers import run_two_workers

SCHEDULE = Schedule(
    max_steps=20, batch_size=18, evaluate_every=10, learning_rate=5e-3, warmup_steps=2
)


@pytest.fixture
def spec(tmp_path: Path, tiny_encoder: Encoder) -> StageSpec:
    """Stage 2 with two teachers."""
    write_rows(tmp_path / "rows.safetensors", separable_stage())
    teachers = []
    for seed in (1, 2):
        file = tmp_path / f"teacher-{seed}.safetensors"
        adapter = random_adapter(tiny_encoder, seed=seed, scale=0.1)
        file.write_bytes(pack_adapter(adapter, model_name="test"))
        teachers.append(str(file))
    return StageSpec(
        rows=str(tmp_path / "rows.safetensors"),
        bottleneck_size=6,
        schedule=SCHEDULE,
        seed=1,
        method="adapter_distillation",
        teachers=tuple(teachers),
    )


def test_a_spec_survives_json(spec: StageSpec) -> None:
    assert StageSpec.from_json(spec.to_json()) == spec
    bare = StageSpec("rows", 4, Schedule(max_steps=1), 0, initial="start")
    assert StageSpec.from_json(bare.to_json()) == bare
    assert json.loads(bare.to_json())["schedule"] == asdict(bare.schedule)


def test_rows_survive_their_file(tmp_path: Path) -> None:
    shared = torch.tensor([0, 1, -1])
    one = TrainingRows([[5, 6], [7], [8, 9, 30_000]], shared)
    rows = StageRows(one, TrainingRows([[1], [2], [3]], shared), TrainingRows([[4]], shared[:1]), 2)
    write_rows(tmp_path / "rows", rows)
    found = read_rows(tmp_path / "rows")
    assert found.num_faqs == 2
    for part in ("train", "held_index", "held_queries"):
        expected, got = getattr(rows, part), getattr(found, part)
        assert [list(ids) for ids in got.ids] == expected.ids
        assert torch.equal(got.labels, expected.labels)


def test_folds_survive_their_file(tmp_path: Path) -> None:
    expected = fold_stage().folds
    write_rows(tmp_path / "rows", fold_stage())
    found = read_rows(tmp_path / "rows").folds
    assert found is not None and expected is not None and torch.equal(found, expected)
    write_rows(tmp_path / "rows", separable_stage())
    assert read_rows(tmp_path / "rows").splits() == []


def test_a_stage_without_held_out_rows_survives_its_file(tmp_path: Path) -> None:
    none = TrainingRows([], torch.tensor([], dtype=torch.int64))
    write_rows(tmp_path / "rows", StageRows(separable_rows(1, seed=0), none, none, 6))
    found = read_rows(tmp_path / "rows")
    assert len(found.train.ids) == 6
    assert list(found.held_queries.ids) == [] and len(found.held_index.labels) == 0


def test_a_spec_builds_the_stage_that_it_says(spec: StageSpec, tiny_encoder: Encoder) -> None:
    rows = separable_stage().train
    assert isinstance(build_objective(spec, tiny_encoder, rows), AdapterDistillation)
    first = build_objective(replace(spec, method=None, teachers=()), tiny_encoder, rows)
    assert isinstance(first, OwnAdapter) and first.student.bottleneck_size == 6
    started = build_objective(replace(spec, initial=spec.teachers[0]), tiny_encoder, rows)
    teacher = unpack_adapter(Path(spec.teachers[0]).read_bytes())
    for own, other in zip(started.student.parameters(), teacher.parameters(), strict=True):
        assert torch.equal(own, other)


def test_stage_1_learns_a_separable_tenant_and_stage_2_learns_it_from_a_teacher(
    spec: StageSpec, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    rows = StageRows(
        separable_rows(40, seed=1), separable_rows(40, seed=1), separable_rows(5, seed=2), NUM_FAQS
    )
    write_rows(Path(spec.rows), rows)
    schedule = Schedule(max_steps=50, learning_rate=2e-2, evaluate_every=25, batch_size=48)
    own = replace(spec, schedule=schedule, bottleneck_size=16, method=None, teachers=())
    held_out = HeldOutRows(tiny_encoder, rows.held_index, rows.held_queries, NUM_FAQS)

    def learns(stage: StageSpec) -> BottleneckAdapter:
        trained = run_stage(stage, tiny_encoder)
        result = trained.result
        assert result.best_score is not None
        assert result.best_score > result.scores[0][1] + 0.5
        assert held_out(trained.student) == pytest.approx(result.best_score, abs=1e-6)
        return trained.student

    teacher = tmp_path / "learned.safetensors"
    teacher.write_bytes(pack_adapter(learns(own), model_name="test"))
    learns(replace(own, method="adapter_distillation", teachers=(str(teacher),)))


def test_held_out_scores_equal_a_brute_force_cross_entropy(tiny_encoder: Encoder) -> None:
    adapter = random_adapter(tiny_encoder, seed=1)
    held_out = held_out_of(tiny_encoder)
    vectors = tiny_encoder.embed_ids(held_out.index.ids, adapter).double()
    centroids = []
    for faq in range(held_out.num_faqs):
        mean = vectors[held_out.index.labels == faq].mean(0)
        centroids.append(mean / mean.norm())
    total = 0.0
    for ids, gold in zip(held_out.queries.ids, held_out.queries.labels.tolist(), strict=True):
        query = tiny_encoder.embed_ids([ids], adapter)[0].double()
        shares = torch.stack([query @ c / 0.05 for c in centroids]).softmax(0)
        total -= float(shares[gold].log())
    expected = -total / len(held_out.queries.ids)
    assert held_out(adapter) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("label", [-1, 6])
def test_held_out_labels_out_of_range_are_refused(tiny_encoder: Encoder, label: int) -> None:
    rows = separable_rows(1, seed=0)
    wrong = TrainingRows([[2, 3]], torch.tensor([label]))
    with pytest.raises(ValueError, match="labels must be from 0 to 5"):
        HeldOutRows(tiny_encoder, rows, wrong, 6)
    with pytest.raises(ValueError, match="labels must be from 0 to 5"):
        HeldOutRows(tiny_encoder, wrong, rows, 6)


@pytest.mark.parametrize("rows", [separable_stage(), fold_stage()], ids=["held out", "folds"])
def test_two_workers_agree_with_one_also_where_one_goes_on_for_the_other(
    spec: StageSpec, tiny_encoder: Encoder, tmp_path: Path, rows: StageRows
) -> None:
    write_rows(Path(spec.rows), rows)
    spec = replace(spec, schedule=replace(SCHEDULE, max_steps=6, evaluate_every=3, batch_size=17))
    states: dict[int, bytes] = {}
    alone = run_stage(spec, tiny_encoder, checkpoint=states.__setitem__)
    together = run_two_workers(tmp_path, tiny_encoder, spec, resume=states[3])
    steps: list[int] = []
    after_two = run_stage(
        spec,
        tiny_encoder,
        resume=together["state-3"],
        progress=lambda step, *_: steps.append(step),
    )
    assert steps[:3] == [4, 5, 6]  # the step after the two's checkpoint; then the whole's
    losses = safetensors.torch.load(together["state-6"])["losses"].tolist()
    assert losses == pytest.approx(alone.result.losses, abs=1e-5)
    assert after_two.result.losses == pytest.approx(alone.result.losses, abs=1e-5)
    assert len(alone.folds) == len(rows.splits())
    students = zip(
        (alone.student, *alone.folds), (after_two.student, *after_two.folds), strict=True
    )
    for number, (expected, then_one) in enumerate(students):
        for other in (
            unpack_adapter(together[f"fresh-{number}"]),
            unpack_adapter(together[f"resumed-{number}"]),
            then_one,
        ):
            for one, two in zip(expected.parameters(), other.parameters(), strict=True):
                torch.testing.assert_close(one, two, rtol=0, atol=1e-5)
