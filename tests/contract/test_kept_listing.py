"""A listing that is kept: what changed since is all that the next one fetches."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.registry.access import NOBODY
from adapterdistill.registry.client import kept
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.testbed.random_adapters import SMALL, adapter
from adapterdistill.testbed.registry import Federation, registry_process


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RegistryClient]]:
    folder = tmp_path_factory.mktemp("kept")
    federation = Federation(folder)
    with registry_process(federation.root) as server:
        found = {
            name: RegistryClient(server.address, credentials=federation.credentials(name))
            for name in ("acme", "brook", "newcomer")
        }
        yield found
        for client in found.values():
            client.close()


def published(client: RegistryClient, seed: int, tenant: str, name: str) -> Manifest:
    return client.publish(*adapter(SMALL, seed, tenant=tenant, name=name))


def test_a_kept_listing_is_the_whole_listing_and_fetches_what_changed_alone(
    clients: dict[str, RegistryClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, newcomer = clients["acme"], clients["newcomer"]
    first = [published(acme, seed, "acme", f"a{seed}") for seed in range(6)]
    encoder = first[0].encoder
    fetched: list[str] = []
    read = kept.read_summary

    def count(version: Any) -> Any:
        fetched.append(version.name)
        return read(version)

    monkeypatch.setattr(kept, "read_summary", count)

    def listing(folder: Path | None = tmp_path) -> list[VersionRef]:
        fetched.clear()
        newcomer.kept = folder
        chosen = newcomer.summaries(encoder=encoder, exclude_tenant="newcomer")
        return [one.ref for one in chosen]

    def whole() -> list[VersionRef]:
        return listing(None)

    assert listing() == whole() == [one.ref for one in reversed(first)]
    listing()
    assert fetched == []
    second = published(acme, 10, "acme", "a2")  # takes the place of an adapter's older version
    hidden = published(acme, 11, "acme", "a9")
    acme.set_consent("acme", "a9", NOBODY)
    assert listing() == whole()
    listing()
    assert fetched == []
    acme.withdraw(second.ref, "too old")  # the older version is the newest again
    found = listing()
    assert sorted(map(str, fetched)) == [first[2].ref.name]
    assert sorted(ref.name for ref in found) == sorted(ref.name for ref in whole())
    acme.set_consent("acme", "a9", frozenset({"newcomer"}))
    assert hidden.ref in listing() and fetched.count(hidden.ref.name) == 1
    published(acme, 12, "acme", "a10")
    listing()
    acme.set_consent("acme", "a9", frozenset({"newcomer", "brook"}))
    listing()
    assert fetched == []  # it tells nobody who else was named


def test_a_listing_of_another_life_of_the_registry_or_a_damaged_or_old_file_is_fetched_again(
    clients: dict[str, RegistryClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brook, newcomer = clients["brook"], clients["newcomer"]
    newcomer.kept = tmp_path
    encoder = published(brook, 20, "brook", "faq").encoder

    def listing() -> list[Any]:
        return [*newcomer.summaries(encoder=encoder, exclude_tenant="newcomer")]

    expected = listing()
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for content in (whole.replace(b'["', b'["0', 1), whole[:-9], b"[]", b"\xff"):
        file.write_bytes(content)
        assert listing() == expected
        assert len(json.loads(file.read_bytes())[2]) == len(expected)
    monkeypatch.setattr(kept, "KEPT_S", 0)
    assert listing() == expected
