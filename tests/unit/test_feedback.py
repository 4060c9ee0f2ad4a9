"""Kept questions: what is kept, in which order, for how long, and who can read it."""

import stat
import threading
from pathlib import Path

import pytest

from adapterdistill import feedback
from adapterdistill.errors import FileError, ServingError
from adapterdistill.feedback import MAX_AGE_S, Asked, opened
from tests.serving_store import write_damaged_release

DAY = 24 * 3600.0


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_damaged_release(tmp_path, "acme", "{")
    return tmp_path


def test_questions_come_back_with_what_was_said_of_them(store: Path) -> None:
    with opened(store, "acme") as kept:
        kept.keep([Asked("hi", None, None), Asked("pay", "cost", 0.4)])
        kept.keep([Asked("hi", "greeting", 0.6)])
        kept.tell("pay", right="payment")
        kept.tell("new", right="")
    with opened(store, "acme") as kept:
        found = {one.text: one for one in kept.questions()}
        hi = found["hi"]
        assert (hi.times, hi.faq_id, hi.confidence) == (2, "greeting", 0.6)
        assert (found["pay"].label, found["pay"].out_of_scope) == ("payment", False)
        assert found["new"].out_of_scope and found["hi"].label is None
        assert [one.text for one in kept.questions(labelled=False)] == ["hi"]
        kept.forget(["pay", "new"])
        assert [one.text for one in kept.questions()] == ["hi"]


def test_what_was_called_wrong_comes_first_then_what_is_asked_often_then_chance_decides(
    store: Path,
) -> None:
    with opened(store, "acme") as kept:
        kept.keep([Asked("sure", "a", 0.6), Asked("unsure", "a", 0.1), Asked("away", None, None)])
        kept.keep([Asked("often", "a", 0.6)] * 3)
        kept.tell("wrong", wrong=True)
        order = [one.text for one in kept.questions()]
        assert order[:2] == ["wrong", "often"] and sorted(order[2:]) == ["away", "sure", "unsure"]
        assert order == [one.text for one in kept.questions()]
        kept.tell("wrong", right="b")  # now it is known
        assert not next(one for one in kept.questions() if one.text == "wrong").wrong


def test_old_questions_go_and_labels_outlast_questions_without_one(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "MAX_QUESTIONS", 3)
    with opened(store, "acme") as kept:
        kept.keep([Asked("old", None, None)], now=0)
        kept.tell("labelled", right="a", now=DAY)
        kept.keep([Asked(f"question {n}", None, None) for n in range(5)], now=2 * DAY)
        found = {one.text for one in kept.questions()}
        assert "labelled" in found and len(found) == 3 and "old" not in found
        kept.keep([Asked("late", None, None)], now=2 * DAY + MAX_AGE_S + 1)
        assert [one.text for one in kept.questions()] == ["late"]


def test_only_the_owner_can_read_the_file_and_a_removed_text_is_gone_from_it(store: Path) -> None:
    with opened(store, "acme") as kept:
        kept.keep([Asked("canary-4711", None, None), Asked("stays", None, None)])
        kept.forget(["canary-4711"])
    [file] = [one for one in (store / "acme").iterdir() if one.is_file()]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert b"canary-4711" not in file.read_bytes() and b"stays" in file.read_bytes()
    assert "canary-4711" not in repr(Asked("canary-4711", None, None))


def test_replicas_that_write_at_once_lose_nothing(store: Path) -> None:
    def write(name: int) -> None:
        for n in range(20):
            with opened(store, "acme") as kept:
                kept.keep([Asked("shared", None, None), Asked(f"{name}-{n}", None, None)])

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with opened(store, "acme") as kept:
        found = {one.text: one.times for one in kept.questions()}
    assert found.pop("shared") == 80 and len(found) == 80


def test_a_tenant_that_is_not_there_and_a_damaged_file_are_told(store: Path) -> None:
    with pytest.raises(ServingError, match="nothing is served"), opened(store, "nobody"):
        pass
    (store / "acme").mkdir()
    (store / "acme" / feedback.FILE).write_bytes(b"no database" * 100)
    with pytest.raises(FileError, match="cannot be used"), opened(store, "acme"):
        pass
