"""`adapterdistill onboard`: exit codes, what is printed, and the run files that ship."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapterdistill import cli
from adapterdistill.backbone import Encoder
from adapterdistill.config import load_toml
from adapterdistill.errors import PlacementError
from adapterdistill.manifest import VersionRef
from tests.contract.running_registry import Running
from tests.owner_runs import config_toml, publish, run_of, write_shop

ROOT = Path(__file__).resolve().parents[3]
SECRET = "plover"


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as exited:
        cli.main(["onboard", *args])
    assert isinstance(exited.value.code, int)
    return exited.value.code


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "registry")
    yield running
    running.close()


@pytest.fixture
def toml(tmp_path: Path, tiny_encoder_folder: Path) -> Callable[..., str]:
    """Writes a run's TOML."""

    def write(registry: str = "127.0.0.1:1", **more: Any) -> str:
        config = run_of(tmp_path, "acme", encoder=tiny_encoder_folder, registry=registry, **more)
        path = tmp_path / "acme.toml"
        path.write_text(config_toml(config))
        assert load_toml(path) == config
        return str(path)

    return write


def test_a_local_run_prints_its_stages_and_keeps_its_report(
    tmp_path: Path, toml: Callable[..., str], registry: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    write_shop(tmp_path / "data" / "acme", word=SECRET)
    assert run("--config", toml(registry.address), "--local") == 0
    printed = capfd.readouterr()
    assert "[1/9] acme validate: 5 FAQs, 20 train, 0 valid, 5 test" in printed.out
    assert "[9/9] acme bundle:" in printed.out and "peak MB" in printed.out
    assert "extract: step 6/6" in printed.err
    report = json.loads((tmp_path / "owners" / "acme" / "report.json").read_text())
    assert report["tenant"] == "acme" and report["submission_id"] is None
    assert registry.client.get(VersionRef.parse(report["publish"]["name"])).tenant == "acme"

    assert run("--config", toml(registry.address), "--local", "--format", "json") == 0
    again = capfd.readouterr()
    assert json.loads(again.out)["publish"] == report["publish"]
    assert "[9/9] acme bundle:" in again.err
    assert "step " not in again.out + again.err  # nothing was trained again
    assert SECRET not in printed.out + printed.err + again.out + again.err + json.dumps(report)


@pytest.mark.parametrize("leave_one_out", [True, False])
def test_the_teachers_that_helped_are_printed(
    tmp_path: Path,
    toml: Callable[..., str],
    registry: Running,
    capfd: pytest.CaptureFixture[str],
    tiny_encoder: Encoder,
    leave_one_out: bool,
) -> None:
    for seed, tenant in enumerate(["baker", "cooper"]):
        publish(registry, tiny_encoder, tenant, seed=seed)
    write_shop(tmp_path / "data" / "acme")
    teachers = {"leave_one_out": leave_one_out}
    config = toml(registry.address, teachers=teachers, training={"method": "adapter_distillation"})
    assert run("--config", config, "--local") == 0
    printed = capfd.readouterr().out
    report = json.loads((tmp_path / "owners" / "acme" / "report.json").read_text())
    for name, share in report["distil"]["weights"].items():
        ref = VersionRef.parse(name)
        (line,) = [line for line in printed.splitlines() if f"{ref.tenant}/{ref.adapter}" in line]
        assert ref.version[:12] in line and f"{share:.3f}" in line
        change = report["distil"]["leave_one_out"].get(name)
        assert (change is None) == (not leave_one_out)
        assert change is None or f"{change:+.4f}" in line
    assert ("left out:" in printed) == leave_one_out


def test_json_on_stdout_is_all_that_is_there(
    tmp_path: Path, toml: Callable[..., str], registry: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    write_shop(tmp_path / "data" / "acme")
    assert run("--config", toml(registry.address), "--local", "--format", "json") == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out)["extract"]["trained"]
    assert "extract: step 6/6" in printed.err


@pytest.mark.parametrize("as_json", [True, False])
def test_a_dry_run_prints_what_it_found_and_writes_nothing(
    tmp_path: Path,
    toml: Callable[..., str],
    registry: Running,
    tiny_encoder: Encoder,
    capfd: pytest.CaptureFixture[str],
    as_json: bool,
) -> None:
    publish(registry, tiny_encoder, "baker", seed=0)
    write_shop(tmp_path / "data" / "acme", word=SECRET)
    more = ["--format", "json"] if as_json else []
    assert run("--config", toml(registry.address), "--local", "--dry-run", *more) == 0
    printed = capfd.readouterr()
    assert SECRET not in printed.out + printed.err
    assert not (tmp_path / "owners").exists() and not (tmp_path / "serving").exists()
    assert [m.tenant for m in registry.client.list()] == ["baker"]
    if as_json:
        found = json.loads(printed.out)
        assert found["teachers"] == ["baker"] and found["estimate"]["bytes_out"] > 0
        assert {check["status"] for check in found["checks"]} == {"ok"}
    else:
        for told in ("nothing was changed", "About ", "fetch_teachers", "baker", "No differential"):
            assert told in printed.out


def test_a_dry_run_ends_with_the_first_error_s_code_after_all_was_looked_at(
    tmp_path: Path, toml: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path(toml())
    path.write_text(path.read_text().replace("timeout_s = 10.0", "timeout_s = 0.3"))
    assert run("--config", str(path), "--local", "--dry-run", "--format", "json") == 3
    printed = capfd.readouterr()
    reasons = [check["reason"] for check in json.loads(printed.out)["checks"]]
    assert reasons == ["INVALID_DATA", None, "REGISTRY_UNAVAILABLE", None]
    assert printed.err.startswith("error [INVALID_DATA]: ") and printed.err.count("\n") == 1


def test_a_dry_run_looks_where_the_run_would_be(
    toml: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: object, *, insecure: bool) -> None:
        raise PlacementError("no Ray cluster was found")

    monkeypatch.setattr("adapterdistill.actors.preflight.on_cluster", lost)
    assert run("--config", toml(), "--dry-run") == 7


def faulty(folder: Path) -> None:
    """A query of a FAQ that there is not, and an empty text."""
    table = pq.read_table(folder / "queries.parquet").to_pydict()
    table["faq_id"][0], table["text"][1] = SECRET, ""
    schema = pa.schema([(name, pa.string()) for name in table])
    pq.write_table(pa.table(table, schema=schema), folder / "queries.parquet")


def no_faqs(folder: Path) -> None:
    (folder / "faqs.parquet").unlink()


def torn(folder: Path) -> None:
    path = folder / "faqs.parquet"
    path.write_bytes(path.read_bytes()[:-20])


def test_a_form_that_cannot_be_exits_2_and_writes_nothing(
    tmp_path: Path, toml: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    write_shop(tmp_path / "data" / "acme", word=SECRET)
    wrong = toml(training={"method": "multitask_kd"}, light={"layers": 3})
    assert run("--config", wrong, "--local") == 2
    said = "method multitask_kd: a student of 3 layers: its teacher has 2; take 1 to 2"
    assert f"error [INVALID_CONFIG]: {said}" in capfd.readouterr().err
    assert not (tmp_path / "owners").exists() and not (tmp_path / "serving").exists()


@pytest.mark.parametrize("damage", [faulty, no_faqs, torn])
def test_a_data_fault_exits_3_names_the_file_and_writes_nothing(
    tmp_path: Path,
    toml: Callable[..., str],
    damage: Callable[[Path], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    damage(write_shop(tmp_path / "data" / "acme", word=SECRET))
    assert run("--config", toml(), "--local") == 3
    printed = capfd.readouterr()
    first, *faults = printed.err.splitlines()
    assert first.startswith("error [INVALID_DATA]: ")
    assert all(line.startswith("  queries.parquet, row ") for line in faults)
    assert ".parquet" in printed.err
    assert SECRET not in printed.out + printed.err
    assert not (tmp_path / "owners").exists() and not (tmp_path / "serving").exists()


def test_a_registry_that_does_not_answer_exits_6(
    tmp_path: Path, toml: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    write_shop(tmp_path / "data" / "acme")
    path = Path(toml())
    began = time.monotonic()
    assert run("--config", str(path), "--local") == 6
    assert time.monotonic() - began < 2  # not its timeout_s of 10
    assert "error [REGISTRY_UNAVAILABLE]" in capfd.readouterr().err


def test_another_encoder_than_there_is_exits_4(
    tmp_path: Path, toml: Callable[..., str], registry: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    write_shop(tmp_path / "data" / "acme")
    path = Path(toml(registry.address))
    path.write_text(
        path.read_text().replace('[encoder]\nname = "', '[encoder]\nname = "/nonexistent')
    )
    assert run("--config", str(path), "--local") == 4
    assert "error [INVALID_ENCODER]" in capfd.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "tenant = ", 'tenant = "a"\nbogus = 1', 'tenant = "Not A Name"']
)
def test_a_wrong_config_exits_2(
    tmp_path: Path, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text(text)
    assert run("--config", str(tmp_path / "run.toml"), "--local") == 2
    assert "run.toml" in capfd.readouterr().err
    assert run("--config", str(tmp_path / "none.toml"), "--local") == 2


def test_a_lost_cluster_exits_7(
    toml: Callable[..., str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def lost(_: object, *, insecure: bool, promote: bool) -> None:
        raise PlacementError("no Ray cluster was found")

    monkeypatch.setattr("adapterdistill.actors.onboarding.on_cluster", lost)
    assert run("--config", toml()) == 7
    assert "error [NO_OWNER_NODE]" in capfd.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "cluster" / "runs").glob("*.toml")), ids=str)
def test_every_run_file_that_ships_is_valid(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAPTERDISTILL_HOME", str(tmp_path))
    config = load_toml(path)
    assert path.stem in (config.tenant, f"{config.tenant}-conditional", f"{config.tenant}-light")
    assert config.data == str(tmp_path / "data" / config.tenant)
    assert config.placement.resource == f"owner:{config.tenant}"


def test_there_are_run_files_for_the_sample_tenants() -> None:
    from adapterdistill.data.importing import sample_names

    runs = {path.stem for path in (ROOT / "cluster" / "runs").glob("*.toml")}
    assert set(sample_names()) <= runs


def test_a_tiny_encoder_is_named_in_the_manifest_without_its_path(
    tmp_path: Path, toml: Callable[..., str], registry: Running, tiny_encoder: Encoder
) -> None:
    write_shop(tmp_path / "data" / "acme", splits=())
    assert run("--config", toml(registry.address), "--local") == 0
    (manifest,) = registry.client.list()
    assert "/" not in manifest.encoder.name
    assert str(tmp_path).encode() not in manifest.canonical_json()
