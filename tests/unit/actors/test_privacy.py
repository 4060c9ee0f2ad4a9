"""The owner's secret draws a run's order of rows, and an audit says what a run reveals."""

from pathlib import Path
from typing import Any

import pytest

from adapterdistill.actors.data_owner import DataOwner
from adapterdistill.actors.privacy.statement import NOT_AUDITED
from adapterdistill.actors.training.stages import public_initialisation
from adapterdistill.backbone import Encoder
from adapterdistill.config import OnboardConfig
from adapterdistill.errors import ConfigError, RevealsRowsError
from adapterdistill.evaluation.membership import Membership
from adapterdistill.manifest import Manifest, VersionRef
from adapterdistill.store.bundle import read_bundle
from tests.contract.running_registry import Running
from tests.owner_runs import Configured, folder_of, owner_after, run_through

SECRET = {"training": {"public_seed": False}}
ALONE = {"teachers": {"max_teachers": 0}}
HELD = ("train",) * 4 + ("valid",) * 3 + ("test",)


def own_digest(config: OnboardConfig) -> str:
    """Digest of the own adapter, as a version would be named."""
    digest = owner_after(config, "extract").extract().adapter_sha256
    assert digest is not None
    return digest


def manifest_of(registry: Running, config: OnboardConfig) -> Manifest:
    return registry.client.get(VersionRef.parse(run_through(config)[0].publish.name))


@pytest.mark.parametrize(
    ("method", "splits"), [("adapter_distillation", HELD), ("averaged_teachers", ("train",) * 5)]
)
def test_owners_of_equal_rows_make_other_versions_and_each_its_own_again(
    configured: Configured, tmp_path: Path, splits: tuple[str, ...], method: str
) -> None:
    """Whoever has all rows, the settings and the public seed lacks the secret."""
    run = {"training": SECRET["training"] | {"method": method}}
    homes = [tmp_path / name for name in ("a", "b")]
    first, second = (configured(home=home, splits=splits, run=run) for home in homes)
    own = own_digest(first)
    assert own != own_digest(second)
    assert owner_after(first).distil() != owner_after(second).distil()
    assert trained_again(first) == own
    key = Path(first.workspace) / first.tenant / "secret.key"
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 32
    key.unlink()
    assert trained_again(first) != own


def trained_again(config: OnboardConfig) -> str:
    """The own adapter's digest when the stage has to run again."""
    (folder_of(config) / "stages" / "extracted.json").unlink()
    return own_digest(config)


def test_the_public_seed_repeats_a_run_anywhere(configured: Configured, tmp_path: Path) -> None:
    homes = [tmp_path / name for name in ("a", "b")]
    first, second = (own_digest(configured(home=home)) for home in homes)
    assert first == second
    assert not (tmp_path / "a" / "owners" / "fletcher" / "secret.key").exists()


def test_a_run_with_a_secret_is_another_run_than_one_with_the_public_seed(
    configured: Configured,
) -> None:
    public = configured()
    training = public.training.model_copy(update={"public_seed": False})
    secret = public.model_copy(update={"training": training})
    assert public.digest() != secret.digest()
    folders = {owner_after(config, "validate")._folder for config in (public, secret)}
    assert len(folders) == 2


def test_other_rows_get_another_order(configured: Configured, tmp_path: Path) -> None:
    """Otherwise the difference of two versions would show the row that was added."""
    first = configured(run=SECRET)
    data = configured(home=tmp_path / "b", word="soon").data
    second = first.model_copy(update={"data": data})
    secrets = {DataOwner(config)._secret for config in (first, second)}
    assert len(secrets) == 2 and None not in secrets


def test_a_manifest_states_the_public_initialisation(
    configured: Configured, registry: Running, empty_registry: Running, tiny_encoder: Encoder
) -> None:
    # By the public seed: by chance a secret order ends in the bare encoder, which teaches nobody.
    run = ALONE | {"training": {"extract_steps": 40}}
    config = configured(run=run, splits=HELD, address=empty_registry.address)
    expected = public_initialisation(config, tiny_encoder)
    assert expected.name == "near-identity/2x32x4/seed-0"
    assert manifest_of(empty_registry, config).init == expected
    # The next owner learns from it alone, and so goes back to the same weights.
    pupil = configured("glover", word="again", address=empty_registry.address, run=SECRET)
    owner = owner_after(pupil, "fetch_teachers")
    assert owner.fetch_teachers().init == expected
    # Teachers that state nothing, or do not agree, leave it open.
    assert owner_after(configured("hatter"), "fetch_teachers").fetch_teachers().init is None


def audited(monkeypatch: pytest.MonkeyPatch, auc: float | None) -> None:
    found = None
    if auc is not None:
        found = Membership(auc=auc, low=auc - 0.1, high=auc + 0.1, attack="similarity", rows=40)
    monkeypatch.setattr("adapterdistill.actors.judging.audit_membership", lambda *_, **__: found)


