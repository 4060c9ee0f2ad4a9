"""`adapterdistill init` and `up`: examples that work as they are, and defaults up to serving."""

import re
from pathlib import Path
from typing import Any

import pytest

from adapterdistill import cli
from adapterdistill.config import load_toml, parse_config
from adapterdistill.data import Faq, Query, TenantDataset
from adapterdistill.data.dataset import write_tenant
from adapterdistill.data.importing import import_tenant


def ran(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(args)
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out + printed.err


def test_init_writes_a_run_and_files_that_work_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "Acme Shop"
    code, printed = ran(capsys, "init", str(home))
    assert code == 0 and f"adapterdistill data import {home}/source {home}/data" in printed
    config = load_toml(home / "run.toml")
    assert (config.tenant, config.registry.is_embedded) == ("acme-shop", True)
    assert config.workspace == str(home / "work") and config.data == str(home / "data")
    import_tenant(home / "source", Path(config.data))
    counts = TenantDataset.open(Path(config.data)).counts()
    assert (counts["faqs"], counts["train"], counts["out_of_scope"]) == (3, 6, 2)


def test_every_line_that_init_comments_out_is_a_key_with_a_value_that_it_may_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(capsys, "init", str(tmp_path / "acme"))
    text = (tmp_path / "acme/run.toml").read_text()
    (tmp_path / "all.toml").write_text(re.sub(r"(?m)^# (\w+ = )", r"\1", text))
    config = load_toml(tmp_path / "all.toml")
    assert config.registry.address == "registry.example.org:8443"
    kept = load_toml(tmp_path / "acme/run.toml").model_dump(exclude={"registry", "release"})
    assert config.model_dump(exclude={"registry", "release"}) == kept  # they are the defaults


def test_init_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.toml").write_text("mine")
    code, printed = ran(capsys, "init", str(tmp_path))
    assert code == 2 and "holds run.toml already: name another folder" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["run.toml"]


@pytest.mark.parametrize("name", ["A b", "../x", "-"])
def test_a_tenant_s_name_that_cannot_be_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, printed = ran(capsys, "init", str(tmp_path / "new"), f"--tenant={name}")
    assert code == 2 and "expected lower-case letters" in printed
    assert not (tmp_path / "new").exists()


def test_up_imports_onboards_and_serves_what_it_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "My FAQs.csv").write_text("question,answer\nWhere is it?,Here.\nWho?,You.\n")
    done: list[tuple[Any, ...]] = []
    monkeypatch.setattr("adapterdistill.cli.runs.begin._onboard", lambda *args: done.append(args))
    monkeypatch.setattr(
        "adapterdistill.cli.runs.begin._serve",
        lambda *args, feedback: done.append((*args, feedback)),
    )
    home = tmp_path / "home"
    source = str(tmp_path / "My FAQs.csv")
    code, printed = ran(capsys, "up", source, "--home", str(home), "--port", "18431")
    assert code == 0 and done == [("my-faqs", home), (home, 18431, False)]
    assert "adapterdistill query my-faqs" in printed and "http://127.0.0.1:18431" in printed
    assert TenantDataset.open(home / "data").counts()["faqs"] == 2
    folder = home / "data"
    faqs = list(TenantDataset.open(folder).faqs())
    exported = [
        Query("feedback-1", "in which room", faqs[0].faq_id, "train"),
        Query("feedback-2", "nice weather", None, "train"),
        Query("feedback-3", "of an FAQ that is gone", "gone", "train"),
    ]
    gone = Faq("gone", "What was it?", None)
    write_tenant(folder, [*faqs, gone], exported, overwrite=True)
    again = ran(capsys, "up", source, "--home", str(home), "--port", "18431", "--feedback")
    assert again[0] == 0 and done[-1] == (home, 18431, True)
    assert list(TenantDataset.open(folder).faqs()) == faqs
    assert list(TenantDataset.open(folder).queries()) == exported[:2]


def test_a_run_names_its_registry_once_or_not_at_all(tmp_path: Path) -> None:
    values = {"tenant": "acme", "data": "a", "workspace": "b", "serving_store": "c"}
    assert parse_config(values, source="test").registry.is_embedded
    for registry, words in (
        ({"address": "a:1", "address_file": "b"}, "give one of address and address_file"),
        ({"credentials": "keys"}, "credentials are for a registry with an address"),
    ):
        with pytest.raises(Exception, match=words):
            parse_config(values | {"registry": registry}, source="test")
