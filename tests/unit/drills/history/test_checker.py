"""Made-up histories: a sound one passes, and each kind of violation is found by its own words."""

from collections.abc import Callable
from math import inf

import pytest

from adapterdistill.drills.history.checker import faults
from adapterdistill.drills.history.record import (
    OPERATOR,
    UNKNOWN,
    Adapter,
    Call,
    CallKind,
    Effect,
    History,
    Incarnation,
    Line,
    Revocation,
    Told,
)
from adapterdistill.registry.access import EVERYONE


def version(number: int, tenant: str = "acme") -> str:
    return f"tenants/{tenant}/adapters/faq/versions/{number:064x}"


FAQ = "tenants/acme/adapters/faq"
ONE, TWO, STUDENT = version(1), version(2), version(3, "bolt")
UPLOADS = {
    ONE: Adapter(consent=EVERYONE),
    TWO: Adapter(consent=EVERYONE),
    STUDENT: Adapter(teachers=(ONE,), consent=EVERYONE),
}
PUBLISHED, PUBLISHED_TWO = Effect("published", ONE), Effect("published", TWO)
WITHDRAWN = Effect("withdrawn", ONE, "reason 1")
ONLY_BOLT = Effect("consent_changed", FAQ, "bolt,only-1")


def call(
    kind: CallKind,
    name: str,
    began_s: float,
    ended_s: float,
    answer: str = "ok",
    *,
    by: str = "acme",
    effect: Effect | None = None,
    seen: tuple[str, ...] = (),
    certificate: int = 0,
) -> Call:
    return Call(by, kind, name, began_s, ended_s, answer, effect, frozenset(seen), certificate)


def lines(*effects: Effect) -> list[Line]:
    return [Line(n, f"owner/{e.name.split('/')[1]}", e) for n, e in enumerate(effects, 1)]


def told(*effects: Effect, at_s: float = 9.0, certificate: int = 0) -> list[Told]:
    return [Told(at_s, 10 * n, one.kind, one.name, certificate) for n, one in enumerate(effects, 1)]


def sound() -> History:
    """Publish, restrict, withdraw, with readers before, amid and after each."""
    one = Incarnation(
        calls=[
            call("publish", ONE, 0, 1, effect=PUBLISHED),
            call("fetch", ONE, 1.1, 1.2, by="corp"),
            call("consent", FAQ, 2, 3, effect=ONLY_BOLT),
            call("fetch", ONE, 2.1, 2.2, by="corp"),  # may be before the change
            call("fetch", ONE, 2.3, 2.9, "NOT_FOUND", by="corp"),  # or after it
            call("fetch", ONE, 3.1, 3.2, by="bolt"),
            call("describe", ONE, 3.1, 3.3, seen=("active", "bolt", "only-1")),
            call("list", "acme", 3.1, 3.4, seen=(ONE,), by="bolt"),
            call("withdraw", ONE, 4, inf, UNKNOWN, effect=WITHDRAWN),
            call("withdraw", ONE, 5, 6, effect=WITHDRAWN),  # the same request again
            call("fetch", ONE, 6.1, 6.2, "WITHDRAWN", by="bolt"),
            call("list", "acme", 6.1, 6.3),
            call("publish", ONE, 6.2, 6.4, "WITHDRAWN", effect=PUBLISHED),
            call("fetch", TWO, 6.5, 6.6, "NOT_FOUND"),
        ],
        lines=lines(PUBLISHED, ONLY_BOLT, WITHDRAWN),
        told={
            OPERATOR: told(PUBLISHED, ONLY_BOLT, WITHDRAWN),
            "bolt": told(PUBLISHED, WITHDRAWN),
            "corp": told(PUBLISHED, at_s=1.5),
        },
    )
    return History([one], dict(UPLOADS))


def restored() -> History:
    """Back up after the publish, lose the consent, the withdrawal and a second version, restore."""
    made = sound()
    first = made.incarnations[0]
    first.calls.append(call("publish", TWO, 7, 8, effect=PUBLISHED_TWO))
    withdrawn = Effect("withdrawn", TWO, "reason 2")
    first.calls.append(call("withdraw", TWO, 8.1, 8.2, effect=withdrawn))
    first.lines = lines(PUBLISHED, ONLY_BOLT, WITHDRAWN, PUBLISHED_TWO, withdrawn)
    first.told = {}
    second = Incarnation(
        calls=[
            call("fetch", ONE, 11, 11.1, "WITHDRAWN", by="bolt"),
            call("fetch", TWO, 11, 11.1, "NOT_FOUND", by="bolt"),
            call("publish", TWO, 12, 13, "WITHDRAWN", effect=PUBLISHED_TWO),
        ],
        lines=lines(PUBLISHED, ONLY_BOLT, WITHDRAWN),
        told={OPERATOR: told(PUBLISHED, ONLY_BOLT, WITHDRAWN)},
        kept=1,
        restored=3,
        backup=(1.5, 1.6),
    )
    return History([first, second], dict(UPLOADS))


