"""Which of many listed adapters a data owner fetches, and that it fetches no other."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from adapterdistill.actors.data_owner import DataOwner
from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.checkpoint import pack_adapter, unpack_adapter
from adapterdistill.data import TenantDataset
from adapterdistill.errors import EncoderMismatchError
from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.registry.client.client import RegistryClient
from adapterdistill.selection import Probes, by_relevance
from adapterdistill.testbed.random_adapters import random_manifest
from tests.contract.running_registry import Running
from tests.owner_runs import HELD, Configured, run_through
from tests.tiny_encoders import random_adapter, save_tiny_encoder

LISTED, WANTED = 12, 3


def publish_signed(
    running: Running, encoder: Encoder, tenant: str, *, seed: int, signed_as: int | None = None
) -> Manifest:
    """An adapter with the fingerprint of the adapter of seed `signed_as`, by default its own."""
    adapter = random_adapter(encoder, seed=seed, scale=0.05)
    payload = pack_adapter(adapter, model_name=encoder.ref.name)
    claimed = random_adapter(encoder, seed=seed if signed_as is None else signed_as, scale=0.05)
    manifest = random_manifest(encoder, adapter, payload, tenant=tenant)
    signed = manifest.model_copy(update={"fingerprint": Probes(encoder).fingerprint(claimed)})
    return running.client.publish(signed, payload)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Encoder) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("registry-of-many"))
    for seed in range(LISTED):
        publish_signed(running, tiny_encoder, f"tenant-{seed}", seed=seed)
    yield running
    running.close()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the versions whose payloads are asked for, in order."""
    names: list[str] = []
    fetch = RegistryClient.fetch

    def counted(self: RegistryClient, ref: VersionRef, **options: Any) -> tuple[Manifest, bytes]:
        names.append(ref.name)
        return fetch(self, ref, **options)

    monkeypatch.setattr(RegistryClient, "fetch", counted)
    return names


@pytest.mark.parametrize("splits", [(), HELD], ids=["no queries", "with queries"])
def test_only_those_that_suit_the_own_texts_best_are_fetched(
    configured: Configured,
    many: Running,
    tiny_encoder: Encoder,
    fetched: list[str],
    splits: tuple[str, ...],
) -> None:
    run = {"teachers": {"max_teachers": WANTED}}
    config = configured(address=many.address, splits=splits, run=run)
    found = DataOwner(config).fetch_teachers()
    dataset = TenantDataset.open(Path(config.data))
    texts = [faq.question for faq in dataset.faqs()]
    texts += [query.text for query in dataset.queries("train")]
    listed = list(many.client.list(encoder=tiny_encoder.ref))
    profile = Probes(tiny_encoder).profile(tiny_encoder.tokenize(texts))
    order = by_relevance(profile, [manifest.fingerprint for manifest in listed])
    best = [listed[place].ref.name for place in islice(order, WANTED)]
    assert fetched == best
    assert found.teachers == tuple(sorted(best))
    assert (found.listed, found.refused) == (LISTED, ())


def test_nothing_is_listed_where_no_teacher_is_wanted(
    configured: Configured, many: Running, fetched: list[str]
) -> None:
    config = configured(address=many.address, run={"teachers": {"max_teachers": 0}})
    found = DataOwner(config).fetch_teachers()
    assert (found.teachers, found.listed, fetched) == ((), 0, [])


def test_an_adapter_with_anothers_fingerprint_is_refused_and_the_next_takes_its_place(
    configured: Configured, empty_registry: Running, tiny_encoder: Encoder
) -> None:
    liar = publish_signed(empty_registry, tiny_encoder, "liar", seed=1, signed_as=2)
    for seed in (3, 4, 5):
        publish_signed(empty_registry, tiny_encoder, f"honest-{seed}", seed=seed)
    run = {"teachers": {"max_teachers": LISTED}}
    report, lines = run_through(configured(address=empty_registry.address, run=run))
    assert [VersionRef.parse(name).tenant for name in report.fetch_teachers.teachers] == [
        "honest-3", "honest-4", "honest-5",
    ]  # fmt: skip
    assert report.fetch_teachers.refused == (liar.ref.name,)
    assert "3 of 4 teachers" in lines[1]


def test_a_registry_of_two_encoders_offers_a_tenant_the_teachers_of_its_own(
    configured: Configured,
    empty_registry: Running,
    tiny_encoder: Encoder,
    tmp_path: Path,
    fetched: list[str],
) -> None:
    """Both encoders have one shape, so that an adapter of the other would load all the same. A
    tenant that moves publishes under another adapter's name: a name keeps its encoder."""
    folder = save_tiny_encoder(tmp_path / "another-encoder", seed=1)
    another = load_encoder(str(folder), dtype="float32")
    published = {
        name: [
            publish_signed(empty_registry, encoder, f"{name}-{seed}", seed=seed).ref.name
            for seed in (1, 2)
        ]
        for name, encoder in (("one", tiny_encoder), ("other", another))
    }
    moving = configured("mover", address=empty_registry.address)
    onto = moving.model_copy(
        update={"encoder": moving.encoder.model_copy(update={"name": str(folder)})}
    )
    for config, own in ((moving, "one"), (onto, "other")):
        found = DataOwner(config).fetch_teachers()
        assert (found.teachers, found.listed) == (tuple(sorted(published[own])), 2)
        assert sorted(fetched) == sorted(published[own])
        fetched.clear()
    publish_signed(empty_registry, tiny_encoder, "mover", seed=3)
    with pytest.raises(EncoderMismatchError, match="publish under another adapter name"):
        publish_signed(empty_registry, another, "mover", seed=4)


def test_what_is_published_is_signed(
    configured: Configured, many: Running, tiny_encoder: Encoder
) -> None:
    config = configured("signer", address=many.address, run={"teachers": {"max_teachers": 1}})
    report, _ = run_through(config)
    ref = VersionRef.parse(report.publish.name)
    (found,) = [
        one
        for one in many.client.summaries(encoder=tiny_encoder.ref, exclude_tenant="nobody")
        if one.ref == ref
    ]
    manifest, payload = many.client.fetch(ref)
    assert manifest.fingerprint is not None and found.fingerprint == manifest.fingerprint
    Probes(tiny_encoder).prove(unpack_adapter(payload), manifest.fingerprint)
