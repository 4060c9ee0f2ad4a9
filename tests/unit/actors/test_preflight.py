"""What a dry run finds, against a registry in this process; and that it changes nothing."""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from adapterdistill.actors.preflight import Check, Preflight, preflight
from adapterdistill.actors.publishing import PRIVACY, PROTOTYPES_SHARED
from adapterdistill.actors.stages import STAGES
from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.checkpoint import pack_adapter
from adapterdistill.config import OnboardConfig
from adapterdistill.data import Faq, TenantDataset, write_tenant
from adapterdistill.distill.meta_kd.method import MetaConfig
from adapterdistill.errors import UnreadableTextError
from adapterdistill.manifest import VersionRef
from adapterdistill.registry.access import Caller
from adapterdistill.registry.trust.authority import create
from adapterdistill.testbed.random_adapters import random_manifest
from tests.contract.running_registry import Running
from tests.enrolment import enrolled
from tests.owner_runs import Configured, publish, run_through, write_task
from tests.tiny_encoders import random_adapter, save_tiny_encoder

SECRET = "plover"


def tree(*roots: Path) -> dict[str, bytes | None]:
    """Every file below with its content, and every folder."""
    paths = [path for root in roots for path in (root, *root.rglob("*"))]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def events(registry: Running) -> list[tuple[Any, ...]]:
    with sqlite3.connect(f"file:{next(registry.root.glob('*.sqlite*'))}?mode=ro", uri=True) as db:
        found = db.execute("SELECT * FROM events").fetchall()
    db.close()
    return found


def check(found: Preflight, name: str) -> Check:
    [one] = [each for each in found.checks if each.name == name]
    return one


def changed(config: OnboardConfig, section: str, **values: Any) -> OnboardConfig:
    part = getattr(config, section).model_copy(update=values)
    return config.model_copy(update={section: part})


def test_a_run_that_could_start_is_told_in_full_and_changes_nothing(
    configured: Configured, registry: Running, tmp_path: Path
) -> None:
    config = changed(configured(word=SECRET), "registry", labels=("shop",))
    before, logged, threads = tree(tmp_path), events(registry), torch.get_num_threads()
    found = preflight(config)
    assert tree(tmp_path) == before and events(registry) == logged
    assert torch.get_num_threads() == threads
    assert [(c.name, c.status) for c in found.checks] == [
        (name, "ok")
        for name in ("data", "encoder", "texts", "registry", "name", "teachers", "disk")
    ]
    assert found.first_error is None
    assert found.counts["faqs"] == 5 and found.counts["train"] == 15
    assert found.teachers_visible == 2 and set(found.teachers) == {"baker", "cooper"}
    assert (found.share_with, found.labels) == (("*",), ("shop",))
    assert found.privacy == PRIVACY
    assert "is free" in check(found, "name").said
    assert SECRET.encode() not in found.canonical_json()


def test_the_estimate_names_every_stage_and_is_about_what_a_run_then_takes(
    configured: Configured, registry: Running
) -> None:
    config = configured(run={"training": {"bottleneck_size": 6}})  # as the teachers have
    taken = preflight(config).estimate
    assert taken is not None and tuple(taken.stage_seconds) == STAGES
    report, _ = run_through(config)
    # Bytes are of the same adapters; manifests and list differ by metrics and names.
    assert 0 < taken.bytes_out - report.publish.payload_bytes < 8192
    assert 0 < taken.bytes_in - report.fetch_teachers.payload_bytes < 8192
    used = sum(p.stat().st_size for p in Path(config.workspace).rglob("*") if p.is_file())
    stored = sum(p.stat().st_size for p in Path(config.serving_store).rglob("*") if p.is_file())
    assert used / 4 < taken.workspace_bytes < used * 8
    assert stored / 4 < taken.serving_bytes < stored * 4
    # On an encoder as tiny as this a step is all overhead: no more than the order can be right.
    assert report.seconds / 30 < taken.seconds < report.seconds * 30


def test_more_steps_take_longer_and_no_teachers_distil_nothing(
    configured: Configured, empty_registry: Running
) -> None:
    config = configured(address=empty_registry.address)
    short = preflight(config).estimate
    long = preflight(changed(config, "training", extract_steps=6000)).estimate
    assert short is not None and long is not None
    assert long.stage_seconds["extract"] > 50 * short.stage_seconds["extract"]
    assert short.stage_seconds["distil"] == 0 and short.bytes_in == 0
    assert short.stage_seconds["variant"] == 0


