"""`adapterdistill release`: a candidate up, promoted, rolled back; and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from adapterdistill.backbone import Encoder
from adapterdistill.cli.release import app
from adapterdistill.errors import AdapterDistillError, ConfigError, ServingError, StoreError
from adapterdistill.store.bundle import write_bundle
from adapterdistill.store.release import Candidate, Release, read_release, set_live
from adapterdistill.store.sealing import new_key
from tests.serving_store import make_tenant, write_damaged_release


@pytest.fixture
def bundles(tmp_path: Path, tiny_encoder: Encoder) -> list[str]:
    """Three bundles of `acme`, the first of them live."""
    made = [make_tenant(tiny_encoder, "acme", seed=seed).bundle for seed in (1, 2, 3)]
    ids = [write_bundle(tmp_path, bundle) for bundle in made]
    set_live(tmp_path, "acme", ids[0])
    return ids


def run(store: Path, *args: str) -> str:
    arguments = [*args, "--store", str(store)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    if isinstance(result.exception, AdapterDistillError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def asked(store: Path, *args: str) -> Any:
    return json.loads(run(store, *args, "--format", "json"))


def short(bundle_id: str) -> str:
    return f"{bundle_id[:12]}{bundle_id[64:]}"


def test_a_candidate_goes_all_the_way_and_back(tmp_path: Path, bundles: list[str]) -> None:
    first, second, _ = bundles
    told = run(tmp_path, "shadow", "acme", short(second))
    assert short(first) in told and f"{short(second)} (shadow 1)" in told
    told = asked(tmp_path, "canary", "acme", "--share", "0.05")  # the one that is up
    assert told["candidate"] == {"bundle": second, "share": 0.05, "mode": "canary"}
    candidate = Candidate(bundle=second, share=0.05, mode="canary")
    assert read_release(tmp_path, "acme").candidate == candidate
    assert asked(tmp_path, "promote", "acme") == {
        "tenant": "acme", "bundle": second, "before": first,
    }  # fmt: skip
    assert run(tmp_path, "rollback", "acme") == f"acme: live {short(first)}\n"
    run(tmp_path, "canary", "acme", second[:16])
    assert "candidate" not in asked(tmp_path, "drop", "acme")
    assert read_release(tmp_path, "acme") == Release(tenant="acme", bundle=first)


def test_what_there_is_is_listed_and_shown(tmp_path: Path, bundles: list[str]) -> None:
    first, second, third = bundles
    run(tmp_path, "canary", "acme", second)
    run(tmp_path, "promote", "acme")
    run(tmp_path, "shadow", "acme", third, "--share", "0.5")
    write_damaged_release(tmp_path, "broken", "{")
    listed = asked(tmp_path, "list")
    assert [row["tenant"] for row in listed] == ["acme", "broken"]
    assert listed[0] == read_release(tmp_path, "acme").model_dump(mode="json")
    assert listed[1]["error"] == "damaged"
    shown = asked(tmp_path, "show", "acme")
    roles = {row["bundle"]: row["role"] for row in shown["bundles"]}
    assert roles == {first: "before", second: "live", third: "shadow 0.5"}
    listed, shown = run(tmp_path, "list"), run(tmp_path, "show", "acme")
    assert all(short(bundle_id) in listed for bundle_id in (second, third))
    assert all(short(bundle_id) in shown for bundle_id in bundles)
    assert "damaged" in run(tmp_path, "list")


@pytest.mark.parametrize(
    ("args", "error", "words"),
    [
        (["canary", "acme", "f00"], ConfigError, "no bundle matches 'f00'"),
        (["canary", "acme", ""], ConfigError, "bundles match ''"),
        (["shadow", "acme"], ConfigError, "has no candidate: name a bundle"),
        (["canary", "acme", "LIVE"], ServingError, "is live already"),
        (["canary", "acme", "OTHER", "--share", "2"], ConfigError, "from 0 to 1"),
        (["promote", "acme"], ServingError, "there is no candidate"),
        (["drop", "acme"], ServingError, "there is no candidate"),
        (["rollback", "acme"], ServingError, "nothing to roll back to"),
        (["show", "nobody"], ServingError, "no live bundle in "),
        (["canary", "nobody", "f00"], ServingError, "no bundles"),
        (["promote", "../x"], ServingError, "not a tenant name"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    tmp_path: Path,
    bundles: list[str],
    args: list[str],
    error: type[AdapterDistillError],
    words: str,
) -> None:
    named = {"LIVE": bundles[0], "OTHER": bundles[1]}
    with pytest.raises(error, match=words):
        run(tmp_path, *(named.get(arg, arg) for arg in args))
    assert read_release(tmp_path, "acme") == Release(tenant="acme", bundle=bundles[0])


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be used"):
        run(tmp_path / "absent", "list")


def test_the_help_tells_it_from_the_registry_s_release() -> None:
    assert "quarantined" in CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output


def test_an_encrypted_bundle_is_shown_and_released_without_its_key(
    tmp_path: Path, bundles: list[str], tiny_encoder: Encoder
) -> None:
    made = make_tenant(tiny_encoder, "acme", seed=9).bundle
    hidden = write_bundle(tmp_path, made, key=new_key(tmp_path / "acme.key"))
    run(tmp_path, "canary", "acme", hidden)
    run(tmp_path, "promote", "acme")
    shown = {row["bundle"]: row["encoder"] for row in asked(tmp_path, "show", "acme")["bundles"]}
    assert shown[hidden] == "encrypted" and shown[bundles[0]] != "encrypted"
