import pytest

from adapterdistill.backbone import Encoder
from adapterdistill.evaluation.foreign import foreign_texts, sample_queries


@pytest.mark.parametrize("name", sorted(sample_queries()))
def test_a_sample_tenants_own_texts_are_not_foreign_to_it(minilm: Encoder, name: str) -> None:
    own = sample_queries()[name]
    found = foreign_texts(minilm, own[::10])
    assert len(found) == len(set(found)) == 210
    others = {text for other, texts in sample_queries().items() if other != name for text in texts}
    assert set(found) <= others


def test_foreign_texts_are_spread_over_the_other_domains(minilm: Encoder) -> None:
    samples = sample_queries()
    found = set(foreign_texts(minilm, ["My card was charged twice", "How do I close an account?"]))
    counts = sorted(len(found & set(texts)) for texts in samples.values())
    assert counts[0] == 0 and counts[1] >= 30


def test_foreign_texts_repeat_and_their_number_is_bounded(minilm: Encoder) -> None:
    own = ["How do I renew a book?"]
    assert foreign_texts(minilm, own) == foreign_texts(minilm, own)
    assert len(foreign_texts(minilm, own, count=10_000)) == sum(
        len(texts) for texts in sample_queries().values()
    ) - max(len(texts) for texts in [sample_queries()["brookfield-library"]])


def test_foreign_texts_need_a_text_of_the_tenant(minilm: Encoder) -> None:
    with pytest.raises(ValueError, match="got none"):
        foreign_texts(minilm, [])
