"""Consent, quarantine and withdrawal in the index, and the changes that they leave."""

import random
import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from adapterdistill.errors import InvalidManifestError, NotFoundError, WithdrawnError
from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.registry.access import ANYONE, EVERYONE, NOBODY, Caller
from adapterdistill.registry.index import events, watching
from adapterdistill.registry.index.aliases import alias_of, set_alias
from adapterdistill.registry.index.database import sqlite
from adapterdistill.registry.index.events import after, following
from adapterdistill.registry.index.index import Index
from adapterdistill.registry.index.lifecycle import release_from_quarantine, set_consent, withdraw
from adapterdistill.registry.index.listing import page
from adapterdistill.registry.index.schema import EventRow, Filter
from adapterdistill.registry.index.watching import changes
from tests.unit.registry.samples import manifest_of

ACME, BROOK, CORN = (Caller("owner", name) for name in ("acme", "brook", "corn"))
OPERATOR, AUDITOR = Caller("operator", "olga"), Caller("auditor", "ada")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(sqlite(tmp_path / "index.sqlite3"))
    yield index
    index.close()


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Index]:
    index = Index(sqlite(tmp_path / "strict.sqlite3"), refuse_descendants=True)
    yield index
    index.close()


def version(number: int, **changes: object) -> Manifest:
    return manifest_of(f"payload {number}".encode(), **changes)


def listed(index: Index, caller: Caller, **chosen: object) -> list[VersionRef]:
    newest = index.newest_revision()
    rows, more = page(
        index,
        Filter(**chosen),  # type: ignore[arg-type]
        caller,
        before=newest + 1,
        newest=newest,
        max_rows=500,
        max_bytes=1 << 22,
    )
    assert not more
    return [row.ref for row in rows]


def kinds(index: Index, caller: Caller) -> list[str]:
    return [event.kind for event in after(index.db, 0, caller)]


def test_what_consent_does_not_allow_is_as_if_it_were_not_there(index: Index) -> None:
    ref = index.add(version(1), ACME, consent=frozenset({"brook"})).ref
    for caller in (ACME, BROOK, OPERATOR, AUDITOR, ANYONE):
        assert index.get(ref, caller).ref == ref
        assert listed(index, caller) == [ref]
    assert listed(index, CORN) == []
    with pytest.raises(NotFoundError) as hidden:
        index.get(ref, CORN)
    absent = version(2).ref
    with pytest.raises(NotFoundError) as missing:
        index.get(absent, CORN)
    assert str(hidden.value).replace(ref.name, "") == str(missing.value).replace(absent.name, "")


def test_consent_counts_from_when_it_is_changed_for_every_version(index: Index) -> None:
    one = index.add(version(1), ACME).ref
    two = index.add(version(2), ACME, consent=NOBODY).ref  # not the first: consent is not touched
    assert listed(index, CORN) == [two, one]
    set_consent(index, "acme", "faq", NOBODY, ACME)
    assert (listed(index, CORN), listed(index, ACME)) == ([], [two, one])
    set_consent(index, "acme", "faq", frozenset({"corn"}), ACME)
    assert (listed(index, CORN), listed(index, BROOK)) == ([two, one], [])
    set_consent(index, "acme", "faq", EVERYONE, ACME)
    assert listed(index, BROOK) == [two, one]
    with pytest.raises(NotFoundError):
        set_consent(index, "acme", "other", EVERYONE, ACME)


def test_a_teacher_out_of_sight_cannot_be_named(index: Index) -> None:
    teacher = index.add(version(1), ACME, consent=NOBODY).ref
    student = version(2, tenant="brook", teachers=[teacher.name])
    with pytest.raises(InvalidManifestError, match="not published here"):
        index.add(student, BROOK)
    set_consent(index, "acme", "faq", frozenset({"brook"}), ACME)
    index.add(student, BROOK)


def test_an_alias_of_a_hidden_version_is_hidden(index: Index) -> None:
    ref = index.add(version(1), ACME, consent=NOBODY).ref
    set_alias(index, ref, "live", None, ACME)
    assert alias_of(index, "acme", "faq", "live", ACME).ref == ref
    with pytest.raises(NotFoundError):
        alias_of(index, "acme", "faq", "live", BROOK)


def test_a_withdrawn_version_is_listed_no_more_and_says_why(index: Index) -> None:
    one, two = (index.add(version(number), ACME).ref for number in (1, 2))
    withdraw(index, two, "bad labels", OPERATOR)
    for caller in (ACME, BROOK, OPERATOR, ANYONE):
        assert listed(index, caller) == [one]
        assert listed(index, caller, latest_only=True) == [one]
        with pytest.raises(WithdrawnError, match="bad labels"):
            index.get_active(two, caller)
    with pytest.raises(WithdrawnError):
        index.add(version(2), ACME)
    with pytest.raises(WithdrawnError):
        set_alias(index, two, "live", None, ACME)
    with pytest.raises(WithdrawnError):
        index.add(version(3, tenant="brook", teachers=[two.name]), BROOK)