def test_the_audit_is_in_the_report_and_in_the_manifest(
    configured: Configured, empty_registry: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited(monkeypatch, 0.61)
    run = ALONE | {"training": {"extract_steps": 40}}
    config = configured(run=run, splits=HELD, address=empty_registry.address)
    report, told = run_through(config)
    assert report.decide.choice == "own"
    assert report.evaluate.membership is not None and report.evaluate.membership.auc == 0.61
    assert any("membership AUC 0.610 (0.510 to 0.710)" in line for line in told)
    manifest = empty_registry.client.get(VersionRef.parse(report.publish.name))
    assert "similarity to the other rows with AUC 0.610" in manifest.privacy
    assert manifest.metrics["membership_auc"].value == 0.61
    assert manifest.metrics["membership_auc_high"].value == pytest.approx(0.71)


@pytest.mark.parametrize("splits", [HELD, ("train",) * 6])
def test_the_audit_is_made_of_rows_that_were_held_out(
    configured: Configured, splits: tuple[str, ...]
) -> None:
    config = configured(run=ALONE, splits=splits)
    owner = owner_after(config, "extract")
    found = owner._judge.membership("own", folder_of(config) / "own.safetensors")
    assert found is not None and 0 <= found.low <= found.auc <= found.high <= 1
    assert found.rows >= 20
    assert owner._judge.membership("averaged", folder_of(config) / "own.safetensors") is None


def published(config: OnboardConfig, choice: str = "own") -> Any:
    """Publish, with `choice` as the verdict whatever the rows say."""
    owner = owner_after(config, "evaluate")
    decided = owner.decide().model_copy(update={"choice": choice})
    owner._opened().keep(decided)
    return owner.publish()


@pytest.mark.parametrize(
    ("auc", "said"),
    [(0.9, r"AUC 0\.900 \(0\.800 to 1\.000\), over .* = 0\.7; .* Train for fewer"), (None, "add")],
)
def test_what_reveals_too_much_or_cannot_be_audited_is_not_published(
    configured: Configured,
    empty_registry: Running,
    monkeypatch: pytest.MonkeyPatch,
    auc: float | None,
    said: str,
) -> None:
    audited(monkeypatch, auc)
    run = ALONE | {"privacy": {"max_membership_auc": 0.7}}
    config = configured(run=run, splits=HELD, address=empty_registry.address)
    monkeypatch.setattr(
        "adapterdistill.actors.data_owner.DataOwner._chosen_payload",
        lambda self: (folder_of(config) / "own.safetensors").read_bytes(),
    )
    with pytest.raises(RevealsRowsError, match=f"^not published: .*{said}") as raised:
        published(config)
    assert raised.value.exit_code == 14
    assert not list(empty_registry.client.list())
    # The limit decides nothing of the training: raising it goes on where the run ended.
    raised_limit = config.model_copy(
        update={"privacy": config.privacy.model_copy(update={"max_membership_auc": None})}
    )
    assert raised_limit.digest() == config.digest()
    assert published(raised_limit).name.startswith("tenants/fletcher/")
    if auc is None:
        (manifest,) = empty_registry.client.list()
        assert manifest.privacy.endswith(NOT_AUDITED)


def test_a_private_adapter_is_published_in_place_of_the_one_that_is_served(
    configured: Configured, registry: Running
) -> None:
    config = configured(splits=HELD, run=SECRET | {"privacy": {"epsilon": 4}})
    report, _ = run_through(config)
    manifest = registry.client.get(VersionRef.parse(report.publish.name))
    assert manifest.method == "private_mixing" and manifest.metrics == {}
    assert "epsilon 4, delta 1e-05. Unit: one labelled query" in manifest.privacy
    assert "noise multiplier 1.08" in manifest.privacy and "sampling: none" in manifest.privacy
    assert set(manifest.teachers) == set(report.fetch_teachers.teachers)
    served = read_bundle(Path(config.serving_store), "fletcher", report.bundle.bundle).manifest
    assert served.version != manifest.version
    listed = [one.version for one in registry.client.list(tenant="fletcher", latest_only=False)]
    assert listed == [manifest.version]
    # The same rows get the same noise, so that publishing again does not average it out.
    (folder_of(config) / "stages" / "published.json").unlink()
    assert DataOwner(config).publish().name == report.publish.name


def test_without_teachers_nothing_of_the_rows_is_published(
    configured: Configured, empty_registry: Running
) -> None:
    run = {"privacy": {"epsilon": 4}} | ALONE
    config = configured(splits=HELD, run=run, address=empty_registry.address)
    manifest = manifest_of(empty_registry, config)
    assert manifest.method == "untrained" and manifest.metrics == {}


def test_teachers_of_a_private_adapter_are_chosen_without_the_rows(
    configured: Configured, tmp_path: Path
) -> None:
    run = {"privacy": {"epsilon": 4}, "teachers": {"max_teachers": 1}}
    first = configured(run=run)
    other = configured(home=tmp_path / "b", word="soon", answers=False, run=run)
    found = [owner_after(config).fetch_teachers().teachers for config in (first, other)]
    assert found[0] == found[1]


def test_what_epsilon_does_not_cover_is_refused(configured: Configured) -> None:
    with pytest.raises(ConfigError, match=r"max_membership_auc is for an adapter that rows train"):
        configured(run={"privacy": {"epsilon": 4, "max_membership_auc": 0.7}})
