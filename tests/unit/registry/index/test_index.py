"""The index: immutable versions, encoder rule, aliases, lineage and stable pages."""

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapterdistill.errors import (
    AliasConflictError,
    ConfigError,
    EncoderMismatchError,
    InvalidManifestError,
    NotFoundError,
    RegistryError,
)
from adapterdistill.manifest import Manifest
from adapterdistill.registry.access import ANYONE, Caller
from adapterdistill.registry.index.aliases import alias_of, set_alias
from adapterdistill.registry.index.database import sqlite
from adapterdistill.registry.index.index import Index
from adapterdistill.registry.index.lifecycle import withdraw
from adapterdistill.registry.index.lineage import relatives
from adapterdistill.registry.index.listing import page
from adapterdistill.registry.index.schema import Filter, Row
from adapterdistill.registry.wire import PageTokens, read_page_size
from tests.unit.registry.samples import encoder_fields, manifest_of


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(sqlite(tmp_path / "index.sqlite3"))
    yield index
    index.close()


def version(number: int, **changes: object) -> Manifest:
    """The index never looks at payloads: any bytes will do."""
    return manifest_of(f"payload {number}".encode(), **changes)


def listed(
    index: Index, chosen: Filter, max_rows: int = 100, max_bytes: int = 1 << 20
) -> list[Row]:
    newest = index.newest_revision()
    before, more, rows = newest + 1, True, []
    while more:
        found, more = page(
            index, chosen, before=before, newest=newest, max_rows=max_rows, max_bytes=max_bytes
        )
        assert len(found) <= max_rows
        rows += found
        before = found[-1].revision if found else 0
    return rows


def test_added_version_is_found_after_reopening(tmp_path: Path) -> None:
    index = Index(sqlite(tmp_path / "index.sqlite3"))
    row = index.add(version(1))
    index.close()
    index = Index(sqlite(tmp_path / "index.sqlite3"))
    assert index.get(version(1).ref) == row
    assert row.manifest_json == version(1).canonical_json()
    index.close()


def test_adding_again_changes_nothing(index: Index) -> None:
    assert index.add(version(1)) == index.add(version(1))
    assert index.newest_revision() == 1


def test_version_never_gets_another_manifest(index: Index) -> None:
    index.add(version(1))
    with pytest.raises(InvalidManifestError, match="never change"):
        index.add(version(1, seed=7))
    assert index.get(version(1).ref).manifest_json == version(1).canonical_json()


def test_adapter_keeps_its_encoder_but_other_adapters_may_have_others(index: Index) -> None:
    index.add(version(1))
    with pytest.raises(EncoderMismatchError):
        index.add(version(2, encoder=encoder_fields("e")))
    index.add(version(2, encoder=encoder_fields("e"), adapter="other"))
    index.add(version(2, encoder=encoder_fields("e"), tenant="other"))


def test_teachers_must_be_published_and_share_the_encoder(index: Index) -> None:
    teacher = version(1, tenant="teacher", encoder=encoder_fields("e"))
    student = version(2, teachers=[teacher.ref.name])
    with pytest.raises(InvalidManifestError, match="not published"):
        index.add(student)
    index.add(teacher)
    with pytest.raises(EncoderMismatchError):
        index.add(student)
    own = version(3)
    with pytest.raises(InvalidManifestError):
        index.add(version(3, teachers=[own.ref.name]))


def test_refused_version_leaves_no_row_behind(index: Index) -> None:
    with pytest.raises(InvalidManifestError):
        index.add(version(2, teachers=[version(1).ref.name]))
    assert index.find(version(2).ref) is None
    index.add(version(1))
    index.add(version(2, teachers=[version(1).ref.name]))


def test_unknown_version_is_not_found(index: Index) -> None:
    with pytest.raises(NotFoundError):
        index.get(version(1).ref)


