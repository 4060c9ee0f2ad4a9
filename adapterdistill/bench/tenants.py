"""The benchmark's tenants: read once, tokenised once, sampled by hash so that samples nest."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adapterdistill.backbone import Encoder
from adapterdistill.data import Query, TenantDataset, import_tenant, nested_order
from adapterdistill.data.schema import FAQS_FILE
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.errors import DataError

_SAMPLE_SEED = 0
_BANKING = frozenset({"banking77.a", "natcs.banking", "clinc.banking"})
_HOUSEHOLD = frozenset({"clinc.utility", "clinc.home", "clinc.travel"})


@dataclass(frozen=True)
class TextRows:
    """Texts with their token ids and labels; TF-IDF reads the texts, encoders the ids."""

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    labels: Tensor
    """[rows] int64: position of the row's FAQ; -1 for a query that no FAQ answers."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))

    def select(self, rows: Sequence[int]) -> "TextRows":
        chosen = list(rows)
        return TextRows(
            tuple(self.texts[row] for row in chosen),
            tuple(self.ids[row] for row in chosen),
            self.labels[chosen],
        )

    def join(self, other: "TextRows") -> "TextRows":
        return TextRows(
            self.texts + other.texts, self.ids + other.ids, torch.cat([self.labels, other.labels])
        )

    def training(self) -> TrainingRows:
        return TrainingRows(self.ids, self.labels)


@dataclass(frozen=True)
class BenchTenant:
    """One tenant. Rows of `train` carry their rank within their FAQ's nested order."""

    name: str
    digest: str
    """sha256 of the tenant's content."""
    questions: TextRows
    train: TextRows
    valid: TextRows
    """Rows for choices only; empty where the tenant has none."""
    test: TextRows
    out_of_scope: TextRows

    @property
    def num_faqs(self) -> int:
        return len(self.questions)

    def first(self, k: int | None, *, seed: int) -> TextRows:
        """The first k training queries of each FAQ in its nested order; None: all."""
        if k is None:
            return self.train
        chosen: list[int] = []
        for faq in range(self.num_faqs):
            own = (self.train.labels == faq).nonzero().flatten().tolist()
            texts = [self.train.texts[row] for row in own]
            order = nested_order(texts, seed=seed, tenant=self.name)
            chosen += [own[i] for i in order[:k]]
        return self.train.select(chosen)

    def arrival(self, k: int | None, *, seed: int) -> TextRows:
        """The rows with which the tenant arrives: every FAQ's question, then its k queries."""
        return self.questions.join(self.first(k, seed=seed))


def related(first: str, second: str) -> bool:
    """Whether two tenants of the public collection share their subject."""
    if {first, second} <= _BANKING:
        return True
    for one, other in ((first, second), (second, first)):
        if one.startswith("hwu.") and other in _HOUSEHOLD:
            return True
    return False


def choose_teachers(
    tenant: str, names: Iterable[str], *, count: int, seed: int, unrelated: bool = False
) -> tuple[str, ...]:
    """The first `count` others in a seeded order: nested over `count`, never the tenant itself."""
    others = sorted(name for name in names if name != tenant)
    random.Random(f"{seed}|{tenant}").shuffle(others)
    if unrelated:
        others = [name for name in others if not related(tenant, name)]
    return tuple(others[:count])


def spread(names: Sequence[str], count: int | None) -> list[str]:
    """`count` names evenly spaced over the sorted names: every source is met."""
    ordered = sorted(names)
    if count is None or count >= len(ordered):
        return ordered
    return [ordered[i * len(ordered) // count] for i in range(count)]


def tenant_names(data: Path) -> list[str]:
    """Folders in `data` that hold a FAQ table.

    Raises:
        DataError: `data` is no folder, or holds fewer than two tenants.
    """
    if not data.is_dir():
        raise DataError("benchmark data: the folder of tenants does not exist")
    names = sorted(
        folder.name for folder in data.iterdir() if folder.is_dir() and any(folder.glob("faqs.*"))
    )
    if len(names) < 2:
        raise DataError(f"benchmark data: expected 2 or more tenants, found {len(names)}")
    return names


def open_dataset(source: Path, workspace: Path) -> TenantDataset:
    """A tenant in the project's format; other sources are imported into `workspace` first."""
    if (source / FAQS_FILE).exists():
        return TenantDataset.open(source)
    target = workspace / source.name
    import_tenant(source, target, overwrite=True)
    return TenantDataset.open(target)


def read_tenant(
    dataset: TenantDataset, name: str, encoder: Encoder, *, max_test: int, max_valid: int
) -> BenchTenant:
    """Read and tokenise one tenant. Test, valid and out-of-scope rows are sampled by hash."""
    faqs = dataset.faqs()
    position = {faq.faq_id: i for i, faq in enumerate(faqs)}
    parts: dict[str, list[Query]] = {"train": [], "valid": [], "test": [], "out_of_scope": []}
    for query in dataset.queries():
        if query.out_of_scope and query.split == "test":
            parts["out_of_scope"].append(query)
        elif query.faq_id is not None:
            parts[query.split].append(query)

    def rows(queries: Sequence[Query], limit: int | None) -> TextRows:
        order = nested_order([q.text for q in queries], seed=_SAMPLE_SEED, tenant=name)
        kept = [queries[i] for i in order[:limit]]
        texts = [query.text for query in kept]
        labels = [-1 if q.faq_id is None else position[q.faq_id] for q in kept]
        return _tokenised(encoder, texts, labels)

    return BenchTenant(
        name=name,
        digest=dataset.digest(),
        questions=_tokenised(encoder, [f.question for f in faqs], list(range(len(faqs)))),
        train=rows(parts["train"], None),
        valid=rows(parts["valid"], max_valid),
        test=rows(parts["test"], max_test),
        out_of_scope=rows(parts["out_of_scope"], max_test),
    )


def _tokenised(encoder: Encoder, texts: Sequence[str], labels: Sequence[int]) -> TextRows:
    ids = encoder.tokenize(texts) if texts else []
    return TextRows(
        tuple(texts), tuple(map(tuple, ids)), torch.tensor(list(labels), dtype=torch.int64)
    )
