"""A tenant's release: every change is whole, wanted and remembered, or nothing changes."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterdistill.backbone import Encoder
from adapterdistill.errors import AdapterDistillError, ConfigError, ServingError, StoreError
from adapterdistill.store import objects
from adapterdistill.store import release as releases
from adapterdistill.store.bundle import Place, write_bundle
from adapterdistill.store.release import (
    Candidate,
    Release,
    drop,
    is_there,
    live_bundle,
    promote,
    put_up,
    read_release,
    roll_back,
    set_live,
    take_down,
    tenants_in,
)
from tests.serving_store import make_tenant, stored_file, write_damaged_release

NOWHERE = "0" * 64 + "-" + "0" * 12


@pytest.fixture
def bundles(tmp_path: Path, tiny_encoder: Encoder) -> list[str]:
    """Ids of three bundles of `acme` in the store `tmp_path`; none is live."""
    made = [make_tenant(tiny_encoder, "acme", seed=seed).bundle for seed in (1, 2, 3)]
    return [write_bundle(tmp_path, bundle) for bundle in made]


def test_a_candidate_goes_up_is_promoted_and_rolled_back(
    tmp_path: Path, bundles: list[str]
) -> None:
    first, second, third = bundles
    assert set_live(tmp_path, "acme", first) == Release(tenant="acme", bundle=first)
    put_up(tmp_path, "acme", second, mode="shadow", share=1)
    put_up(tmp_path, "acme", second, mode="canary", share=0.1)  # the same, otherwise
    candidate = Candidate(bundle=second, share=0.1, mode="canary")
    assert read_release(tmp_path, "acme") == Release(
        tenant="acme", bundle=first, candidate=candidate
    )
    assert promote(tmp_path, "acme") == Release(tenant="acme", bundle=second, before=first)
    put_up(tmp_path, "acme", third, mode="shadow", share=0.5)
    assert drop(tmp_path, "acme").candidate is None
    back = roll_back(tmp_path, "acme")
    [rolled_back] = back.rolled_back
    assert back == Release(tenant="acme", bundle=first, rolled_back=(rolled_back,))
    assert (rolled_back.bundle, back.rolled_back_at(second)) == (second, rolled_back.at)
    assert read_release(tmp_path, "acme") == back and back.rolled_back_at(first) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blobs", "bundles", "changed", "live"]


def test_a_pointer_of_before_there_were_candidates_is_read(
    tmp_path: Path, bundles: list[str]
) -> None:
    write_damaged_release(tmp_path, "acme", f'{{"tenant": "acme", "bundle": "{bundles[0]}"}}')
    assert read_release(tmp_path, "acme") == Release(tenant="acme", bundle=bundles[0])
    set_live(tmp_path, "acme", bundles[1])
    assert read_release(tmp_path, "acme").before == bundles[0]


def test_a_bundle_that_a_person_puts_up_again_is_no_longer_rolled_back(
    tmp_path: Path, bundles: list[str]
) -> None:
    first, second, _ = bundles
    for again in (
        lambda: set_live(tmp_path, "acme", second),
        lambda: put_up(tmp_path, "acme", second, mode="canary", share=0.1),
    ):
        set_live(tmp_path, "acme", first)
        set_live(tmp_path, "acme", second)
        assert roll_back(tmp_path, "acme").rolled_back_at(second) is not None
        assert again().rolled_back_at(second) is None


def test_what_cannot_be_is_said_and_changes_nothing(tmp_path: Path, bundles: list[str]) -> None:
    first, second, _ = bundles
    for change in (promote, drop, roll_back):
        with pytest.raises(ServingError, match="no live bundle"):
            change(tmp_path, "acme")
    with pytest.raises(ServingError, match="no live bundle"):
        put_up(tmp_path, "acme", first, mode="canary", share=0.1)
    set_live(tmp_path, "acme", first)
    refused: list[tuple[type[AdapterDistillError], str, Callable[[], Release]]] = [
        (ServingError, "no candidate", lambda: promote(tmp_path, "acme")),
        (ServingError, "no candidate", lambda: drop(tmp_path, "acme")),
        (ServingError, "nothing to roll back to", lambda: roll_back(tmp_path, "acme")),
        (ServingError, "is live already", lambda: up(first, 0.5)),
        (ConfigError, "from 0 to 1, got 1.5", lambda: up(second, 1.5)),
        (ConfigError, "from 0 to 1, got -0.1", lambda: up(second, -0.1)),
        (ConfigError, "from 0 to 1, got nan", lambda: up(second, float("nan"))),
        (ServingError, "cannot be read", lambda: up(NOWHERE, 0.5)),
        (ServingError, "cannot be read", lambda: set_live(tmp_path, "acme", NOWHERE)),
        (ServingError, "not a bundle id", lambda: up("../../x", 0.5)),
        (ServingError, "no live bundle", lambda: drop(tmp_path, "nobody")),
    ]

    def up(bundle_id: str, share: float) -> Release:
        return put_up(tmp_path, "acme", bundle_id, mode="canary", share=share)

    for error, words, call in refused:
        with pytest.raises(error, match=words):
            call()
    assert read_release(tmp_path, "acme") == Release(tenant="acme", bundle=first)


def test_a_damaged_bundle_does_not_become_live_by_any_way(
    tmp_path: Path, bundles: list[str]
) -> None:
    first, second, third = bundles
    set_live(tmp_path, "acme", second)
    set_live(tmp_path, "acme", first)
    put_up(tmp_path, "acme", third, mode="canary", share=0.1)
    before = read_release(tmp_path, "acme")
    for bundle_id in (second, third):
        stored_file(tmp_path, "acme", bundle_id, "index.safetensors").write_bytes(b"")
    for call in (
        lambda: promote(tmp_path, "acme"),
        lambda: roll_back(tmp_path, "acme"),
        lambda: set_live(tmp_path, "acme", second),
        lambda: put_up(tmp_path, "acme", second, mode="shadow", share=1),
    ):
        with pytest.raises(ServingError, match="damaged"):
            call()
    assert read_release(tmp_path, "acme") == before


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        '{"tenant":"acme","bundle":"../../x"}',
        '{"tenant":"other","bundle":"%s"}',
        '{"tenant":"acme","bundle":"%s","before":"x"}',
        '{"tenant":"acme","bundle":"%s","candidate":{"bundle":"%s","share":0.1,"mode":"canary"}}',
        '{"tenant":"acme","bundle":"%s","more":1}',
    ],
)
def test_a_damaged_release_is_an_error_until_a_bundle_is_made_live(
    tmp_path: Path, bundles: list[str], content: str
) -> None:
    write_damaged_release(tmp_path, "acme", content.replace("%s", bundles[0]))
    for read in (read_release, live_bundle, promote, drop, roll_back):
        with pytest.raises(ServingError, match=r"damaged|of another tenant"):
            read(tmp_path, "acme")
    set_live(tmp_path, "acme", bundles[1])
    assert read_release(tmp_path, "acme") == Release(tenant="acme", bundle=bundles[1])


@pytest.mark.parametrize("tenant", ["..", "a/b", "", "Acme", "/etc", "acme@canary"])
def test_names_cannot_leave_the_store(tmp_path: Path, tenant: str) -> None:
    for call in (
        lambda: read_release(tmp_path, tenant),
        lambda: set_live(tmp_path, tenant, NOWHERE),
        lambda: roll_back(tmp_path, tenant),
    ):
        with pytest.raises(ServingError):
            call()


def test_only_tenants_with_a_release_are_listed(tmp_path: Path, bundles: list[str]) -> None:
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "Not-A-Name.json").write_text("")
    (tmp_path / "live" / "a-file").write_text("")
    assert tenants_in(tmp_path) == [] and not is_there(tmp_path)
    set_live(tmp_path, "acme", bundles[0])
    assert tenants_in(tmp_path) == ["acme"] and is_there(tmp_path)
    with pytest.raises(StoreError):
        tenants_in(tmp_path / "absent")


def test_a_store_that_cannot_be_written_is_said(
    tmp_path: Path, bundles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_live(tmp_path, "acme", bundles[0])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(objects, "replace_file", full)
    with pytest.raises(StoreError, match="No space left"):
        set_live(tmp_path, "acme", bundles[1])
    assert live_bundle(tmp_path, "acme") == bundles[0]


def test_of_two_changes_at_once_neither_is_lost(
    tmp_path: Path, bundles: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_live(tmp_path, "acme", bundles[0])
    read = releases.read_release

    def slow(store: Place, tenant: str) -> Release:
        found = read(store, tenant)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(releases, "read_release", slow)
    changes = [
        threading.Thread(target=set_live, args=(tmp_path, "acme", bundles[1])),
        threading.Thread(
            target=put_up,
            args=(tmp_path, "acme", bundles[2]),
            kwargs={"mode": "shadow", "share": 1.0},
        ),
    ]
    for change in changes:
        change.start()
    for change in changes:
        change.join()
    candidate = Candidate(bundle=bundles[2], share=1, mode="shadow")
    assert read(tmp_path, "acme") == Release(
        tenant="acme", bundle=bundles[1], before=bundles[0], candidate=candidate
    )


Step = tuple[str, int]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["live", "up", "promote", "drop", "back"]), st.integers(0, 2)),
        max_size=8,
    )
)
def test_any_changes_in_a_row_leave_what_a_model_of_them_says(
    released: tuple[Path, list[str]], steps: list[Step]
) -> None:
    store, bundles = released
    take_down(store, "acme")
    set_live(store, "acme", bundles[0])
    live, before, candidate = 0, None, None  # places in `bundles`
    for kind, place in steps:
        was = (live, before, candidate)
        try:
            match kind:
                case "live":
                    if place != live:
                        live, before = place, live
                    set_live(store, "acme", bundles[place])
                case "up":
                    candidate = place
                    put_up(store, "acme", bundles[place], mode="canary", share=0.5)
                case "promote":
                    live, before = -1 if candidate is None else candidate, live
                    promote(store, "acme")
                case "drop":
                    candidate = None
                    drop(store, "acme")
                case "back":
                    live, before = -1 if before is None else before, None
                    roll_back(store, "acme")
        except ServingError:
            live, before, candidate = was
        if candidate == live:
            candidate = None
        found = read_release(store, "acme")
        up = found.candidate and bundles.index(found.candidate.bundle)
        past = None if found.before is None else bundles.index(found.before)
        assert (bundles.index(found.bundle), past, up) == (live, before, candidate)


@pytest.fixture(scope="module")
def released(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder
) -> tuple[Path, list[str]]:
    store = tmp_path_factory.mktemp("store")
    made = [make_tenant(tiny_encoder, "acme", seed=seed).bundle for seed in (1, 2, 3)]
    return store, [write_bundle(store, bundle) for bundle in made]