def test_withdrawing_again_changes_nothing(index: Index) -> None:
    ref = index.add(version(1), ACME).ref
    first = withdraw(index, ref, "one reason", ACME)
    newest = index.newest_revision()
    assert withdraw(index, ref, "another", ACME) == first
    assert index.newest_revision() == newest


def test_descendants_at_any_depth_are_marked_and_told(index: Index) -> None:
    root = index.add(version(0), ACME).ref
    child = index.add(version(1, tenant="brook", teachers=[root.name]), BROOK).ref
    grandchild = index.add(version(2, tenant="corn", teachers=[child.name]), CORN).ref
    stranger = index.add(version(3, tenant="corn"), CORN).ref
    withdraw(index, root, "leaked", ACME)
    assert index.get(child).withdrawn_teacher == root.name
    assert index.get(grandchild).withdrawn_teacher == root.name
    assert index.get(stranger).withdrawn_teacher == ""
    (event,) = [event for event in after(index.db, 0, CORN) if event.kind == "withdrawn"]
    assert event.revision == index.newest_revision()  # one event, whatever it marks
    assert marks(index, CORN) == {(child.name, root.name), (grandchild.name, root.name)}
    assert marks(index, CORN, [("corn", "faq")]) == {(grandchild.name, root.name)}
    set_consent(index, "brook", "faq", NOBODY, BROOK)
    assert marks(index, CORN) == {(grandchild.name, root.name)}
    # A student made since of a marked one is marked from the start.
    late = index.add(version(4, tenant="acme", adapter="late", teachers=[grandchild.name]), ACME)
    assert late.withdrawn_teacher == root.name


def test_policy_hides_descendants_of_the_withdrawn_from_other_owners(strict: Index) -> None:
    root = strict.add(version(0), ACME).ref
    child = strict.add(version(1, tenant="brook", teachers=[root.name]), BROOK).ref
    withdraw(strict, root, "leaked", ACME)
    assert listed(strict, CORN) == []
    assert listed(strict, BROOK) == listed(strict, OPERATOR) == [child]
    with pytest.raises(InvalidManifestError, match="not published here"):
        strict.add(version(2, tenant="corn", teachers=[child.name]), CORN)


def test_quarantine_shows_to_its_owner_and_to_those_who_watch_over_it(index: Index) -> None:
    ref = index.add(version(1), ACME, quarantine="norm 40 times the median").ref
    assert listed(index, BROOK) == []
    for caller in (ACME, OPERATOR, AUDITOR):
        assert listed(index, caller) == [ref]
    assert kinds(index, BROOK) == []
    release_from_quarantine(index, ref, OPERATOR)
    assert listed(index, BROOK) == [ref]
    assert kinds(index, BROOK) == ["released"]
    newest = index.newest_revision()
    release_from_quarantine(index, ref, OPERATOR)
    assert index.newest_revision() == newest


def test_latest_version_is_the_latest_that_the_caller_may_see(index: Index) -> None:
    one = index.add(version(1), ACME).ref
    two = index.add(version(2), ACME, quarantine="odd").ref
    assert listed(index, BROOK, latest_only=True) == [one]
    assert listed(index, ACME, latest_only=True) == [two]


def test_filters_choose_by_task_language_and_all_of_the_labels(index: Index) -> None:
    one = index.add(version(1, adapter="a", labels=["bank", "uk"])).ref
    two = index.add(version(2, adapter="b", labels=["bank"], language="de")).ref
    three = index.add(version(3, adapter="c", task="nli")).ref
    assert listed(index, ANYONE, labels=("bank",)) == [two, one]
    assert listed(index, ANYONE, labels=("bank", "uk")) == [one]
    assert listed(index, ANYONE, language="de") == [two]
    assert listed(index, ANYONE, task="nli") == [three]
    four = index.add(version(4, adapter="d", language="de-AT")).ref
    assert listed(index, ANYONE, language="DE") == [four, two]
    assert listed(index, ANYONE, language="de-AT") == [four]
    assert listed(index, ANYONE, language="d") == listed(index, ANYONE, language="%") == []
    assert listed(index, ANYONE, labels=("none",)) == []


