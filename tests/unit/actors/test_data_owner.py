"""A data owner's whole way, without Ray, against a real registry on loopback."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.data_owner import DataOwner
from actors.onboarding import STAGES, OnboardReport
from actors.records import Bundled, Published
from adapterdistill.backbone import Encoder, load_encoder
from adapterdistill.bundle import live_bundle, read_bundle, set_live
from adapterdistill.checkpoint import golden_vectors, pack_adapter, unpack_adapter
from adapterdistill.config import OnboardConfig
from adapterdistill.errors import RegistryUnavailableError
from adapterdistill.manifest import VersionRef, sha256_hex
from tests.contract.running_registry import Running
from tests.owner_runs import folder_of, owner_after, run_of, run_through, write_shop
from tests.serving_store import manifest_of
from tests.tiny_encoders import random_adapter

HELD = ("train", "train", "train", "valid", "test")


@pytest.fixture
def registry(tmp_path: Path, tiny_encoder: Encoder) -> Iterator[Running]:
    """Two teachers are published in it."""
    running = with_teachers(tmp_path / "registry-with-teachers", tiny_encoder)
    yield running
    running.close()


def with_teachers(root: Path, encoder: Encoder) -> Running:
    running = Running(root)
    for n, tenant in enumerate(["baker", "cooper"]):
        publish(running, encoder, tenant, seed=n)
    return running


@pytest.fixture
def empty_registry(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "registry")
    yield running
    running.close()


def publish(running: Running, encoder: Encoder, tenant: str, *, seed: int) -> None:
    adapter = random_adapter(encoder, seed=seed, scale=0.05)
    payload = pack_adapter(adapter, model_name=encoder.ref.name)
    manifest = manifest_of(encoder, adapter, tenant=tenant, payload=payload)
    running.client.publish(manifest, payload)


@pytest.fixture
def configured(
    tmp_path: Path, tiny_encoder_folder: Path, registry: Running
) -> Callable[..., OnboardConfig]:
    """Writes a tenant's data and gives the config of its run."""

    def make(
        tenant: str = "fletcher",
        *,
        home: Path = tmp_path,
        address: str = registry.address,
        run: dict[str, Any] | None = None,
        **data: Any,
    ) -> OnboardConfig:
        write_shop(home / "data" / tenant, **({"splits": HELD} | data))
        return run_of(home, tenant, encoder=tiny_encoder_folder, registry=address, **(run or {}))

    return make


Configured = Callable[..., OnboardConfig]


def payload_of(registry: Running, report: OnboardReport) -> bytes:
    return registry.client.fetch(VersionRef.parse(report.publish.name))[1]


