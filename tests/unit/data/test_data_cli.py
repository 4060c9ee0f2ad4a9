"""`adapterdistill data`: JSON and tables, exit code 3 for faults, domain errors let through."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapterdistill.cli.data import app
from adapterdistill.data import TenantDataset
from adapterdistill.errors import ConfigError, DataError

RUNNER = CliRunner()


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    assert RUNNER.invoke(app, ["samples", str(tmp_path / "s")]).exit_code == 0
    return tmp_path / "s"


def test_samples_are_written_and_described(samples: Path) -> None:
    folder = samples / "valtara-rail"
    shown = RUNNER.invoke(app, ["describe", str(folder), "--format", "json"])
    described = json.loads(shown.stdout)
    tenant = TenantDataset.open(folder)
    assert described == {"path": str(folder), **tenant.counts(), "digest": tenant.digest()}
    assert "digest" in RUNNER.invoke(app, ["describe", str(folder)]).stdout


def test_one_sample_can_be_chosen(tmp_path: Path) -> None:
    arguments = ["samples", str(tmp_path), "--name", "larkhill-vets", "--format", "json"]
    assert list(json.loads(RUNNER.invoke(app, arguments).stdout)) == ["larkhill-vets"]
    assert [path.name for path in tmp_path.iterdir()] == ["larkhill-vets"]
    assert isinstance(RUNNER.invoke(app, ["samples", "x", "--name", "no"]).exception, DataError)


def test_sound_tenant_validates(samples: Path) -> None:
    result = RUNNER.invoke(app, ["validate", str(samples / "larkhill-vets")])
    assert result.exit_code == 0 and "no faults" in result.stdout


def test_faults_are_listed_and_end_with_exit_code_three(tmp_path: Path) -> None:
    (tmp_path / "faqs.parquet").write_bytes(b"nothing")
    table = RUNNER.invoke(app, ["validate", str(tmp_path)])
    assert table.exit_code == 3 and "faqs.parquet" in table.stdout
    machine = RUNNER.invoke(app, ["validate", str(tmp_path), "--format", "json"])
    assert machine.exit_code == 3
    (fault,) = json.loads(machine.stdout)["faults"]
    assert (fault["file"], fault["row"], fault["column"]) == ("faqs.parquet", None, None)


def test_import_keeps_k_and_reports_the_counts(samples: Path, tmp_path: Path) -> None:
    arguments = ["import", str(samples / "pedal-and-spoke"), str(tmp_path / "out")]
    result = RUNNER.invoke(app, [*arguments, "--k", "2", "--format", "json"])
    counts = json.loads(result.stdout)
    assert counts["train"] - counts["oos_train"] == 2 * counts["faqs"]


def test_domain_errors_pass_to_the_root(samples: Path, tmp_path: Path) -> None:
    source = str(samples / "pedal-and-spoke")
    for arguments, kind in [
        (["import", source, "s3://bucket/x"], DataError),
        (["validate", "https://host/tenant"], DataError),
        (["describe", str(tmp_path / "absent")], DataError),
        (["import", source, str(tmp_path / "o"), "--k", "-2"], ConfigError),
    ]:
        assert isinstance(RUNNER.invoke(app, arguments).exception, kind)