def test_texts_that_are_cut_are_told_of_and_recorded(
    configured: Configured, registry: Running
) -> None:
    config = changed(configured(), "encoder", max_tokens=12, query_prompt="ask ")
    found = check(preflight(config), "encoder")
    assert found.status == "warning"
    assert "only the first 12 tokens are read" in found.said and " queries" in found.said
    report, _ = run_through(config)
    assert report.validate_stage.max_tokens == 12 and report.validate_stage.cut["queries"] > 0
    [manifest] = registry.client.list(tenant="fletcher")
    assert (manifest.encoder.max_tokens, manifest.encoder.query_prompt) == (12, "ask ")


def test_a_variant_and_shared_prototypes_are_told_of(configured: Configured) -> None:
    config = configured(run={"training": {"method": "meta_kd"}, "light": {"heads": 2}})
    config = config.model_copy(update={"meta": MetaConfig(share_prototypes=True, noise=2.0)})
    missing = preflight(config)
    assert check(missing, "encoder").reason == "INVALID_CONFIG" and missing.estimate is None
    write_task(Path(config.data), "mood", domains=("a", "b"))
    found = preflight(config)
    assert found.estimate is not None and found.estimate.stage_seconds["variant"] > 0
    assert PROTOTYPES_SHARED in found.privacy and "2 times" in found.privacy


def test_a_published_name_is_told_with_the_consent_that_holds(
    configured: Configured, registry: Running
) -> None:
    config = configured()
    report, _ = run_through(config)
    [manifest] = registry.client.list(tenant="fletcher")
    assert manifest.ref.name == report.publish.name
    found = check(preflight(config), "name")
    assert found.status == "ok" and manifest.version[:12] in found.said
    assert "no alias live" in found.said

    registry.client.set_alias(manifest.ref, "live")
    narrowed = preflight(changed(config, "registry", share_with=("baker",)))
    found = check(narrowed, "name")
    assert found.status == "warning" and "everyone" in found.said
    assert f"alias live is {manifest.version[:12]}" in found.said
    assert narrowed.share_with == ("*",)
    registry.client.set_consent("fletcher", "faq", frozenset())
    assert preflight(config).share_with == ()


def test_a_name_published_on_another_encoder_is_a_warning(
    configured: Configured, registry: Running, tmp_path: Path
) -> None:
    other = load_encoder(str(save_tiny_encoder(tmp_path / "other", seed=1)), dtype="float32")
    publish(registry, other, "fletcher", seed=3)
    found = preflight(configured())
    assert found.first_error is None and check(found, "name").status == "warning"
    assert f"another encoder, {other.ref.name}" in check(found, "name").said


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Running]:
    root = tmp_path / "secure"
    create(root, ("localhost", "127.0.0.1"))
    running = Running(root)
    yield running
    running.close()


def with_credentials(
    config: OnboardConfig, secure: Running, folder: Path, caller: Caller, **options: Any
) -> OnboardConfig:
    enrolled(secure.root, folder, caller, **options)
    return changed(config, "registry", address=secure.address, credentials=str(folder))


def test_credentials_are_checked_for_whose_and_until_when(
    configured: Configured, secure: Running, tmp_path: Path
) -> None:
    plain = configured()

    def of(name: str, caller: Caller, **options: Any) -> Preflight:
        return preflight(with_credentials(plain, secure, tmp_path / name, caller, **options))

    good = of("good", Caller("owner", "fletcher"))
    assert good.first_error is None and "mutual TLS" in check(good, "registry").said
    assert "29 days" in check(good, "credentials").said
    soon = of("soon", Caller("owner", "fletcher"), lifetime=timedelta(minutes=3), new_keys=True)
    assert check(soon, "credentials").status == "warning"
    for caller in (Caller("owner", "baker"), Caller("auditor", "fletcher")):
        other = of(caller.role + caller.name, caller).first_error
        assert other is not None and (other.name, other.reason) == ("credentials", "NOT_PERMITTED")
        assert str(caller) in other.said
    expired = of("old", Caller("owner", "fletcher"), lifetime=timedelta(seconds=-1), new_keys=True)
    assert check(expired, "credentials").reason == "UNAUTHENTICATED"
    assert check(expired, "registry").reason == "UNAUTHENTICATED"


def no_data(config: OnboardConfig) -> OnboardConfig:
    (Path(config.data) / "faqs.parquet").unlink()
    return config


def no_encoder(config: OnboardConfig) -> OnboardConfig:
    return changed(config, "encoder", name="/nonexistent/encoder")


