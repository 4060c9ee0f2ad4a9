"""Which rows train, which bound the steps, which are only reported."""

from pathlib import Path

import pytest

from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.data import Faq, Query, TenantDataset, held_out
from adapterdistill.data.dataset import write_tenant
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.folds import FEW_ROWS, NUM_FOLDS
from adapterdistill.distill.rows import OUT_OF_SCOPE, TenantRows, tokenise
from tests.owner_runs import write_shop

Row = tuple[tuple[int, ...], int]
FEW = ("train", "train", "train", "train", "train", "test")
MANY = ("train",) * (FEW_ROWS // 5) + ("test",)
"""Of each of the five FAQs."""


def rows_of(rows: TrainingRows) -> set[Row]:
    found = [(tuple(ids), label) for ids, label in zip(rows.ids, rows.labels.tolist(), strict=True)]
    assert len(set(found)) == len(found)  # the made texts are all different
    return set(found)


def expected(
    dataset: TenantDataset, encoder: Encoder, split: str, keep: bool | None = None
) -> set[Row]:
    """By hand: the split's rows, of those held out (`keep` True) or not (False)."""
    position = {faq.faq_id: n for n, faq in enumerate(dataset.faqs())}
    return {
        (tuple(encoder.tokenize([q.text])[0]), position.get(q.faq_id or "", OUT_OF_SCOPE))
        for q in dataset.queries(split)
        if keep is None or held_out(q.query_id, seed=3, fraction=0.2) == keep
    }


def in_scope_of(rows: set[Row]) -> set[Row]:
    return {row for row in rows if row[1] != OUT_OF_SCOPE}


def read(dataset: TenantDataset, encoder: Encoder) -> TenantRows:
    return tokenise(dataset, encoder, seed=3, held_out_fraction=0.2)


def test_valid_rows_are_held_and_all_train_rows_train(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    splits = ("train", "train", "valid", "test", "unlabelled")
    dataset = TenantDataset.open(
        write_shop(tmp_path / "t", splits=splits, out_of_scope=("train", "valid", "valid", "test"))
    )
    rows = read(dataset, tiny_encoder)
    assert not rows.held_from_train
    assert rows_of(rows.train) == in_scope_of(expected(dataset, tiny_encoder, "train"))
    assert rows_of(rows.held) == expected(dataset, tiny_encoder, "valid")
    assert rows_of(rows.test) == expected(dataset, tiny_encoder, "test")
    assert {label for _, label in rows_of(rows.unlabelled)} == {OUT_OF_SCOPE}
    assert sum(label == OUT_OF_SCOPE for _, label in rows_of(rows.held)) == 2
    assert rows_of(rows.index()) == rows_of(rows.questions) | rows_of(rows.train)


def test_without_valid_rows_a_stable_share_of_train_is_held(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    folder = write_shop(tmp_path / "t", splits=MANY, out_of_scope=("train",) * 10)
    dataset = TenantDataset.open(folder)
    rows = read(dataset, tiny_encoder)
    assert rows.held_from_train and rows.folds is None
    assert rows_of(rows.held) == expected(dataset, tiny_encoder, "train", keep=True)
    assert rows_of(rows.train) == in_scope_of(expected(dataset, tiny_encoder, "train", keep=False))
    assert 0 < len(rows.held.ids) < len(rows.train.ids)
    write_tenant(tmp_path / "other-order", dataset.faqs(), reversed(list(dataset.queries())))
    again = read(TenantDataset.open(tmp_path / "other-order"), tiny_encoder)
    assert rows_of(again.held) == rows_of(rows.held)
    assert rows_of(again.train) == rows_of(rows.train)


@pytest.mark.parametrize("has_valid", [True, False])
def test_held_and_test_rows_are_never_trained_on_nor_in_the_index_that_ranks_held_rows(
    tmp_path: Path, tiny_encoder: Encoder, has_valid: bool
) -> None:
    splits = (*FEW, "valid") if has_valid else MANY
    folder = write_shop(tmp_path / "t", splits=splits, out_of_scope=("train", "valid"))
    dataset = TenantDataset.open(folder)
    rows = read(dataset, tiny_encoder)
    stage = rows.stage()
    held, test = rows_of(rows.held), rows_of(rows.test)
    for seen in (rows_of(stage.train), rows_of(stage.held_index)):
        assert not seen & held and not seen & test
        assert all(label != OUT_OF_SCOPE for _, label in seen)
    assert rows_of(stage.held_queries) == in_scope_of(held) != set()
    assert rows_of(rows.questions) <= rows_of(stage.train)
    assert rows_of(rows.questions) <= rows_of(stage.held_index)
    assert not rows_of(rows.index()) & test
    assert (in_scope_of(held) <= rows_of(rows.index())) == (not has_valid)


def test_few_rows_without_valid_ones_all_train_and_each_is_held_out_once(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    folder = write_shop(tmp_path / "t", splits=FEW, out_of_scope=("train", "valid", "test"))
    dataset = TenantDataset.open(folder)
    rows = read(dataset, tiny_encoder)
    stage = rows.stage()
    labelled = in_scope_of(expected(dataset, tiny_encoder, "train"))
    assert not rows.held_from_train and rows.num_folds == NUM_FOLDS
    assert rows_of(rows.train) == labelled
    assert rows_of(stage.train) == rows_of(rows.index()) == rows_of(rows.questions) | labelled
    assert not stage.held_queries.ids
    assert len(rows.held.ids) == 2 and not in_scope_of(rows_of(rows.held))
    held = [rows_of(part.held_queries) for part in stage.splits()]
    assert sorted(row for part in held for row in part) == sorted(labelled)
    write_tenant(tmp_path / "other-order", dataset.faqs(), reversed(list(dataset.queries())))
    again = read(TenantDataset.open(tmp_path / "other-order"), tiny_encoder)
    assert [rows_of(part.held_queries) for part in again.stage().splits()] == held


def test_a_valid_split_of_out_of_scope_rows_alone_holds_a_share_of_train(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    folder = write_shop(tmp_path / "t", splits=MANY, out_of_scope=("valid", "valid"))
    rows = read(TenantDataset.open(folder), tiny_encoder)
    assert rows.held_from_train
    assert rows_of(rows.stage().held_queries)
    few = write_shop(tmp_path / "few", splits=FEW, out_of_scope=("valid", "valid"))
    assert read(TenantDataset.open(few), tiny_encoder).num_folds == NUM_FOLDS


@pytest.mark.parametrize("splits", [FEW, MANY])
def test_out_of_scope_valid_rows_are_held_even_without_labelled_ones(
    tmp_path: Path, tiny_encoder: Encoder, splits: tuple[str, ...]
) -> None:
    folder = write_shop(tmp_path / "t", splits=splits, out_of_scope=("valid", "valid"))
    dataset = TenantDataset.open(folder)
    rows = read(dataset, tiny_encoder)
    assert expected(dataset, tiny_encoder, "valid") <= rows_of(rows.held)


def test_a_tenant_without_queries_trains_on_its_questions_and_answers(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    dataset = TenantDataset.open(write_shop(tmp_path / "t", splits=()))
    rows = read(dataset, tiny_encoder)
    stage = rows.stage()
    questions = [faq.question for faq in dataset.faqs()]
    answers = [str(faq.answer) for faq in dataset.faqs()]
    assert [list(ids) for ids in stage.train.ids] == tiny_encoder.tokenize(questions + answers)
    assert stage.train.labels.tolist() == [0, 1, 2, 3, 4] * 2
    assert not rows.train.ids and not rows.held.ids and not stage.held_queries.ids
    assert [list(ids) for ids in rows.index().ids] == tiny_encoder.tokenize(questions)


def test_without_labels_and_answers_unlabelled_queries_stand_in(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    folder = write_shop(tmp_path / "t", splits=("unlabelled",) * 2, answers=False)
    rows = read(TenantDataset.open(folder), tiny_encoder)
    assert len(rows.unlabelled.ids) == 10
    assert rows_of(rows.stage().train) == rows_of(rows.questions) | rows_of(rows.unlabelled)


def test_more_rows_than_a_chunk_are_all_read_in_order(
    tmp_path: Path, tiny_encoder: Encoder
) -> None:
    shop = TenantDataset.open(write_shop(tmp_path / "t", splits=()))
    texts = [f"row {n}" for n in range(2_500)]
    queries = [Query(f"q{n}", text, "faq-1", "test") for n, text in enumerate(texts)]
    write_tenant(tmp_path / "big", shop.faqs(), queries)
    rows = read(TenantDataset.open(tmp_path / "big"), tiny_encoder)
    assert [list(ids) for ids in rows.test.ids] == tiny_encoder.tokenize(texts)


def test_queries_keep_every_right_faq(tmp_path: Path, tiny_encoder: Encoder) -> None:
    faqs = [Faq(f"f{n}", f"question {n}?", None) for n in range(3)]
    queries = [
        Query("1", "one", "f1", "train"),
        Query("2", "two of them", "f2", "train", ("f0",)),
        Query("3", "three", "f0", "valid", ("f1",)),
        Query("4", "none", None, "valid"),
        Query("5", "all", "f0", "test", ("f1", "f2")),
    ]
    write_tenant(tmp_path / "t", faqs, queries)
    rows = read(TenantDataset.open(tmp_path / "t"), tiny_encoder)
    assert rows.train.labels.tolist() == [[1, -1], [2, 0]]
    assert rows.held.labels.tolist() == [[0, 1], [-1, -1]]
    assert rows.test.labels.tolist() == [[0, 1, 2]]
    stage = rows.stage()
    assert stage.train.labels.tolist() == [[0, -1], [1, -1], [2, -1], [1, -1], [2, 0]]
    assert stage.held_queries.labels.tolist() == [[0, 1]]


def test_questions_and_answers_are_read_as_passages_and_queries_as_queries(
    tmp_path: Path, tiny_encoder: Encoder, tiny_encoder_folder: Path
) -> None:
    dataset = TenantDataset.open(write_shop(tmp_path / "t", splits=FEW))
    prompted = load_encoder(
        str(tiny_encoder_folder), dtype="float32", query_prompt="ask ", passage_prompt="faq "
    )
    rows, faqs = read(dataset, prompted), dataset.faqs()
    assert rows.questions.ids == tiny_encoder.tokenize([f"faq {faq.question}" for faq in faqs])
    answers = [f"faq {faq.answer}" for faq in faqs if faq.answer]
    assert rows.answers.ids == tiny_encoder.tokenize(answers)
    asked = {
        tuple(ids)
        for ids in tiny_encoder.tokenize([f"ask {q.text}" for q in dataset.queries("test")])
    }
    assert {tuple(ids) for ids in rows.test.ids} == asked