def test_what_every_caller_was_promised_passes() -> None:
    assert faults(sound()) == []
    assert faults(restored()) == []


def add(*calls: Call) -> Callable[[History], None]:
    return lambda made: made.incarnations[-1].calls.extend(calls)


def log(*effects: Effect) -> Callable[[History], None]:
    def change(made: History) -> None:
        made.incarnations[-1].lines = lines(*effects)

    return change


def watch(caller: str, *events: Told) -> Callable[[History], None]:
    def change(made: History) -> None:
        made.incarnations[-1].told[caller] = [*events]

    return change


def also(*changes: Callable[[History], None]) -> Callable[[History], None]:
    def change(made: History) -> None:
        for one in changes:
            one(made)

    return change


def revoked(made: History) -> None:
    made.revocations.append(Revocation("acme", 0, 6.45, 6.5))
    made.incarnations[-1].calls.pop()


LATER = Effect("consent_changed", FAQ, "only-2")
UNSOUND: dict[str, tuple[Callable[[History], None], str]] = {
    "an acknowledged publish is lost": (
        add(call("publish", TWO, 7, 8, effect=PUBLISHED_TWO)),
        "answered ok, which no moment of it explains",
    ),
    "an acknowledged consent is lost": (
        add(call("consent", FAQ, 7, 8, effect=LATER)), "acknowledged, and the log lacks it",
    ),
    "a change takes effect twice": (
        log(PUBLISHED, ONLY_BOLT, ONLY_BOLT, WITHDRAWN), "the log has it twice",
    ),
    "a withdrawn version is published again": (
        log(PUBLISHED, ONLY_BOLT, WITHDRAWN, PUBLISHED), "it was there already, withdrawn",
    ),
    "a withdrawn version is fetched": (
        add(call("fetch", ONE, 7, 8, by="bolt")), "answered ok, which no moment of it explains",
    ),
    "a withdrawn version is listed": (
        add(call("list", "acme", 7, 8, seen=(ONE,))), "which no moment of it explains",
    ),
    "a version is fetched without consent": (
        add(call("fetch", ONE, 3.1, 3.9, by="corp")), "which no moment of it explains",
    ),
    "a version is refused in spite of consent": (
        add(call("fetch", ONE, 3.1, 3.9, "NOT_FOUND", by="bolt")), "which no moment of it explains",
    ),
    "a reader goes back in time": (
        add(call("fetch", ONE, 2.95, 2.99, by="corp")), "which no moment of it explains",
    ),
    "an owner is told another consent than its own": (
        add(call("describe", ONE, 3.1, 3.9, seen=("active", "*"))), "no moment of it explains",
    ),
    "the log contradicts real time": (
        also(
            add(call("publish", TWO, 7, 8, effect=PUBLISHED_TWO)),
            log(PUBLISHED, PUBLISHED_TWO, ONLY_BOLT, WITHDRAWN),
        ),
        "after a change that the log has later had been acknowledged",
    ),
    "a change that nobody asked for": (
        also(log(PUBLISHED, ONLY_BOLT, WITHDRAWN, PUBLISHED_TWO)), "did not ask for it",
    ),
    "a refused change takes effect": (
        also(
            add(call("consent", FAQ, 7, 8, "NOT_FOUND", effect=LATER)),
            log(PUBLISHED, ONLY_BOLT, WITHDRAWN, LATER),
        ),
        "it took effect, and was refused",
    ),
    "a student of a withdrawn teacher is published": (
        also(
            add(call("publish", STUDENT, 7, 8, by="bolt", effect=Effect("published", STUDENT))),
            log(PUBLISHED, ONLY_BOLT, WITHDRAWN, Effect("published", STUDENT)),
        ),
        "it learnt from a withdrawn version",
    ),
    "an answer that no call may get": (
        add(call("fetch", ONE, 7, 8, "REGISTRY_ERROR")), "answered REGISTRY_ERROR",
    ),
    "a revoked certificate is answered": (
        also(revoked, add(call("fetch", ONE, 7, 8, "WITHDRAWN"))), "to a revoked certificate",
    ),
    "a revoked certificate has an effect": (
        also(
            revoked,
            add(call("consent", FAQ, 7, inf, UNKNOWN, effect=LATER)),
            log(PUBLISHED, ONLY_BOLT, WITHDRAWN, LATER),
        ),
        "asked for with a revoked certificate, and took effect",
    ),
    "a valid certificate is refused": (
        add(call("fetch", ONE, 7, 8, "UNAUTHENTICATED")), "though its certificate is valid",
    ),
    "a watch leaves a change out": (
        watch(OPERATOR, *told(PUBLISHED, WITHDRAWN)), "consent_changed " + FAQ + ": not told",
    ),
    "a watch stops before the last change": (
        watch(OPERATOR, *told(PUBLISHED, ONLY_BOLT)), "withdrawn " + ONE + ": not told",
    ),
    "a watch tells a change twice": (
        watch("bolt", *told(PUBLISHED, WITHDRAWN, WITHDRAWN)), "told twice",
    ),
    "a watch tells a change twice at once": (
        watch("bolt", *told(PUBLISHED), *told(PUBLISHED)), "told twice",
    ),
    "a watch tells in another order": (
        watch(OPERATOR, *told(PUBLISHED, WITHDRAWN, ONLY_BOLT)), "in another order than the log's",
    ),
    "a watch goes back": (
        watch("bolt", Told(9, 20, "published", ONE), Told(9, 10, "withdrawn", ONE)),
        "its revision is before that of an earlier event",
    ),
    "a watch tells who may not see it": (
        watch("corp", *told(PUBLISHED, at_s=1.5), Told(9, 30, "withdrawn", ONE)),
        "told to a caller who may not see it",
    ),
    "a watch tells a revoked certificate": (
        also(
            revoked,
            add(call("withdraw", ONE, 7, 8, by=OPERATOR, effect=WITHDRAWN)),
            lambda made: made.revocations.append(Revocation("bolt", 0, 3.5, 3.6)),
        ),
        "told to a revoked certificate",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSOUND)
def test_each_violation_is_found(name: str) -> None:
    spoil, words = UNSOUND[name]
    made = sound()
    spoil(made)
    assert words in "\n".join(faults(made))


def second_log(*effects: Effect, kept: int = 1, restored: int = 3) -> Callable[[History], None]:
    def change(made: History) -> None:
        one = made.incarnations[-1]
        one.lines, one.kept, one.restored = lines(*effects), kept, restored
        one.calls.clear()
        one.told.clear()

    return change


RESTORED_WRONGLY: dict[str, tuple[Callable[[History], None], str]] = {
    "a later withdrawal is lost": (
        second_log(PUBLISHED, ONLY_BOLT, restored=2),
        "withdrawn before the registry was restored, and not any more",
    ),
    "a later consent is lost": (
        second_log(PUBLISHED, WITHDRAWN, restored=2), "the consent that was given last is lost",
    ),
    "a version that is gone comes back, though it was withdrawn": (
        also(
            add(call("publish", TWO, 14, 15, effect=PUBLISHED_TWO)),
            log(PUBLISHED, ONLY_BOLT, WITHDRAWN, PUBLISHED_TWO),
        ),
        "it was withdrawn before the registry was restored",
    ),
    "the backup lacks what was acknowledged before": (
        second_log(kept=0, restored=0), "the backup has 0 changes",
    ),
    "the log is another one": (
        second_log(PUBLISHED_TWO, restored=1), "does not begin as the log that was backed up",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RESTORED_WRONGLY)
def test_each_way_to_restore_wrongly_is_found(name: str) -> None:
    spoil, words = RESTORED_WRONGLY[name]
    made = restored()
    spoil(made)
    assert words in "\n".join(faults(made))


def test_what_was_withdrawn_stays_so_where_the_backup_was_empty() -> None:
    made = restored()
    second = made.incarnations[1]
    second.lines, second.told, second.kept, second.restored = lines(PUBLISHED_TWO), {}, 0, 0
    made.incarnations[0].lines = lines(PUBLISHED, WITHDRAWN)
    second.calls = [
        call("publish", TWO, 11, 12, effect=PUBLISHED_TWO),
        call("publish", ONE, 13, 14, "WITHDRAWN", effect=PUBLISHED),
    ]
    found = [one for one in faults(made) if one.startswith("incarnation 1") and "backup" not in one]
    assert found == []


def test_a_watch_that_begins_anew_may_repeat_the_change_amid_which_it_ended() -> None:
    made = sound()
    mark = Told(9.1, 20, "teacher_withdrawn", STUDENT)
    once = told(PUBLISHED, WITHDRAWN)
    again = [Told(9.3, one.revision, one.kind, one.name) for one in (once[1], mark)]
    made.incarnations[0].told["bolt"] = [*once, mark, *again]
    made.incarnations[0].kills = [9.2]
    assert faults(made) == []
    made.incarnations[0].kills = [8.0]
    assert "told twice" in "\n".join(faults(made))