def no_registry(config: OnboardConfig) -> OnboardConfig:
    return changed(config, "registry", address="127.0.0.1:1", timeout_s=0.5)


def no_address(config: OnboardConfig) -> OnboardConfig:
    return changed(config, "registry", address=None, address_file="/nonexistent/address")


def no_credentials(config: OnboardConfig) -> OnboardConfig:
    return changed(config, "registry", credentials="/nonexistent")


def no_folder(config: OnboardConfig) -> OnboardConfig:
    return config.model_copy(update={"workspace": f"{config.data}/faqs.parquet"})


def impossible_form(config: OnboardConfig) -> OnboardConfig:
    return changed(config, "training", method="meta_kd")


@pytest.mark.parametrize(
    ("spoil", "name", "reason"),
    [
        (no_data, "data", "INVALID_DATA"),
        (no_encoder, "encoder", "INVALID_ENCODER"),
        (impossible_form, "encoder", "INVALID_CONFIG"),
        (no_registry, "registry", "REGISTRY_UNAVAILABLE"),
        (no_address, "registry", "INVALID_CONFIG"),
        (no_credentials, "credentials", "INVALID_CONFIG"),
        (no_folder, "disk", "INVALID_CONFIG"),
    ],
)
def test_what_would_stop_the_run_is_found_and_the_rest_is_looked_at_all_the_same(
    configured: Configured,
    spoil: Callable[[OnboardConfig], OnboardConfig],
    name: str,
    reason: str,
) -> None:
    found = preflight(spoil(configured(word=SECRET)))
    assert found.first_error is not None
    assert (found.first_error.name, found.first_error.reason) == (name, reason)
    assert {"data", "encoder", "registry", "disk"} <= {c.name for c in found.checks}
    assert SECRET.encode() not in found.canonical_json()


THAI = {"open": "ร้านเปิดกี่โมง", "ship": "ค่าจัดส่งเท่าไร"}


def test_texts_that_the_encoder_cannot_read_stop_the_dry_run_and_the_run(
    configured: Configured, registry: Running
) -> None:
    config = configured()
    faqs = [Faq(faq_id, question, None) for faq_id, question in THAI.items()]
    write_tenant(Path(config.data), faqs, [], overwrite=True)
    before = events(registry)
    found = preflight(config)
    assert found.first_error is not None
    assert (found.first_error.name, found.first_error.reason) == ("texts", "TEXT_UNREADABLE")
    with pytest.raises(
        UnreadableTextError, match=r"cannot read 2 of 2 FAQs \(open, ship\)"
    ) as told:
        run_through(config)
    assert str(told.value) == found.first_error.said
    assert not any(question in found.first_error.said for question in THAI.values())
    assert events(registry) == before


def test_texts_that_can_be_served_all_the_same_are_a_warning(
    configured: Configured, registry: Running
) -> None:
    config = configured()
    faqs = TenantDataset.open(Path(config.data)).faqs()
    again = Faq("again", faqs[0].question.upper(), None)
    write_tenant(
        Path(config.data), [*faqs, again, Faq("one", faqs[1].question, None)], [], overwrite=True
    )
    found = preflight(config)
    assert found.first_error is None and check(found, "texts").status == "warning"
    assert "equal questions (faq-0 = again; faq-1 = one)" in check(found, "texts").said
    report, lines = run_through(config)
    assert report.validate_stage.counts["alike"] == 4
    assert "4 FAQs are not told apart: see --dry-run" in lines[0]


def test_the_language_is_published_and_chooses_teachers(
    configured: Configured, registry: Running, tiny_encoder: Encoder
) -> None:
    adapter = random_adapter(tiny_encoder, seed=8, scale=0.05)
    payload = pack_adapter(adapter, model_name=tiny_encoder.ref.name)
    manifest = random_manifest(tiny_encoder, adapter, payload, tenant="dyer")
    registry.client.publish(manifest.model_copy(update={"language": "de-AT"}), payload)
    config = configured().model_copy(update={"language": "de"})
    assert preflight(config).teachers_visible == 3
    config = changed(config, "teachers", language="de")
    assert preflight(config).teachers == ("dyer",)
    report, _ = run_through(config)
    assert [VersionRef.parse(name).tenant for name in report.fetch_teachers.teachers] == ["dyer"]
    assert registry.client.get(VersionRef.parse(report.publish.name)).language == "de"


def test_too_little_disk_is_found(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    found = preflight(config).first_error
    assert found is not None and found.name == "disk"
    assert "are free" in found.said and config.workspace in found.said
