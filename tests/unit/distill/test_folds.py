"""Folds: who holds out which row, and that no fold knows what it holds out."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterdistill.adapters import BottleneckAdapter
from adapterdistill.backbone import Encoder
from adapterdistill.checkpoint import pack_adapter, state_digest, unpack_adapter
from adapterdistill.distill.batches import TrainingRows, choose_rows, make_batch
from adapterdistill.distill.folds import NUM_FOLDS, CrossValidation, assign_folds, fold_file
from adapterdistill.distill.held_out import HeldOutRows
from adapterdistill.distill.objective import OwnAdapter, Scored
from adapterdistill.distill.rows import StageRows, read_rows, write_rows
from adapterdistill.distill.stage import StageSpec, build_objective, run_stage, texts_of
from adapterdistill.distill.training import Schedule, train
from adapterdistill.errors import TrainingError
from tests.separable_tenant import NUM_FAQS, fold_stage, separable_rows
from tests.tiny_encoders import random_adapter

QUESTIONS = TrainingRows([[2, n, 3] for n in range(10, 14)], torch.arange(4))
NONE = TrainingRows([], torch.tensor([], dtype=torch.int64))
Texts = list[tuple[int, int]]
"""(FAQ, token) of each row; token n is the question of FAQ n - 10."""


def rows_of(texts: Texts) -> TrainingRows:
    labels = torch.tensor([faq for faq, _ in texts], dtype=torch.int64)
    return TrainingRows([[2, token, 3] for _, token in texts], labels)


def folds_of(texts: Texts, *, seed: int = 0) -> torch.Tensor:
    keys = [f"query-{n}" for n in range(len(texts))]
    return assign_folds(QUESTIONS, rows_of(texts), keys, seed=seed)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(10, 40)), min_size=1, max_size=40))
def test_every_row_is_held_out_once_by_a_training_that_saw_no_copy_of_it(texts: Texts) -> None:
    rows, folds = rows_of(texts), folds_of(texts)
    train = TrainingRows([*QUESTIONS.ids, *rows.ids], torch.cat([QUESTIONS.labels, rows.labels]))
    stage = StageRows(train, NONE, NONE, 4, torch.cat([torch.full((4,), -1), folds]))
    held: Counter[tuple[int, ...]] = Counter()
    for part in stage.splits():
        assert part.held_queries.ids and part.train.ids[:4] == QUESTIONS.ids
        seen = set(map(tuple, part.train.ids)) | set(map(tuple, part.held_index.ids))
        assert not seen & set(map(tuple, part.held_queries.ids))
        assert len(part.train.ids) + len(part.held_queries.ids) == len(train.ids)
        held.update(map(tuple, part.held_queries.ids))
    questions = set(map(tuple, QUESTIONS.ids))
    assert held == Counter(tuple(ids) for ids in rows.ids if tuple(ids) not in questions)


@pytest.mark.parametrize("per_faq", [1, 2, 3, 5, 7])
def test_folds_are_even_within_each_faq_and_in_all(per_faq: int) -> None:
    texts = [(faq, 100 * faq + n) for faq in range(4) for n in range(20, 20 + per_faq)]
    folds = folds_of(texts).tolist()
    in_all = Counter(folds)
    assert sorted(in_all) == list(range(NUM_FOLDS))
    assert max(in_all.values()) - min(in_all.values()) <= 1
    for faq in range(4):
        mine = Counter(f for f, (label, _) in zip(folds, texts, strict=True) if label == faq)
        counts = [mine[fold] for fold in range(NUM_FOLDS)]
        assert max(counts) - min(counts) <= 1


def test_a_fold_hangs_on_the_query_id_and_the_seed_and_not_on_the_order() -> None:
    texts = [(n % 4, 50 + n) for n in range(24)]
    rows, keys = rows_of(texts), [f"query-{n}" for n in range(24)]
    folds = folds_of(texts)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = TrainingRows([rows.ids[n] for n in order], rows.labels[order])
    again = assign_folds(QUESTIONS, shuffled, [keys[n] for n in order], seed=0)
    assert again.tolist() == folds[order].tolist()
    assert folds_of(texts, seed=1).tolist() != folds.tolist()


def test_a_single_row_makes_a_single_fold_and_copies_of_questions_none() -> None:
    assert folds_of([(2, 99)]).tolist() == [0]
    assert folds_of([(2, 99), (3, 99), (0, 10), (1, 10)]).tolist() == [0, 0, -1, -1]


SCHEDULE = Schedule(
    max_steps=9, batch_size=12, evaluate_every=3, learning_rate=5e-3, warmup_steps=2
)


@pytest.fixture
def spec(tmp_path: Path, tiny_encoder: Encoder) -> StageSpec:
    """Stage 2 with two teachers, its folds started from own adapters of theirs."""
    write_rows(tmp_path / "rows.safetensors", fold_stage())
    names = ("own.safetensors", "teacher-1", "teacher-2")
    files = [tmp_path / name for name in names]
    files += [fold_file(files[0], fold) for fold in range(NUM_FOLDS)]
    for seed, file in enumerate(files, 3):
        adapter = random_adapter(tiny_encoder, seed=seed, scale=0.1)
        file.write_bytes(pack_adapter(adapter, model_name="test"))
    return StageSpec(
        rows=str(tmp_path / "rows.safetensors"),
        bottleneck_size=6,
        schedule=SCHEDULE,
        seed=1,
        method="adapter_distillation",
        initial=str(files[0]),
        teachers=(str(files[1]), str(files[2])),
    )


def trained_by_hand(spec: StageSpec, encoder: Encoder, fold: int, steps: int) -> BottleneckAdapter:
    """`steps` steps on each batch without what the fold holds out, as written out plainly."""
    rows = read_rows(Path(spec.rows))
    assert rows.folds is not None
    objective = build_objective(spec.of_fold(fold), encoder, rows.splits()[fold].train)
    found = texts_of(spec, encoder, rows)
    texts, fold_of_text = found.rows, found.folds
    assert fold_of_text is not None
    optimizer = torch.optim.AdamW(
        objective.parameter_groups(SCHEDULE.learning_rate), weight_decay=0.01, fused=True
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, (step + 1) / SCHEDULE.warmup_steps)
        chosen = choose_rows(texts, batch_size=12, seed=spec.seed, step=step)
        kept = [text for text in chosen if fold_of_text[text] != fold]
        assert NUM_FAQS // 2 < len(kept) <= len(chosen) == 12
        optimizer.zero_grad()
        objective(make_batch(texts, kept)).backward()
        optimizer.step()
    return objective.student


@pytest.mark.parametrize("stage", [1, 2])
def test_each_fold_trains_alone_and_the_whole_on_all_rows_for_the_best_mean_score(
    spec: StageSpec, tiny_encoder: Encoder, stage: int
) -> None:
    if stage == 1:
        spec = replace(spec, method=None, teachers=(), initial=None)
    trained = run_stage(spec, tiny_encoder)
    rows = read_rows(Path(spec.rows))

    def score(fold: int, part: StageRows, steps: int) -> float:
        held_out = HeldOutRows(tiny_encoder, part.held_index, part.held_queries, NUM_FAQS)
        return held_out(trained_by_hand(spec, tiny_encoder, fold, steps))

    expected = {
        steps: sum(score(fold, part, steps) for fold, part in enumerate(rows.splits())) / NUM_FOLDS
        for steps in (0, 3, 6, 9)
    }
    assert [step for step, _ in trained.result.scores] == list(expected)
    assert [s for _, s in trained.result.scores] == pytest.approx(list(expected.values()))
    best = max(expected, key=expected.__getitem__)
    assert trained.result.best_step == best > 0
    for fold, student in enumerate(trained.folds):
        by_hand = trained_by_hand(spec, tiny_encoder, fold, best)
        assert state_digest(student) == state_digest(by_hand)
    objective = build_objective(spec, tiny_encoder, rows.train)
    texts = texts_of(spec, tiny_encoder, rows).rows
    train(objective, texts, replace(SCHEDULE, max_steps=best), seed=spec.seed)
    assert state_digest(trained.student) == state_digest(objective.student)


@pytest.mark.parametrize("changed", range(NUM_FOLDS))
def test_what_a_fold_holds_out_does_not_reach_it(
    spec: StageSpec, tiny_encoder: Encoder, changed: int
) -> None:
    """With other texts there, every fold's objective becomes another but that fold's own."""
    rows = read_rows(Path(spec.rows))
    assert rows.folds is not None
    held_out = (rows.folds == changed).tolist()
    pairs = zip(rows.train.ids, held_out, strict=True)
    other = [[*ids[:-1], 77, 3] if held else ids for ids, held in pairs]

    def digests(rows: StageRows) -> list[str]:
        assert rows.folds is not None
        folds = [
            Scored(build_objective(spec.of_fold(fold), tiny_encoder, part.train), lambda _: 0.0)
            for fold, part in enumerate(rows.splits())
        ]
        found = texts_of(spec, tiny_encoder, rows)
        texts, fold_of_text = found.rows, found.folds
        assert fold_of_text is not None
        train(CrossValidation(folds, texts, fold_of_text), texts, SCHEDULE, seed=0)
        return [state_digest(fold.objective) for fold in folds]

    before = digests(rows)
    after = digests(replace(rows, train=TrainingRows(other, rows.train.labels)))
    same = [one == two for one, two in zip(before, after, strict=True)]
    assert same == [fold == changed for fold in range(NUM_FOLDS)]


def test_training_ends_when_the_mean_score_no_longer_rises(tiny_encoder: Encoder) -> None:
    def own() -> OwnAdapter:
        return OwnAdapter(tiny_encoder, BottleneckAdapter.new(2, 32, 6, seed=0))

    stage = fold_stage()
    assert stage.folds is not None
    scripts = iter([0.0, 1.0, 2.0, 3.0]), iter([0.0, 1.0, -1.0, -2.0])
    folds = [Scored(own(), lambda _, script=script: next(script)) for script in scripts]
    validation = CrossValidation(folds, stage.train, stage.folds)
    schedule = replace(SCHEDULE, max_steps=30, patience=2)
    result = train(validation, stage.train, schedule, seed=0, held_out=validation.score)
    assert result.scores == [(0, 0.0), (3, 1.0), (6, 0.5), (9, 0.5)]
    assert (result.best_step, result.best_score, result.steps) == (3, 1.0, 9)


def test_folds_that_are_best_untrained_leave_the_whole_untrained(
    spec: StageSpec, tiny_encoder: Encoder
) -> None:
    spec = replace(spec, schedule=replace(SCHEDULE, learning_rate=0.9, warmup_steps=0))
    trained = run_stage(spec, tiny_encoder)
    assert trained.result.best_step == 0
    start = unpack_adapter(Path(str(spec.initial)).read_bytes())
    assert state_digest(trained.student) == state_digest(start)


def test_more_workers_than_rows_of_a_fold_are_refused(tiny_encoder: Encoder) -> None:
    stage = fold_stage()
    assert stage.folds is not None
    own = OwnAdapter(tiny_encoder, BottleneckAdapter.new(2, 32, 6, seed=0))
    validation = CrossValidation([Scored(own, lambda _: 0.0)], stage.train, stage.folds)
    held_out = (stage.folds == 0).nonzero().flatten().tolist()
    with pytest.raises(TrainingError, match="2 workers need as many rows a step, a fold got 1"):
        validation(make_batch(stage.train, [0, *held_out], world_size=2))


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_labelled_rows_are_enough(
    spec: StageSpec, tiny_encoder: Encoder, count: int
) -> None:
    questions, query = separable_rows(1, seed=1), separable_rows(1, seed=9)
    train = TrainingRows(
        [*questions.ids, *query.ids[:count]], torch.cat([questions.labels, query.labels[:count]])
    )
    folds = torch.tensor([-1] * NUM_FAQS + list(range(count)))
    write_rows(Path(spec.rows), StageRows(train, NONE, NONE, NUM_FAQS, folds))
    trained = run_stage(replace(spec, method=None, teachers=(), initial=None), tiny_encoder)
    assert len(trained.folds) == count
    for student in (trained.student, *trained.folds):
        assert all(bool(p.isfinite().all()) for p in student.parameters())