def test_every_change_has_one_revision_and_owners_see_what_is_theirs_to_see(index: Index) -> None:
    ref = index.add(version(1), ACME, consent=frozenset({"brook"})).ref
    set_alias(index, ref, "live", None, ACME)
    set_consent(index, "acme", "faq", frozenset({"brook", "dale"}), ACME)
    withdraw(index, ref, "done", ACME)
    all_kinds = ["published", "alias_moved", "consent_changed", "withdrawn"]
    assert kinds(index, ACME) == kinds(index, AUDITOR) == all_kinds
    assert kinds(index, BROOK) == ["published", "alias_moved", "withdrawn"]
    assert kinds(index, CORN) == []
    revisions = [event.revision for event in after(index.db, 0, ANYONE)]
    assert revisions == [1, 2, 3, 4]
    assert [e.revision for e in after(index.db, 2, ANYONE)] == [3, 4]
    assert [e.caller for e in after(index.db, 3, ANYONE)] == ["owner/acme"]
    assert [*after(index.db, 0, ANYONE, adapter=("acme", "other"))] == []


def test_sight_equals_a_brute_force_rule(index: Index) -> None:
    draw = random.Random(2)
    tenants = ("acme", "brook", "corn")
    state: dict[VersionRef, tuple[frozenset[str], str]] = {}
    for number in range(60):
        owner = draw.choice(tenants)
        consent = draw.choice([EVERYONE, NOBODY, frozenset({draw.choice(tenants)})])
        odd = draw.random() < 0.2
        manifest = version(number, tenant=owner, adapter=f"a{number}")
        ref = index.add(
            manifest, Caller("owner", owner), consent=consent, quarantine="odd" if odd else ""
        ).ref
        state[ref] = (consent, "quarantined" if odd else "active")
        if draw.random() < 0.2:
            withdraw(index, ref, "gone", OPERATOR)
            state[ref] = (consent, "withdrawn")

    def sees(caller: Caller, ref: VersionRef) -> bool:
        consent, its_state = state[ref]
        if its_state == "withdrawn":
            return False
        if caller.role != "owner" or caller.name == ref.tenant:
            return True
        return its_state == "active" and ("*" in consent or caller.name in consent)

    for caller in (ACME, BROOK, CORN, OPERATOR, AUDITOR, ANYONE):
        expected = [ref for ref in reversed(state) if sees(caller, ref)]
        assert listed(index, caller) == expected
        assert listed(index, caller, latest_only=True) == expected


def test_an_index_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    from adapterdistill.registry.index import schema

    db = sqlite3.connect(tmp_path / "index.sqlite3")
    db.executescript(f"BEGIN; {schema.MIGRATIONS[0]} PRAGMA user_version = 1; COMMIT;")
    manifest = version(1, language="de")
    db.execute(
        "INSERT INTO versions (tenant, adapter, version, weights_sha256, tokenizer_sha256,"
        " manifest_json, created_ns) VALUES (?, ?, ?, ?, ?, ?, 7)",
        (
            manifest.tenant,
            manifest.adapter,
            manifest.version,
            manifest.encoder.weights_sha256,
            manifest.encoder.tokenizer_sha256,
            manifest.canonical_json(),
        ),
    )
    db.commit()
    db.close()
    index = Index(sqlite(tmp_path / "index.sqlite3"))
    row = index.get(manifest.ref, BROOK)
    assert (row.state, row.created_ns, row.revision) == ("active", 7, 1)
    assert listed(index, BROOK, language="de") == [manifest.ref]
    assert kinds(index, BROOK) == ["published"]
    assert index.add(version(2), ACME).revision == 2
    index.close()


def test_a_chain_of_withdrawals_writes_one_event_and_marks_each_version_once(index: Index) -> None:
    names: list[str] = []
    for number in range(60):
        names.append(index.add(version(number, teachers=names[-1:]), ACME).ref.name)
    before = index.newest_revision()
    changed = index.db.total_changes
    for name in names:
        withdraw(index, VersionRef.parse(name), "chain", ACME)
    assert index.newest_revision() == before + 60
    assert index.db.total_changes - changed == 60 * 2 + 59
    assert {index.get(VersionRef.parse(name)).withdrawn_teacher for name in names[1:]} == {names[0]}


