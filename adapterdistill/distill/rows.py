"""A tenant's rows as token ids, split for training, choosing and testing. Texts are not kept."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from adapterdistill.backbone import Encoder, TextReader
from adapterdistill.data import Query, TenantDataset, held_out
from adapterdistill.data.schema import SPLITS
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.distill.folds import FEW_ROWS, assign_folds
from adapterdistill.distill.held_out import HeldOutRows
from adapterdistill.distill.labels import joined, labels_of, right_labels

OUT_OF_SCOPE = -1
_CHUNK_ROWS = 1024
_INDEX_ROWS_PER_FAQ = 8
_HELD_QUERIES = 300
"""Bounds of the rows that score a training's steps: each score embeds all of them."""


@dataclass(frozen=True)
class StageRows:
    """A tenant's rows as one stage sees them; `held_*` are empty if nothing is held out."""

    train: TrainingRows
    held_index: TrainingRows
    held_queries: TrainingRows
    num_faqs: int
    folds: Tensor | None = None
    """[train rows] int64: the fold that holds the row out, -1 for none. None: no folds."""

    def scorer(self, encoder: Encoder) -> HeldOutRows:
        """Scores adapters on the held-out rows; there must be some."""
        return HeldOutRows(encoder, self.held_index, self.held_queries, self.num_faqs)

    def splits(self) -> list["StageRows"]:
        """The rows as each fold sees them: its own held out, the others to fit."""
        if self.folds is None:
            return []
        labelled = self.train.first_labels >= 0
        return [
            StageRows(
                train=self.train.select(self.folds != fold),
                held_index=self.train.select((self.folds != fold) & labelled),
                held_queries=self.train.select(self.folds == fold),
                num_faqs=self.num_faqs,
            )
            for fold in range(int(self.folds.max()) + 1)
        ]


_PARTS = ("train", "held_index", "held_queries")


ROWS_FILE = "rows.safetensors"
"""Name of the file of `write_rows` in a run's folder."""


def write_rows(path: Path, rows: StageRows) -> None:
    """Token ids and labels as safetensors."""
    tensors: dict[str, Tensor] = {"num_faqs": torch.tensor(rows.num_faqs)}
    for part in _PARTS:
        value: TrainingRows = getattr(rows, part)
        lengths = [len(ids) for ids in value.ids]
        tensors[f"{part}.ids"] = torch.tensor(
            [i for ids in value.ids for i in ids], dtype=torch.int32
        )
        tensors[f"{part}.lengths"] = torch.tensor(lengths, dtype=torch.int64)
        tensors[f"{part}.labels"] = value.labels.clone()  # parts may share theirs
    if rows.folds is not None:
        tensors["folds"] = rows.folds
    path.write_bytes(safetensors.torch.save(tensors))


def read_rows(path: Path) -> StageRows:
    tensors = safetensors.torch.load(path.read_bytes())

    def part(name: str) -> TrainingRows:
        pieces = tensors[f"{name}.ids"].split(tensors[f"{name}.lengths"].tolist())
        return TrainingRows([piece.tolist() for piece in pieces], tensors[f"{name}.labels"])

    train_rows, held_index, held_queries = map(part, _PARTS)
    return StageRows(
        train_rows, held_index, held_queries, int(tensors["num_faqs"]), tensors.get("folds")
    )


@dataclass(frozen=True)
class TenantRows:
    """Token ids by split. Labels are positions in the FAQ list; OUT_OF_SCOPE for none."""

    questions: TrainingRows
    """One row an FAQ, in order."""
    answers: TrainingRows
    """The answers there are."""
    train: TrainingRows
    """Labelled training queries."""
    held: TrainingRows
    """Rows for choices only: `valid`, or a stable share of the training rows where there is none.
    Includes out-of-scope rows; none but those where there are `folds`."""
    test: TrainingRows
    """Rows for reporting only. Includes out-of-scope rows."""
    unlabelled: TrainingRows
    held_from_train: bool
    folds: Tensor | None = None
    """[train rows] int64: which fold holds the row out, -1 for none. None: no folds."""

    @property
    def num_faqs(self) -> int:
        return len(self.questions.ids)

    @property
    def num_folds(self) -> int:
        return 0 if self.folds is None else int(self.folds.max()) + 1

    def index(self) -> TrainingRows:
        """Index that serving ranks against: questions and every labelled training query."""
        kept = join(self.questions, self.train)
        return join(kept, in_scope(self.held)) if self.held_from_train else kept

    def held_index(self) -> TrainingRows:
        """Index that held-out rows are ranked against: without them."""
        return join(self.questions, self.train)

    def stage(self) -> StageRows:
        """Rows for training: questions and queries to fit, held-out queries to bound the steps.

        Without labelled training rows the answers replace them, each a positive of its question.
        """
        fit = join(self.questions, self.train if self.train.ids else self.answers)
        if not self.train.ids and not self.answers.ids:
            fit = join(fit, self.unlabelled)
        folds = self.folds
        if folds is not None:
            folds = torch.cat([folds.new_full((self.num_faqs,), -1), folds])
        return StageRows(
            train=fit,
            held_index=join(self.questions, first_of_each(self.train, _INDEX_ROWS_PER_FAQ)),
            held_queries=spread(in_scope(self.held), _HELD_QUERIES),
            num_faqs=self.num_faqs,
            folds=folds,
        )


