"""Doubtful rows of a sound tenant: texts in two splits, or with contradicting labels."""

from collections.abc import Iterator
from pathlib import Path

from adapterdistill.data.dataset import TenantDataset
from adapterdistill.data.repeats import PlacedQuery, Suspects, find_repeats
from adapterdistill.data.schema import QUERIES_FILE, local_folder


def find_doubts(folder: Path) -> list[str]:
    """Warn of the doubtful rows of a sound tenant's queries, one warning a row."""
    dataset = TenantDataset(local_folder(folder))
    suspects = Suspects()
    for number, placed in enumerate(_placed(dataset)):
        suspects.add(number, placed)
    numbers = suspects.numbers()
    rows = ((number, p) for number, p in enumerate(_placed(dataset)) if number in numbers)
    return find_repeats(rows).warnings if numbers else []


def _placed(dataset: TenantDataset) -> Iterator[PlacedQuery]:
    """Each query with the first of its rows."""
    row = 0
    for query in dataset.queries():
        yield PlacedQuery(QUERIES_FILE, row, query)
        row += max(1, len(query.faq_ids))