def test_pages_equal_a_brute_force_listing(index: Index) -> None:
    draw = random.Random(0)
    manifests = []
    for number in range(60):
        adapter = draw.choice("xy")
        encoder = encoder_fields("e" if adapter == "y" else "a")
        owner = draw.choice("abc")
        manifests.append(version(number, tenant=owner, adapter=adapter, encoder=encoder))
        index.add(manifests[-1])
    newest_first = manifests[::-1]
    latest: dict[tuple[str, str], Manifest] = {}
    for manifest in manifests:
        latest[manifest.tenant, manifest.adapter] = manifest
    for tenant in (None, "b"):
        for without in (None, "a"):
            for encoder_digests in (None, ("e" * 64, "b" * 64), ("e" * 64, "c" * 64)):
                for latest_only in (False, True):
                    expected = [
                        m.ref
                        for m in newest_first
                        if tenant in (None, m.tenant)
                        and m.tenant != without
                        and encoder_digests
                        in (None, (m.encoder.weights_sha256, m.encoder.tokenizer_sha256))
                        and (not latest_only or latest[m.tenant, m.adapter] == m)
                    ]
                    chosen = Filter(tenant, without, encoder_digests, latest_only)
                    for max_rows in (1, 7, 100):
                        assert [r.ref for r in listed(index, chosen, max_rows)] == expected


def test_pages_stay_within_their_bytes_but_never_stand_still(index: Index) -> None:
    for number in range(9):
        index.add(version(number))
    size = len(version(0).canonical_json())
    found, more = page(index, Filter(), before=10, newest=9, max_rows=9, max_bytes=3 * size)
    assert (len(found), more) == (3, True)
    assert len(listed(index, Filter(), max_bytes=1)) == 9


def test_listing_does_not_see_what_was_published_after_its_first_page(index: Index) -> None:
    for number in range(4):
        index.add(version(number, adapter=f"adapter{number}"))
    chosen = Filter(latest_only=True)
    first, _ = page(index, chosen, before=5, newest=4, max_rows=2, max_bytes=1 << 20)
    index.add(version(99, adapter="adapter0"))
    rest, more = page(
        index, chosen, before=first[-1].revision, newest=4, max_rows=9, max_bytes=1 << 20
    )
    assert [row.ref.adapter for row in first + rest] == [f"adapter{n}" for n in (3, 2, 1, 0)]
    assert not more


def test_page_token_is_good_for_its_filter_and_caller_only(index: Index) -> None:
    tokens = PageTokens(index.secret("page_token"))
    token = tokens.token(3, 9, Filter(tenant="a"), ANYONE)
    assert tokens.read(token, Filter(tenant="a"), ANYONE) == (3, 9)
    with pytest.raises(ConfigError, match="another filter"):
        tokens.read(token, Filter(tenant="b"), ANYONE)
    with pytest.raises(ConfigError, match="or caller"):
        tokens.read(token, Filter(tenant="a"), Caller("owner", "acme"))


@pytest.mark.parametrize("token", ["x", "ü", "e30=", "W10=", "WzEsMiwzXQ==", "\ud800", "%%"])
def test_invented_page_tokens_are_refused(token: str, index: Index) -> None:
    tokens = PageTokens(index.secret("page_token"))
    with pytest.raises(ConfigError):
        tokens.read(token, Filter(), ANYONE)
    with pytest.raises(ConfigError):  # of another registry
        tokens.read(PageTokens(bytes(32)).token(3, 9, Filter(), ANYONE), Filter(), ANYONE)


def test_page_size_has_a_default_and_a_maximum() -> None:
    assert (read_page_size(0), read_page_size(7), read_page_size(10**6)) == (100, 7, 500)
    with pytest.raises(ConfigError):
        read_page_size(-1)


def test_alias_moves_only_with_its_current_etag(index: Index) -> None:
    one, two, three = (index.add(version(n)).ref for n in (1, 2, 3))
    with pytest.raises(NotFoundError):
        alias_of(index, "acme", "faq", "live")
    first = set_alias(index, one, "live", None)
    with pytest.raises(AliasConflictError):
        set_alias(index, two, "live", None)
    second = set_alias(index, two, "live", first.etag)
    with pytest.raises(AliasConflictError):
        set_alias(index, three, "live", first.etag)
    with pytest.raises(AliasConflictError, match="does not exist"):
        set_alias(index, three, "other", first.etag)
    assert alias_of(index, "acme", "faq", "live") == second
    assert (second.ref, second.etag) != (first.ref, first.etag)