@dataclass(frozen=True)
class HeldOutRule:
    """Which training queries choices are made on: `held(query)` says whether one is held out.

    The rows that bound the steps and compare adapters are the `valid` rows if some are labelled;
    the folds if there are under `FEW_ROWS` labelled training rows; otherwise `fraction` of them.
    """

    has_valid: bool
    few: bool
    keys: tuple[str, ...]
    """Ids of the labelled training queries, at most `FEW_ROWS`."""
    seed: int
    fraction: float

    @classmethod
    def of(cls, dataset: TenantDataset, *, seed: int, fraction: float) -> "HeldOutRule":
        has_valid = any(q.faq_id is not None for q in dataset.queries("valid"))
        labelled = (q.query_id for q in dataset.queries("train") if not q.out_of_scope)
        keys = tuple(islice(labelled, FEW_ROWS))
        return cls(has_valid, 0 < len(keys) < FEW_ROWS and not has_valid, keys, seed, fraction)

    def __call__(self, query: Query) -> bool:
        if self.has_valid:
            return False
        if self.few:
            return query.out_of_scope
        return held_out(query.query_id, seed=self.seed, fraction=self.fraction)

    def trains(self, query: Query) -> bool:
        """Whether the training query trains adapters."""
        return not query.out_of_scope and not self(query)


def tokenise(
    dataset: TenantDataset, encoder: Encoder, *, seed: int, held_out_fraction: float
) -> TenantRows:
    """Read a tenant, a batch of rows at a time, into token ids; `HeldOutRule` holds rows out."""
    faqs = dataset.faqs()
    position = {faq.faq_id: i for i, faq in enumerate(faqs)}
    questions = TrainingRows(
        encoder.tokenize([faq.question for faq in faqs], "passage"), torch.arange(len(faqs))
    )
    answered = [(i, faq.answer) for i, faq in enumerate(faqs) if faq.answer]
    answers = TrainingRows(
        encoder.tokenize([text for _, text in answered], "passage"),
        torch.tensor([i for i, _ in answered], dtype=torch.int64),
    )

    def part(split: str, keep: Callable[[Query], bool] = lambda query: True) -> TrainingRows:
        return _tokenise(filter(keep, dataset.queries(split)), encoder, position)

    held = HeldOutRule.of(dataset, seed=seed, fraction=held_out_fraction)
    train = part("train", held.trains)
    return TenantRows(
        questions=questions,
        answers=answers,
        train=train,
        # Valid rows that are all out of scope cannot choose, but do set when to abstain.
        held=join(part("train", held), part("valid")),
        test=part("test"),
        unlabelled=part("unlabelled"),
        held_from_train=not held.has_valid and not held.few,
        folds=assign_folds(questions, train, held.keys, seed=seed) if held.few else None,
    )


def count_cut(dataset: TenantDataset, reader: TextReader) -> dict[str, int]:
    """Count the questions, answers and queries of which the encoder does not read the end."""
    faqs = dataset.faqs()
    answers = [faq.answer for faq in faqs if faq.answer]
    queries = 0
    for split in SPLITS:
        rows = iter(dataset.queries(split))
        while texts := [query.text for query in islice(rows, _CHUNK_ROWS)]:
            queries += reader.num_cut(texts, "query")
    return {
        "questions": reader.num_cut([faq.question for faq in faqs], "passage"),
        "answers": reader.num_cut(answers, "passage"),
        "queries": queries,
    }


def _tokenise(queries: Iterable[Query], encoder: Encoder, position: dict[str, int]) -> TrainingRows:
    ids: list[list[int]] = []
    right: list[list[int]] = []
    texts: list[str] = []
    for query in queries:
        texts.append(query.text)
        right.append([position[faq_id] for faq_id in query.faq_ids])
        if len(texts) == _CHUNK_ROWS:
            ids += encoder.tokenize(texts)
            texts = []
    if texts:
        ids += encoder.tokenize(texts)
    return TrainingRows(ids, labels_of(right))


def join(first: TrainingRows, second: TrainingRows) -> TrainingRows:
    return TrainingRows([*first.ids, *second.ids], joined([first.labels, second.labels]))


def in_scope(rows: TrainingRows) -> TrainingRows:
    return rows.select(rows.first_labels >= 0)


def out_of_scope(rows: TrainingRows) -> TrainingRows:
    return rows.select(rows.first_labels < 0)


def first_of_each(rows: TrainingRows, count: int) -> TrainingRows:
    """The first `count` rows of each label, in order."""
    seen: dict[int, int] = {}
    mask = torch.zeros(len(rows.ids), dtype=torch.bool)
    for row, right in enumerate(right_labels(rows.labels).tolist()):
        labels = [label for label in right if label >= 0] or [OUT_OF_SCOPE]
        for label in labels:
            seen[label] = seen.get(label, 0) + 1
        mask[row] = any(seen[label] <= count for label in labels)
    return rows.select(mask)


def spread(rows: TrainingRows, count: int) -> TrainingRows:
    """At most `count` rows, evenly spread over all, whatever order they were stored in."""
    mask = torch.zeros(len(rows.ids), dtype=torch.bool)
    if len(rows.ids) <= count:
        mask[:] = True
    else:
        mask[torch.linspace(0, len(rows.ids) - 1, count).round().long()] = True
    return rows.select(mask)
