"""A run that was stopped, or lost what it had made, ends as if it had not been."""

import time
from pathlib import Path
from typing import Any

import pytest

from adapterdistill.actors.data_owner import DataOwner
from adapterdistill.actors.onboarding import in_process, onboard
from adapterdistill.actors.stages import STAGES
from adapterdistill.backbone import Encoder
from adapterdistill.drills.onboarding.owner import without_times
from adapterdistill.errors import RegistryUnavailableError
from adapterdistill.manifest import VersionRef
from adapterdistill.sections import ReleaseConfig
from adapterdistill.store.bundle import read_bundle
from adapterdistill.store.release import (
    Candidate,
    Release,
    drop,
    live_bundle,
    promote,
    put_up,
    read_release,
    roll_back,
    set_live,
)
from tests.contract.running_registry import Running
from tests.owner_runs import (
    HELD,
    Configured,
    folder_of,
    owner_after,
    payload_of,
    run_of,
    run_through,
    with_teachers,
    write_shop,
)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_is_done_is_answered_and_not_done_again(
    configured: Configured, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured()
    run_through(config)
    expected = getattr(DataOwner(config), stage)()
    made: list[str] = []
    monkeypatch.setattr(
        "adapterdistill.actors.training.stages.train_stage",
        lambda *_, **__: made.append("training"),
    )
    monkeypatch.setattr(
        "adapterdistill.actors.data_owner.fetch_teachers", lambda *_, **__: made.append("fetch")
    )
    monkeypatch.setattr(
        "adapterdistill.store.bundle.write_bundle", lambda *_: made.append("bundle")
    )
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
    made = without_times(run_through(config)[0])
    running.close()
    return made


@pytest.mark.parametrize("done", range(1, len(STAGES)))
def test_a_run_killed_after_any_stage_ends_as_if_it_had_not_been(
    configured: Configured, uninterrupted: dict[str, Any], done: int
) -> None:
    config = configured()
    owner_after(config, *STAGES[:done])
    assert without_times(run_through(config)[0]) == uninterrupted


class Killed(BaseException):
    """Stands for the end of the process: nothing in the project catches it."""


INSIDE = {
    "validate": "adapterdistill.data.TenantDataset.counts",
    "extract": "adapterdistill.actors.training.outcome.pack_trained",
    "fetch_teachers": "adapterdistill.actors.teachers.load_proven",
    "distil": "adapterdistill.distill.averaging.MovedAverage.forward",
    "evaluate": "adapterdistill.actors.judging.compare",
    "decide": "adapterdistill.actors.records.Decided.model_copy",
    "publish": "adapterdistill.actors.records.Published.model_copy",
    "variant": "adapterdistill.actors.records.VariantMade.model_copy",
    "bundle": "adapterdistill.actors.bundling.set_live",
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
    assert without_times(run_through(config)[0]) == uninterrupted


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


def test_a_registry_that_does_not_answer_is_said_and_ridden_out_by_the_next_run(
    configured: Configured, registry: Running
) -> None:
    config = configured("knapper")
    away = config.registry.model_copy(update={"address": "127.0.0.1:1", "timeout_s": 30.0})
    began = time.monotonic()
    with pytest.raises(RegistryUnavailableError, match=r"127\.0\.0\.1:1.*nothing listens"):
        run_through(config.model_copy(update={"registry": away}))
    assert time.monotonic() - began < 2
    assert not (folder_of(config) / "rows.safetensors").exists()  # nothing was trained
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


def test_submitting_a_finished_run_again_never_undoes_a_rollback(configured: Configured) -> None:
    config = configured("quarrier")
    store = Path(config.serving_store)
    first = run_through(config)[0].bundle.bundle
    other = configured("quarrier", home=Path(config.workspace) / "b", word="soon")
    other = other.model_copy(update={"serving_store": str(store)})
    second = run_through(other)[0].bundle.bundle
    assert live_bundle(store, "quarrier") == second
    at = roll_back(store, "quarrier").rolled_back[0].at
    # Submitted again, also where the run lost its result and makes the bundle anew.
    for _ in range(2):
        report, told = run_through(other)
        assert live_bundle(store, "quarrier") == first
        assert (report.bundle.bundle, report.bundle.rolled_back_at) == (second, at)
        assert f"finished, rolled back at {at}: --promote makes it live" in told[-1]
        (folder_of(other) / "stages" / "bundled.json").unlink()
    report = onboard(other, in_process(other, promote=True), emit=told.append)
    assert live_bundle(store, "quarrier") == second == report.bundle.bundle
    assert report.bundle.rolled_back_at is None and "live" in told[-1]
    run_through(other)
    assert read_release(store, "quarrier") == Release(
        tenant="quarrier", bundle=second, before=first
    )


def test_promote_makes_a_candidate_s_run_live(configured: Configured) -> None:
    config = configured("roper")
    store = Path(config.serving_store)
    run_through(config)
    tried = {"release": {"mode": "canary", "share": 0.25}}
    other = configured("roper", home=Path(config.workspace) / "b", word="soon", run=tried)
    other = other.model_copy(update={"serving_store": str(store)})
    second = run_through(other)[0].bundle.bundle
    assert live_bundle(store, "roper") != second
    onboard(other, in_process(other, promote=True), emit=lambda _: None)
    assert live_bundle(store, "roper") == second


def test_a_further_bundle_is_a_candidate_where_the_run_says_so_and_a_first_one_is_live(
    configured: Configured,
) -> None:
    tried = {"release": {"mode": "canary", "share": 0.25}}
    config = configured("potter", run=tried)
    store = Path(config.serving_store)
    report, told = run_through(config)
    first = report.bundle.bundle
    assert (report.bundle.mode, report.bundle.share) == ("live", None)
    other = configured("potter", home=Path(config.workspace) / "b", word="soon", run=tried)
    other = other.model_copy(update={"serving_store": str(store)})
    report, told = run_through(other)
    second = report.bundle.bundle
    assert first != second and "canary of 0.25" in told[-1]
    candidate = Candidate(bundle=second, share=0.25, mode="canary")
    assert read_release(store, "potter") == Release(
        tenant="potter", bundle=first, candidate=candidate
    )
    # A resumed run leaves what was changed of it by hand, and puts up what is not there.
    put_up(store, "potter", second, mode="shadow", share=1)
    run_through(other)
    assert read_release(store, "potter").candidate == Candidate(
        bundle=second, share=1, mode="shadow"
    )
    drop(store, "potter")
    run_through(other)
    assert read_release(store, "potter").candidate == candidate
    promote(store, "potter")
    run_through(other)
    promoted = Release(tenant="potter", bundle=second, before=first)
    assert read_release(store, "potter") == promoted
    # Another way to be put up is taken up.
    live = config.model_copy(update={"release": ReleaseConfig()})
    assert run_through(live)[0].bundle.bundle == first == live_bundle(store, "potter")
