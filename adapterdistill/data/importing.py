"""Import of tenants from the tables that people have, and the sample tenants.

The queries of a source are read several times (find the columns; check; choose the k kept rows;
write) and never held, but for the rows whose texts or ids repeat: digests and the k best keys of
each FAQ stay in memory. FAQs are held.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappush, heappushpop
from importlib.resources import files
from pathlib import Path

from adapterdistill.data.dataset import TenantDataset, refuse_to_replace, write_tenant
from adapterdistill.data.reading import Defect
from adapterdistill.data.schema import Fault, Query, faults_message, local_folder
from adapterdistill.data.sources.cells import ids_of, is_no_label
from adapterdistill.data.sources.columns import FIELDS
from adapterdistill.data.sources.faqs import SourceFaqs, faqs_of_labels, read_faqs
from adapterdistill.data.sources.finding import SourceError, find_source
from adapterdistill.data.sources.queries import SourceQueries
from adapterdistill.data.sources.report import ImportReport
from adapterdistill.data.sources.roles import Source
from adapterdistill.data.sources.rows import numbered
from adapterdistill.data.sources.text import check_encoding
from adapterdistill.data.splits import held_out, nested_key
from adapterdistill.errors import DataError

GERMAN_SAMPLE = "sonnthal-baeder"
"""An invented organisation whose FAQs are in German."""


@dataclass(frozen=True)
class _Selection:
    """Which training rows move to valid or test, and which of the rest are kept."""

    seed: int
    tenant: str
    test: float
    valid: float
    k: int | None

    def split_of(self, query: Query) -> str:
        # By text, so that equal texts are never on both sides; nested, so that valid and test rows
        # never overlap.
        if query.split != "train":
            return query.split
        if held_out(query.text, seed=self.seed, fraction=self.test):
            return "test"
        if held_out(query.text, seed=self.seed, fraction=self.test + self.valid):
            return "valid"
        return "train"


@dataclass(frozen=True)
class Imported:
    """A tenant that was written."""

    counts: dict[str, int]
    """Counts of the tenant (`TenantDataset.counts`)."""
    report: ImportReport


def import_tenant(
    source: Path,
    target: Path,
    *,
    k: int | None = None,
    seed: int = 0,
    valid_fraction: float = 0.0,
    test_fraction: float = 0.0,
    tenant: str | None = None,
    overwrite: bool = False,
    encoding: str | None = None,
    mapped: Sequence[tuple[str, str]] = (),
) -> Imported:
    """Make the tenant folder `target` from the FAQs and, if there, the queries in `source`.

    `adapterdistill.data.sources` says which files and columns are read. The columns `faq_id` of
    FAQs, `answer`, `query_id` and `split` may be missing: ids made from the question; no answers;
    ids made from the row's position; every row train, or unlabelled where `faq_id` is empty.

    Args:
        source: a folder, or one file with FAQs.
        k: how many training queries of each FAQ to keep, by `nested_order`. Out-of-scope training
            rows are kept, except that 0 keeps no training row at all. None keeps everything.
        valid_fraction: training rows that become valid ones before k is applied; without effect
            if the source has valid rows. `test_fraction` likewise.
        tenant: a part of the nested sample's key, with seed and text; the source folder's name by
            default, so that imports to several targets nest.
        encoding: of text files without a byte order mark; UTF-8 by default.
        mapped: (field, column) pairs that go before what the columns' names say.

    Raises:
        ValueError: k is negative, the fractions are outside [0, 1) or add up to 1 or more, or
            there is no such encoding or field.
        DataError: the source has faults (all in its own rows), or the target is in the way.
            Nothing was written.
    """
    _check_arguments(k, valid_fraction, test_fraction)
    encoding = None if encoding is None else check_encoding(encoding)
    unknown = [name for name, _ in mapped if name not in FIELDS]
    if unknown:
        raise ValueError(f"--map takes FIELD=COLUMN with a field of {', '.join(FIELDS)}")
    source, target = local_folder(source), local_folder(target)
    refuse_to_replace(target, overwrite=overwrite)
    queries, faqs, report = _read(source, encoding, mapped, target)

    splits = {query.split for query in queries}
    selection = _Selection(
        seed=seed,
        tenant=tenant if tenant is not None else source.resolve().name,
        test=0.0 if "test" in splits else test_fraction,
        valid=0.0 if "valid" in splits else valid_fraction,
        k=k,
    )
    write_tenant(target, faqs.faqs, _selected(queries, selection), overwrite=overwrite)
    report.settle()
    return Imported(TenantDataset(target).counts(), report)


def _read(
    place: Path, encoding: str | None, mapped: Sequence[tuple[str, str]], target: Path
) -> tuple[SourceQueries, SourceFaqs, ImportReport]:
    """The source, found sound. Raises DataError with every fault and how each file was read."""
    report = ImportReport()
    try:
        source = find_source(place, encoding=encoding, mapped=mapped, leave_out=target)
    except SourceError as error:
        raise DataError(faults_message(place, error.faults, error.read_as)) from None
    report.ignored += source.ignored
    report.notes += source.notes
    if source.faqs is not None:
        faqs = read_faqs(source.faqs, report)
    else:
        faqs = faqs_of_labels(_labels(place, source))
        made = f"no FAQs were found; they are made of the {len(faqs.faqs)} labels of the queries"
        report.warnings.append(f"{source.queries[0].raw.name}: {made}, without answers")
    queries = SourceQueries(source.queries, faqs, source.class_names, report)
    faults = faqs.faults + queries.check()
    if faults:
        told = [_with_hint(fault, encoding) for fault in faults]
        raise DataError(faults_message(place, told, report.shown_tables()))
    return queries, faqs, report


def sample_names() -> list[str]:
    """List the invented organisations that ship with the project and speak English."""
    return sorted(entry.name for entry in _samples().iterdir() if (entry / "faqs.jsonl").is_file())


def import_samples(name: str, target: Path, *, overwrite: bool = False) -> dict[str, int]:
    """Write the sample tenant `name` to `target`. Raises DataError if there is no such sample."""
    if name == GERMAN_SAMPLE:
        return import_tenant(_samples() / "multilingual" / name, target, overwrite=overwrite).counts
    if name not in sample_names():
        raise DataError(f"no such sample tenant; there are {', '.join(sample_names())}")
    return import_tenant(_samples() / name, target, overwrite=overwrite).counts


def _samples() -> Path:
    return Path(str(files("adapterdistill"))) / "samples"


def _check_arguments(k: int | None, valid_fraction: float, test_fraction: float) -> None:
    if k is not None and k < 0:
        raise ValueError(f"k must be 0 or more, got {k}")
    sound = 0.0 <= valid_fraction < 1.0 and 0.0 <= test_fraction < 1.0
    if not sound or valid_fraction + test_fraction >= 1.0:
        raise ValueError("valid and test fractions must be in [0, 1) and add up to less than 1")


def _with_hint(fault: Fault, encoding: str | None) -> Fault:
    """The fault with what may help where a text is not of the encoding that was taken."""
    if fault.problem != Defect.INVALID_UTF8.value:
        return fault
    if encoding is not None:
        return replace(fault, problem=f"is not valid {encoding}, as --encoding says")
    hint = "; if it comes from Excel, try --encoding cp1252"
    return replace(fault, problem=f"{fault.problem}{hint}")


def _labels(place: Path, source: Source) -> list[str]:
    """The names of the labels of a source without FAQs. Raises DataError if there are none."""
    labelled = [table for table in source.queries if "faq_id" in table.match]
    problem = "has no faqs.csv, faqs.jsonl, faqs.xlsx or another table of FAQs"
    if not labelled:
        ignored = "".join(f"\n  ignored: {what}: {why}" for what, why in source.ignored)
        raise DataError(f"{place} {problem}{ignored}")
    if source.class_names:
        return list(dict.fromkeys(source.class_names))
    found: dict[str, None] = {}
    for table in labelled:
        column = table.match.places["faq_id"][0]
        names = table.raw.class_names.get(table.raw.columns[column])
        if names:
            found |= dict.fromkeys(names)
            continue
        for _, record in numbered(table):
            if record is not None and not isinstance(record, str):
                labels = [one for one in ids_of(record[column]) if isinstance(one, str)]
                found |= dict.fromkeys(one for one in labels if not is_no_label(one))
    if not any(re.search(r"[^\W\d]", label) for label in found):
        raise DataError(
            f"{place} {problem}, and the labels of the queries are numbers without names; put the "
            "names beside them in labels.txt, one a line"
        )
    return list(found)


def _selected(queries: Iterable[Query], selection: _Selection) -> Iterator[Query]:
    kept = None if selection.k is None else _kept_rows(queries, selection)
    for row, query in enumerate(queries):
        split = selection.split_of(query)
        if split == "train" and kept is not None:
            dropped = selection.k == 0 if query.faq_id is None else row not in kept
            if dropped:
                continue
        yield replace(query, split=split)


def _kept_rows(queries: Iterable[Query], selection: _Selection) -> set[int]:
    """Find the rows of the first k training queries of each FAQ, in the order of `nested_order`."""
    if not selection.k:
        return set()
    # A heap removes its smallest entry, and the largest key must go: keys are negated.
    best: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row, query in enumerate(queries):
        if selection.split_of(query) != "train":
            continue
        key = nested_key(query.text, seed=selection.seed, tenant=selection.tenant)
        entry = (-int.from_bytes(key, "big"), -row)
        for faq_id in query.faq_ids:
            heap = best[faq_id]
            if len(heap) < selection.k:
                heappush(heap, entry)
            else:
                heappushpop(heap, entry)
    return {-row for heap in best.values() for _, row in heap}