def test_a_watch_page_by_page_sees_what_one_look_at_all_events_sees(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(5)
    adapters = [(tenant, f"a{n}") for tenant in ("acme", "brook", "corn") for n in range(4)]
    for number in range(300):
        tenant, adapter = draw.choice(adapters)
        name = f"tenants/{tenant}/adapters/{adapter}/aliases/x{number}"
        public = draw.random() < 0.5
        events.record(index.db, ACME, "alias_moved", (tenant, adapter), name, public=public)
    index.write_consent(("brook", "a1"), EVERYONE, 1)
    index.write_consent(("corn", "a2"), frozenset({"acme"}), 1)
    newest = index.newest_revision()
    for caller in (ACME, BROOK, OPERATOR):
        everything = [*after(index.db, 0, caller, max_rows=1000)]
        for window in (1, 7, 100, 1000):
            monkeypatch.setattr(events, "WINDOW", window)
            for chosen in ((), {adapters[0]}, {*adapters[3:9]}, {("nobody", "x")}):
                seen: list[EventRow] = []
                revision = pages = 0
                while revision < newest:
                    page, reached = following(index.db, revision, newest, caller, chosen)
                    assert reached > revision and len(page) <= window
                    seen, revision, pages = seen + page, reached, pages + 1
                expected = [
                    event
                    for event in everything
                    if not chosen or tuple(event.name.split("/")[1:4:2]) in chosen
                ]
                assert seen == expected


def test_the_name_of_a_hidden_teacher_is_told_to_those_alone_who_may_see_it(index: Index) -> None:
    root = index.add(version(0), ACME, consent=frozenset({"brook"})).ref
    child = index.add(version(1, tenant="brook", teachers=[root.name]), BROOK).ref
    withdraw(index, root, "leaked", ACME)
    for caller in (ACME, BROOK, OPERATOR, AUDITOR):
        assert index.shown(index.get(child, caller), caller).withdrawn_teacher == root.name
        assert marks(index, caller) == {(child.name, root.name)}
    told = index.shown(index.get(child, CORN), CORN).withdrawn_teacher
    assert told.startswith("hidden/") and "acme" not in told
    assert marks(index, CORN) == {(child.name, told)}
    # Who learnt from it hears of the mark, though it may see the teacher no more.
    set_consent(index, "acme", "faq", NOBODY, ACME)
    assert marks(index, BROOK) == marks(index, BROOK, [("brook", "faq")]) == {(child.name, told)}
    events_told, _ = changes(index, 0, index.newest_revision(), BROOK)
    assert [event.kind for event in events_told] == ["published", "teacher_withdrawn"]


def test_marks_are_told_in_parts_of_whole_withdrawals(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        root = index.add(version(10 * number, adapter=f"a{number}"), ACME).ref
        for place in range(3):
            student = version(10 * number + place + 1, tenant="brook", teachers=[root.name])
            index.add(student, BROOK)
        withdraw(index, root, "leaked", ACME)
    newest = index.newest_revision()
    whole, reached = changes(index, 0, newest, CORN)
    assert reached == newest and len(whole) == 4 * (1 + 3 + 1 + 3)
    for most in (1, 3, 4, 7):
        monkeypatch.setattr(watching, "MAX_MARKS", most)
        revision, seen = 0, list[EventRow]()
        while revision < newest:
            part, reached = changes(index, revision, newest, CORN)
            assert reached > revision
            revision, seen = reached, seen + part
        assert seen == whole


def test_a_policy_that_hides_descendants_hides_them_from_watches_too(strict: Index) -> None:
    root = strict.add(version(0), ACME).ref
    child = strict.add(version(1, tenant="brook", teachers=[root.name]), BROOK).ref
    set_alias(strict, child, "live", None, BROOK)
    withdraw(strict, root, "leaked", ACME)
    told, _ = changes(strict, 0, strict.newest_revision(), CORN)
    assert not any(child.name in (event.name, event.other_name) for event in told)
    told, _ = changes(strict, 0, strict.newest_revision(), BROOK)
    assert {event.kind for event in told if child.name in (event.name, event.other_name)} == {
        "published", "alias_moved", "teacher_withdrawn"
    }  # fmt: skip


def test_told_revisions_are_times_and_count_nothing(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([5_000_000, 9_000_000, 2_000_000, 2_000_000, 50_000_000])
    monkeypatch.setattr(events.time, "time_ns", lambda: next(clock))
    for number in range(5):
        events.record(index.db, ACME, "alias_moved", ("acme", "a"), f"x{number}")
    told = [event.told for event in after(index.db, 0, ANYONE)]
    assert told == [5_000, 9_000, 9_001, 9_002, 50_000]
    for revision, one in enumerate(told, start=1):
        assert events.revision_of(index.db, one) == revision
        assert events.revision_of(index.db, one - 1) == revision - 1


def marks(
    index: Index, caller: Caller, adapters: Collection[tuple[str, str]] = ()
) -> set[tuple[str, str]]:
    found, _ = changes(index, 0, index.newest_revision(), caller, adapters)
    return {(one.name, one.other_name) for one in found if one.kind == "teacher_withdrawn"}