def what_was_made(report: OnboardReport) -> dict[str, Any]:
    """The report without what differs between equal runs: time and memory."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if not k.endswith(("seconds", "rss_mb"))}
        return value

    stripped: dict[str, Any] = strip(report.model_dump(mode="json"))
    return stripped


def test_a_tenant_goes_from_its_rows_to_a_live_bundle(
    configured: Configured, registry: Running, tiny_encoder: Encoder
) -> None:
    config = configured(out_of_scope=("valid", "test"))
    report, lines = run_through(config)
    assert report.validate_stage.counts["train"] == 15
    assert report.extract.trained and report.distil.trained
    teachers = report.fetch_teachers.teachers
    assert [VersionRef.parse(name).tenant for name in teachers] == ["baker", "cooper"]
    assert report.evaluate.held_out is not None and report.evaluate.held_out.rows == 5
    assert report.evaluate.test is not None and report.evaluate.test.rows == 5

    manifest, payload = registry.client.fetch(VersionRef.parse(report.publish.name))
    chosen = report.distil if report.decide.choice == "distilled" else report.extract
    assert sha256_hex(payload) == manifest.version == chosen.adapter_sha256
    assert manifest.teachers == (teachers if report.decide.choice == "distilled" else ())
    assert manifest.config_sha256 == config.digest()
    held_out = getattr(report.evaluate.held_out, report.decide.choice)
    assert manifest.metrics == {f"held_out_{name}": m for name, m in held_out.items()}
    assert manifest.golden == golden_vectors(tiny_encoder, unpack_adapter(payload))

    bundle = read_bundle(Path(config.serving_store), config.tenant, report.bundle.bundle)
    assert live_bundle(Path(config.serving_store), config.tenant) == report.bundle.bundle
    assert bundle.manifest == manifest and bundle.adapter_payload == payload
    assert [faq.faq_id for faq in bundle.faqs] == [f"faq-{n}" for n in range(5)]
    assert len(bundle.vectors) == report.bundle.index_vectors == 5
    assert bundle.threshold == report.bundle.threshold > -1
    assert len(lines) == len(STAGES)
    assert all(
        f"{config.tenant} {stage}:" in told for stage, told in zip(STAGES, lines, strict=True)
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_done_is_answered_and_not_done_again(
    configured: Configured, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured()
    run_through(config)
    expected = getattr(DataOwner(config), stage)()
    made: list[str] = []
    monkeypatch.setattr("actors.data_owner.train_stage", lambda *_, **__: made.append("training"))
    monkeypatch.setattr("actors.data_owner.fetch_teachers", lambda *_, **__: made.append("fetch"))
    monkeypatch.setattr("adapterdistill.bundle.write_bundle", lambda *_: made.append("bundle"))
    owner = DataOwner(config)
    assert getattr(owner, stage)() == getattr(owner, stage)() == expected
    assert not made


def test_stages_of_a_new_owner_run_the_earlier_ones_that_are_missing(
    configured: Configured,
) -> None:
    config = configured()
    bundled = DataOwner(config).bundle()
    assert run_through(config)[0].bundle == bundled


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder_folder: Path, tiny_encoder: Encoder
) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("uninterrupted")
    write_shop(home / "data" / "fletcher", splits=HELD)
    running = with_teachers(home / "registry", tiny_encoder)
    config = run_of(home, "fletcher", encoder=tiny_encoder_folder, registry=running.address)
    made = what_was_made(run_through(config)[0])
    running.close()
    return made


@pytest.mark.parametrize("done", range(1, len(STAGES)))
def test_a_run_killed_after_any_stage_ends_as_if_it_had_not_been(
    configured: Configured, uninterrupted: dict[str, Any], done: int
) -> None:
    config = configured()
    owner_after(config, *STAGES[:done])
    assert what_was_made(run_through(config)[0]) == uninterrupted


class Killed(BaseException):
    """Stands for the end of the process: nothing in the project catches it."""


INSIDE = {
    "validate": "adapterdistill.data.TenantDataset.counts",
    "extract": "actors.train_loop.pack_adapter",
    "fetch_teachers": "actors.teachers.prove_active",
    "distil": "adapterdistill.distill.adapter_distillation.AdapterDistillation.forward",
    "evaluate": "actors.data_owner.compare",
    "decide": "actors.data_owner.Decided",
    "publish": "actors.data_owner.Published",
    "bundle": "adapterdistill.bundle.set_live",
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_killed_inside_any_stage_ends_as_if_it_had_not_been(
    configured: Configured,
    uninterrupted: dict[str, Any],
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configured()
    with monkeypatch.context() as patch:

        def kill(*_: Any, **__: Any) -> Any:
            raise Killed

        patch.setattr(INSIDE[stage], kill)
        with pytest.raises(Killed):
            run_through(config)
    assert what_was_made(run_through(config)[0]) == uninterrupted


def test_killed_between_publishing_and_keeping_the_result_publishes_the_same(
    configured: Configured, registry: Running, uninterrupted: dict[str, Any]
) -> None:
    config = configured()
    published = owner_after(config, *STAGES[:-1]).publish()
    (folder_of(config) / "stages" / "published.json").unlink()
    again = DataOwner(config).publish()
    assert again.name == published.name == uninterrupted["publish"]["name"]
    versions = registry.client.list(tenant="fletcher", latest_only=False)
    assert [m.ref.name for m in versions] == [published.name]


def test_faqs_alone_with_teachers_are_distilled(configured: Configured, registry: Running) -> None:
    report, _ = run_through(configured("glover", splits=()))
    assert not report.extract.trained and report.distil.trained
    assert report.decide.choice == "distilled"
    assert (report.evaluate.held_out, report.evaluate.test) == (None, None)
    assert report.bundle.threshold == -1
    manifest = registry.client.get(VersionRef.parse(report.publish.name))
    assert manifest.teachers == report.fetch_teachers.teachers and manifest.metrics == {}
    assert report.distil.steps == 6


@pytest.mark.parametrize("data", [{}, {"answers": False}])
def test_questions_alone_without_teachers_get_an_adapter_near_identity(
    configured: Configured, empty_registry: Running, tiny_encoder: Encoder, data: dict[str, bool]
) -> None:
    report, lines = run_through(
        configured("hooper", splits=(), address=empty_registry.address, **data)
    )
    assert not report.extract.trained and not report.distil.trained
    assert report.decide.choice == "own"
    adapter = unpack_adapter(payload_of(empty_registry, report))
    texts = ["where is my kite", "hello"]
    moved = tiny_encoder.embed_texts(texts, adapter) - tiny_encoder.embed_texts(texts)
    assert float(moved.norm(dim=1).max()) < 0.01
    assert "no labelled queries" in lines[1] and "no teachers" in lines[3]


def test_questions_without_answers_are_distilled_on_their_own_texts(
    configured: Configured, registry: Running
) -> None:
    report, _ = run_through(configured("ironmonger", splits=(), answers=False))
    assert report.distil.trained
    adapter = unpack_adapter(payload_of(registry, report))
    assert all(bool(p.isfinite().all()) for p in adapter.parameters())


def test_onboarding_changes_no_teacher_and_no_encoder(
    configured: Configured,
    registry: Running,
    tiny_encoder_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[Encoder] = []

    def keep(**options: Any) -> Encoder:
        loaded.append(load_encoder(**options))
        return loaded[-1]

    def weights(encoder: Encoder) -> list[torch.Tensor]:
        return list(tensors_in(encoder._weights))

    def files() -> dict[Path, bytes]:
        folders = (tiny_encoder_folder, registry.root / "blobs")
        return {p: p.read_bytes() for f in folders for p in f.rglob("*") if p.is_file()}

    monkeypatch.setattr("actors.data_owner.load_encoder", keep)
    before = files()
    listed = {m.ref.name: m for m in registry.client.list()}
    config = configured("joiner")
    report, _ = run_through(config)
    fresh = load_encoder(**config.encoder.model_dump())
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


def test_a_registry_that_does_not_answer_is_said_and_ridden_out_by_the_next_run(
    configured: Configured, registry: Running
) -> None:
    config = configured("knapper")
    away = config.registry.model_copy(update={"address": "127.0.0.1:1", "timeout_s": 0.5})
    with pytest.raises(RegistryUnavailableError, match=r"127\.0\.0\.1:1"):
        run_through(config.model_copy(update={"registry": away}))
    assert run_through(config)[0].publish.name.startswith("tenants/knapper/")
    assert (folder_of(config) / "manifest.json").exists()


def test_the_same_weights_under_other_settings_keep_their_first_manifest(
    configured: Configured, empty_registry: Running
) -> None:
    """Their version is the same: the registry holds one manifest for it."""
    home = {"address": empty_registry.address, "splits": ()}
    first = configured("lorimer", **home)
    published = run_through(first)[0].publish
    training = first.training.model_copy(update={"extract_steps": 7})
    second = first.model_copy(update={"training": training})
    assert second.digest() != first.digest()
    report, _ = run_through(second)
    assert report.publish.name == published.name
    manifest = empty_registry.client.get(VersionRef.parse(published.name))
    assert manifest.config_sha256 == first.digest()
    bundle = read_bundle(Path(second.serving_store), "lorimer", report.bundle.bundle)
    assert bundle.manifest == manifest


def test_a_finished_run_is_published_and_made_live_again_where_that_was_lost(
    configured: Configured, registry: Running, empty_registry: Running, tmp_path: Path
) -> None:
    # Without teachers: a registry refuses a student whose teachers it does not have.
    config = configured("mercer", run={"teachers": {"max_teachers": 0}})
    first, _ = run_through(config)
    moved = config.model_copy(
        update={
            "registry": config.registry.model_copy(update={"address": empty_registry.address}),
            "serving_store": str(tmp_path / "elsewhere"),
        }
    )
    again, _ = run_through(moved)
    assert again.publish.name == first.publish.name
    assert payload_of(empty_registry, again) == payload_of(registry, first)
    assert live_bundle(tmp_path / "elsewhere", "mercer") == first.bundle.bundle


def test_going_back_to_earlier_rows_makes_their_bundle_live_again(
    configured: Configured,
) -> None:
    config = configured("nailer")
    first = run_through(config)[0].bundle.bundle
    store = Path(config.serving_store)
    other = configured("nailer", home=Path(config.workspace) / "b", word="soon")
    second = run_through(other.model_copy(update={"serving_store": str(store)}))[0].bundle.bundle
    assert first != second == live_bundle(store, "nailer")
    assert run_through(config)[0].bundle.bundle == first == live_bundle(store, "nailer")
    set_live(store, "nailer", second)


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
    honest = manifest_of(tiny_encoder, adapter, tenant="liar", payload=payload)
    golden = golden_vectors(tiny_encoder, random_adapter(tiny_encoder, seed=3, scale=0.0))
    empty_registry.client.publish(honest.model_copy(update={"golden": golden}), payload)
    report, lines = run_through(configured("quarrier", address=empty_registry.address))
    assert [VersionRef.parse(name).tenant for name in report.fetch_teachers.teachers] == ["good"]
    assert report.fetch_teachers.refused == (honest.ref.name,)
    assert "1 refused" in lines[2]


def test_what_was_published_and_bundled_names_the_right_things(configured: Configured) -> None:
    report, _ = run_through(configured("roper"))
    assert isinstance(report.publish, Published) and isinstance(report.bundle, Bundled)
    assert report.bundle.bundle.startswith(VersionRef.parse(report.publish.name).version)
