"""Which adapters teach a data owner, and that onboarding changes none of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterdistill.actors.data_owner import DataOwner
from adapterdistill.backbone import Encoder, load_configured
from adapterdistill.checkpoint import golden_vectors, load_proven, pack_adapter
from adapterdistill.manifest import Manifest, VersionRef, sha256_hex
from adapterdistill.sections import EncoderConfig
from adapterdistill.testbed.random_adapters import random_manifest
from tests.contract.running_registry import Running
from tests.owner_runs import (
    Configured,
    folder_of,
    publish,
    run_through,
)
from tests.tiny_encoders import random_adapter


def test_only_the_newest_adapter_of_each_other_tenant_teaches_up_to_the_limit(
    configured: Configured, empty_registry: Running, tiny_encoder: Encoder
) -> None:
    for seed, tenant in enumerate(["old", "own-tenant", "mid", "old", "new"]):
        publish(empty_registry, tiny_encoder, tenant, seed=seed)
    options = {"address": empty_registry.address, "splits": ()}
    config = configured("own-tenant", **options, run={"teachers": {"max_teachers": 2}})
    fetched = DataOwner(config).fetch_teachers()
    newest = {m.tenant: m.ref.name for m in empty_registry.client.list()}
    assert fetched.teachers == (newest["new"], newest["old"])
    none = configured("potter", **options, run={"teachers": {"max_teachers": 0}})
    assert DataOwner(none).fetch_teachers().teachers == ()


def test_a_teacher_that_is_not_what_it_says_is_passed_over_and_named(
    configured: Configured, empty_registry: Running, tiny_encoder: Encoder
) -> None:
    publish(empty_registry, tiny_encoder, "good", seed=1)
    adapter = random_adapter(tiny_encoder, seed=2, scale=0.3)
    payload = pack_adapter(adapter, model_name="tiny")
    honest = random_manifest(tiny_encoder, adapter, payload, tenant="liar")
    golden = golden_vectors(tiny_encoder, random_adapter(tiny_encoder, seed=3, scale=0.0))
    empty_registry.client.publish(honest.model_copy(update={"golden": golden}), payload)
    report, lines = run_through(configured("quarrier", address=empty_registry.address))
    assert [VersionRef.parse(name).tenant for name in report.fetch_teachers.teachers] == ["good"]
    assert report.fetch_teachers.refused == (honest.ref.name,)
    assert "1 refused" in lines[1]


def test_a_failure_of_any_kind_while_a_teacher_is_proven_refuses_that_teacher_alone(
    configured: Configured,
    empty_registry: Running,
    tiny_encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = publish(empty_registry, tiny_encoder, "good", seed=1)
    bad = publish(empty_registry, tiny_encoder, "bad", seed=2)

    def load(encoder: Encoder, manifest: Manifest, payload: bytes) -> Any:
        if manifest.tenant == "bad":
            raise MemoryError
        return load_proven(encoder, manifest, payload)

    monkeypatch.setattr("adapterdistill.actors.teachers.load_proven", load)
    found = DataOwner(configured("quarrier", address=empty_registry.address)).fetch_teachers()
    assert (found.teachers, found.refused) == ((good.name,), (bad.name,))


def test_an_adapter_that_nothing_trained_teaches_nobody_and_is_not_refused(
    configured: Configured, empty_registry: Running, tiny_encoder: Encoder
) -> None:
    publish(empty_registry, tiny_encoder, "good", seed=1)
    run_through(
        configured(
            "blank",
            splits=(),
            address=empty_registry.address,
            run={"teachers": {"max_teachers": 0}},
        )
    )
    methods = {m.tenant: m.method for m in empty_registry.client.list()}
    assert methods["blank"] == "untrained"
    found = DataOwner(configured("quarrier", address=empty_registry.address)).fetch_teachers()
    assert [VersionRef.parse(name).tenant for name in found.teachers] == ["good"]
    assert (found.refused, found.listed) == ((), 2)


def test_onboarding_changes_no_teacher_and_no_encoder(
    configured: Configured,
    registry: Running,
    tiny_encoder_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[Encoder] = []

    def keep(options: EncoderConfig) -> Encoder:
        loaded.append(load_configured(options))
        return loaded[-1]

    def weights(encoder: Encoder) -> list[torch.Tensor]:
        return list(tensors_in(encoder._weights))

    def files() -> dict[Path, bytes]:
        folders = (tiny_encoder_folder, registry.root / "blobs")
        return {p: p.read_bytes() for f in folders for p in f.rglob("*") if p.is_file()}

    monkeypatch.setattr("adapterdistill.actors.data_owner.load_configured", keep)
    before = files()
    listed = {m.ref.name: m for m in registry.client.list()}
    config = configured("joiner")
    report, _ = run_through(config)
    fresh = load_configured(config.encoder)
    assert len(weights(fresh)) > 20
    for used, original in zip(weights(loaded[0]), weights(fresh), strict=True):
        assert torch.equal(used, original)
    after = files()
    assert all(after[path] == content for path, content in before.items())
    for name, manifest in listed.items():
        kept = (folder_of(config) / "teachers" / f"{manifest.version}.safetensors").read_bytes()
        fetched = registry.client.fetch(VersionRef.parse(name))
        assert fetched == (manifest, kept) and sha256_hex(kept) == manifest.version
    assert tuple(sorted(listed)) == report.fetch_teachers.teachers


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from tensors_in(getattr(value, name))
