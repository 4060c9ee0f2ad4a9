"""The shipped sample tenants are sound, varied and well split."""

import re
from collections import Counter
from pathlib import Path

import pytest

from adapterdistill.data import TenantDataset, import_samples, sample_names
from adapterdistill.data.importing import GERMAN_SAMPLE
from adapterdistill.errors import DataError
from adapterdistill.manifest import is_name


def test_six_organisations_ship() -> None:
    assert len(sample_names()) == 6 and all(is_name(name) for name in sample_names())


@pytest.mark.parametrize("name", sample_names())
def test_sample_is_sound_and_has_enough_of_everything(name: str, tmp_path: Path) -> None:
    import_samples(name, tmp_path / name)
    tenant = TenantDataset.open(tmp_path / name)
    faqs, queries = tenant.faqs(), list(tenant.queries())
    assert len(faqs) >= 10 and all(faq.answer for faq in faqs)
    for faq in faqs:
        splits = Counter(query.split for query in queries if query.faq_id == faq.faq_id)
        assert splits == {"train": 6, "valid": 2, "test": 4}
    counts = tenant.counts()
    assert 6 <= counts["out_of_scope"] <= 8
    assert min(counts["oos_train"], counts["oos_valid"], counts["oos_test"]) >= 1


def test_the_german_sample_is_sound_and_split(tmp_path: Path) -> None:
    import_samples(GERMAN_SAMPLE, tmp_path / "t")
    counts = TenantDataset.open(tmp_path / "t").counts()
    assert (counts["faqs"], counts["faqs_with_answer"]) == (12, 12)
    assert counts["train"] - counts["oos_train"] == 36 and counts["test"] - counts["oos_test"] == 24
    assert min(counts["oos_train"], counts["oos_valid"], counts["oos_test"]) >= 1
    assert GERMAN_SAMPLE not in sample_names()


def test_no_wording_repeats_anywhere_and_all_are_short(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for name in sample_names():
        import_samples(name, tmp_path / name)
        tenant = TenantDataset.open(tmp_path / name)
        texts = [query.text for query in tenant.queries()]
        assert all(len(text.split()) <= 17 for text in texts)
        plain = Counter(re.sub(r"\W+", " ", text.lower()).strip() for text in texts)
        assert max(plain.values()) == 1
        questions = {faq.question.lower() for faq in tenant.faqs()}
        assert not questions & {text.lower() for text in texts}
        seen.update(plain)
    # Tenants overlap in topic, not in wording: a few blunt phrases may meet.
    assert sum(count > 1 for count in seen.values()) <= 0.03 * len(seen)


def test_unknown_sample_is_an_error_and_no_path(tmp_path: Path) -> None:
    for name in ("nobody", "../samples/valtara-rail", ""):
        with pytest.raises(DataError, match="no such sample"):
            import_samples(name, tmp_path / "out")
    assert not (tmp_path / "out").exists()