def test_alias_set_again_to_the_same_version_stays_as_it_is(index: Index) -> None:
    one = index.add(version(1)).ref
    first = set_alias(index, one, "live", None)
    assert set_alias(index, one, "live", None) == first
    assert set_alias(index, one, "live", "stale") == first


def test_alias_that_returns_to_a_version_has_a_new_etag(index: Index) -> None:
    one, two = (index.add(version(n)).ref for n in (1, 2))
    first = set_alias(index, one, "live", None)
    second = set_alias(index, two, "live", first.etag)
    assert set_alias(index, one, "live", second.etag).etag not in (first.etag, second.etag)


def test_alias_of_an_unpublished_version_is_refused(index: Index) -> None:
    with pytest.raises(NotFoundError):
        set_alias(index, version(1).ref, "live", None)


def test_lineage_equals_a_brute_force_search(index: Index) -> None:
    draw = random.Random(1)
    manifests: list[Manifest] = []
    teachers_of: dict[str, list[str]] = {}
    for number in range(30):
        teachers = [
            m.ref.name for m in draw.sample(manifests, draw.randint(0, min(len(manifests), 4)))
        ]
        manifests.append(version(number, tenant=f"t{number}", teachers=teachers))
        teachers_of[manifests[-1].ref.name] = teachers
        index.add(manifests[-1])

    def depths(name: str) -> dict[str, int]:
        """Find the lengths of the shortest paths up, by Bellman's recursion."""
        found: dict[str, int] = {}
        for teacher in teachers_of[name]:
            for relative, depth in ({teacher: 0} | depths(teacher)).items():
                found[relative] = min(found.get(relative, 99), depth + 1)
        return found

    up = {name: depths(name) for name in teachers_of}
    for manifest in manifests:
        name = manifest.ref.name
        ancestors, cut = relatives(index.db, manifest.ref, "ancestors", 1000)
        assert (dict(ancestors), cut) == (up[name], False)
        assert [d for _, d in ancestors] == sorted(d for _, d in ancestors)
        descendants, _ = relatives(index.db, manifest.ref, "descendants", 1000)
        assert dict(descendants) == {n: up[n][name] for n in up if name in up[n]}


def test_lineage_stops_at_its_limit_and_says_so(index: Index) -> None:
    teacher = version(0, tenant="teacher")
    index.add(teacher)
    for number in range(1, 6):
        index.add(version(number, tenant=f"t{number}", teachers=[teacher.ref.name]))
    assert len(relatives(index.db, teacher.ref, "descendants", 5)[0]) == 5
    assert relatives(index.db, teacher.ref, "descendants", 5)[1] is False
    cut, truncated = relatives(index.db, teacher.ref, "descendants", 4)
    assert (len(cut), truncated) == (4, True)


def test_index_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    Index(sqlite(tmp_path / "index.sqlite3")).close()
    db = sqlite3.connect(tmp_path / "index.sqlite3")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(RegistryError, match="newer"):
        Index(sqlite(tmp_path / "index.sqlite3"))


def test_an_encoder_has_the_shapes_of_its_oldest_active_version(index: Index) -> None:
    index.add(version(1))
    other = encoder_fields() | {"hidden_size": 9}
    with pytest.raises(
        EncoderMismatchError, match=r"has 2 layers of hidden size 8 here, .* 2 of 9"
    ):
        index.add(version(2, tenant="other", encoder=other))
    index.add(version(3, tenant="third", encoder=encoder_fields() | {"name": "also-tiny"}))
    # An operator who finds that the first was wrong withdraws it.
    withdraw(index, version(1).ref, "wrong shapes")
    withdraw(index, version(3, tenant="third").ref, "wrong shapes")
    index.add(version(2, tenant="other", encoder=other))
