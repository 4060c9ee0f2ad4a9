"""Tenants with long queries, derived from FAQ tables and tasks of pairs."""

import json
from pathlib import Path

import pytest

from adapterdistill.bench.conditional.long_inputs import long_tenants
from adapterdistill.bench.tenants import open_dataset
from adapterdistill.errors import DataError


def words(count: int, seed: int) -> str:
    return " ".join(f"word{(seed * 31 + i * i) % 97}" for i in range(count))


def write(path: Path, rows: list[dict[str, str | None]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def faqs(long: int, short: int = 3) -> list[dict[str, str | None]]:
    answers = [words(50, n) for n in range(long)] + [words(5, 1000 + n) for n in range(short)]
    return [
        {"faq_id": str(n), "question": f"question {n}?", "answer": answer}
        for n, answer in enumerate([*answers, None])
    ]


def pairs(count: int) -> list[dict[str, str | None]]:
    return [
        {
            "id": str(n),
            "text": words(50 if n % 4 else 35, n),
            "text_pair": f"short {n}",
            "label": "false" if n % 5 == 0 else "true",
            "split": "train",
        }
        for n in range(count)
    ]


def test_answers_and_matching_long_texts_become_queries_of_tenants(tmp_path: Path) -> None:
    write(tmp_path / "page" / "faqs.jsonl", faqs(40))
    write(tmp_path / "pairs" / "asked.jsonl", pairs(80))
    made = long_tenants(tmp_path, tmp_path / "made")
    assert [folder.name for folder in made] == ["page.long", "asked.long"]
    page, asked = (open_dataset(folder, tmp_path / "open") for folder in made)
    assert len(page.faqs()) == 40  # short answers, and none, are left out
    question = {faq.faq_id: faq.question for faq in page.faqs()}
    for query in page.queries():
        assert query.faq_id is not None
        assert query.text == words(50, int(question[query.faq_id].split()[1].rstrip("?")))
    splits = [query.split for query in page.queries()]
    assert min(splits.count(split) for split in ("train", "valid", "test")) >= 1
    assert len(asked.faqs()) == 64  # a fifth of the pairs does not match
    for query in asked.queries():
        if query.split != "train":
            assert len(query.text.split()) >= 45


def test_they_are_the_same_every_time(tmp_path: Path) -> None:
    write(tmp_path / "page" / "faqs.jsonl", faqs(40))
    (first,) = long_tenants(tmp_path, tmp_path / "first")
    (second,) = long_tenants(tmp_path, tmp_path / "second")
    for name in ("faqs.jsonl", "queries.jsonl"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_tables_of_too_few_long_texts_make_none(tmp_path: Path) -> None:
    write(tmp_path / "page" / "faqs.jsonl", faqs(10))
    assert long_tenants(tmp_path, tmp_path / "made") == []
    assert long_tenants(tmp_path / "nothing", tmp_path / "made") == []


def test_a_damaged_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "broken.jsonl").write_text('{"id": "1"\n')
    with pytest.raises(DataError, match=r"broken\.jsonl"):
        long_tenants(tmp_path, tmp_path / "made")
    (tmp_path / "pairs" / "broken.jsonl").unlink()
    (tmp_path / "page" / "faqs.jsonl").mkdir(parents=True)
    with pytest.raises(DataError, match=r"faqs\.jsonl"):
        long_tenants(tmp_path, tmp_path / "made")
