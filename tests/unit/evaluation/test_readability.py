"""What an encoder cannot read or tell apart is named by id before anything is trained."""

from collections.abc import Sequence

import pytest
import torch

from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.data import Faq
from adapterdistill.distill.batches import TrainingRows
from adapterdistill.errors import DataError, UnreadableTextError
from adapterdistill.evaluation.readability import Readability, check_readable

THAI = ["คืนสินค้าได้อย่างไร", "ร้านเปิดกี่โมง", "ค่าจัดส่งเท่าไร"]
CHINESE = ["如何退货?", "你们几点开门?", "运费是多少?"]
RUSSIAN = ["Как вернуть товар?", "Сколько стоит доставка?", "Когда вы открываетесь?"]
EMOJI = ["📦❓", "🎉", "🚚 💶"]
ENGLISH = [
    *("How do I return an item?", "When do you open?", "What does delivery cost?"),
    *("Can I pay by card?", "Where is my parcel?", "How do I cancel?", "Do you ship abroad?"),
    *("Is there a warranty?", "Can I change my address?", "How do I close my account?"),
]


def look(
    encoder: Encoder, questions: Sequence[str], queries: Sequence[tuple[int, str]] = ()
) -> Readability:
    faqs = [Faq(f"f{n}", question, None) for n, question in enumerate(questions)]
    texts = [*questions, *(text for _, text in queries)]
    labels = [*range(len(questions)), *(label for label, _ in queries)]
    rows = TrainingRows(encoder.tokenize(texts), torch.tensor(labels))
    return check_readable(faqs, rows, encoder)


def refused(found: Readability) -> str:
    """The refusal, or nothing."""
    try:
        found.require()
    except (DataError, UnreadableTextError) as error:
        return f"{error.reason}: {error}"
    return ""


@pytest.mark.parametrize("questions", [THAI, CHINESE, EMOJI], ids=["thai", "chinese", "emoji"])
def test_scripts_that_the_encoder_lacks_are_refused_by_id_with_an_encoder_that_reads_them(
    minilm: Encoder, questions: list[str]
) -> None:
    said = refused(look(minilm, questions))
    assert said.startswith(
        "TEXT_UNREADABLE: encoder minilm-l6 cannot read 3 of 3 FAQs (f0, f1, f2)"
    )
    assert 'encoder.name = "multilingual-e5-small"' in said
    assert not any(question in said for question in questions)


@pytest.mark.parametrize(
    ("questions", "queries", "reason", "warned"),
    [
        (ENGLISH, [], "", []),
        ([*ENGLISH, EMOJI[0]], [], "", ["cannot read 1 of 11 FAQs (f10)", "without a letter"]),
        (EMOJI, [(0, "my parcel"), (1, "a party"), (2, "price")], "", ["without a letter"]),
        (["1", "2", "3"], [(0, "my parcel")], "", ["3 FAQs without a letter in the question"]),
        (["?", "??", "!"], [], "", ["without a letter in the question (f0, f1, f2)"]),
        ([*ENGLISH[:2], "how do i  RETURN an item?"], [], "", ["equal questions (f0 = f2)"]),
        (["When?", "When?"], [], "INVALID_DATA", ["equal questions (f0 = f1)"]),
        (["When?", "When?"], [(0, "opening hours"), (1, "arrival time")], "", []),
        (["When?", "When?"], [(0, "hours"), (1, "hours")], "INVALID_DATA", ["(f0 = f1)"]),
        (
            ["word " * 260 + "refund", "word " * 260 + "opening", "Where?"],
            [],
            "",
            ["cut to equal beginnings at 256 tokens (f0 = f1)", "raise encoder.max_tokens"],
        ),
        (RUSSIAN, [], "", ["reads the questions letter by letter"]),
        (["\u2060", "\u2060\u2060"], [], "TEXT_UNREADABLE", ["cannot read 2 of 2", "letter"]),
    ],
    ids=[
        *("english", "one-emoji", "emoji-with-queries", "numbers", "punctuation"),
        *("the-same-question-twice", "all-the-same", "the-same-with-queries"),
        *("the-same-queries", "cut", "russian", "invisible"),
    ],
)
def test_what_works_is_warned_of_and_what_cannot_work_is_refused(
    minilm: Encoder,
    questions: list[str],
    queries: list[tuple[int, str]],
    reason: str,
    warned: list[str],
) -> None:
    found = look(minilm, questions, queries)
    assert refused(found).partition(":")[0] == reason
    told = "\n".join(found.warnings())
    assert [part for part in warned if part not in told] == []
    assert warned or not told


def test_a_language_that_the_encoder_was_not_trained_on_is_warned_of(minilm: Encoder) -> None:
    found = look(minilm, ["Wann öffnet ihr?", "Was kostet der Versand?"])
    assert found.warnings("en-GB") == found.warnings("und") == []
    [said] = found.warnings("de-AT")
    assert "minilm-l6 was not trained on de-AT" in said and "multilingual-e5-small" in said
    [said] = found.warnings("tlh")  # nor was the other
    assert "multilingual-e5-small" not in said


def test_equal_vectors_count_as_equal_questions(minilm: Encoder) -> None:
    """An encoder whose words are all one vector, at all places, tells no text from another."""
    alike = load_encoder(dtype="float32")
    for part in (alike.weights.words, alike.weights.positions):
        part.copy_(part[:1].expand_as(part))
    found = look(alike, ENGLISH[:3])
    assert found.alike == (("f0", "f1", "f2"),)
    assert refused(found).startswith("INVALID_DATA: FAQs with equal questions (f0 = f1 = f2)")
    assert look(minilm, ENGLISH).alike == ()


def test_long_lists_are_cut(minilm: Encoder) -> None:
    said = refused(look(minilm, [THAI[0]] * 9))
    assert "9 of 9 FAQs (f0, f1, f2, f3, f4 and 4 more)" in said


def test_the_share_of_unknown_tokens_is_that_of_the_questions_content(minilm: Encoder) -> None:
    assert look(minilm, THAI).unknown_share == 1.0
    assert look(minilm, ENGLISH).unknown_share == 0.0
    # "open 📦" is one known and one unknown token.
    assert look(minilm, ["open 📦", "hours"]).unknown_share == pytest.approx(1 / 3)
