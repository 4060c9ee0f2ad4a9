"""`adapterdistill token`: made, listed, revoked; shown once, and never as an argument."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapterdistill.cli.token import app
from adapterdistill.errors import ConfigError
from adapterdistill.files import read_secret
from adapterdistill.serve.tokens import Tokens, read_tokens


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def run(path: Path, verb: str, *args: str) -> str:
    result = CliRunner().invoke(app, [verb, "--tokens", str(path), *args], env={"COLUMNS": "160"})
    if isinstance(result.exception, ConfigError):
        raise result.exception
    return result.output


def test_a_new_token_is_printed_once_and_opens_its_tenant(path: Path) -> None:
    text = run(path, "new", "--tenant", "acme").strip()
    operator = json.loads(run(path, "new", "--operator", "--format", "json"))
    held = Tokens(path)
    assert held.admit(text.encode(), "acme") and held.admit(operator["token"].encode(), None)
    assert operator["tenant"] is None and operator["state"] == "valid"
    for output in (run(path, "list"), run(path, "list", "--format", "json"), path.read_text()):
        assert text[4:] not in output and operator["token"][4:] not in output


def test_a_new_token_is_written_to_a_new_file_that_its_owner_alone_can_read(
    path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "acme.token"
    for output in ("table", "json"):
        said = run(path, "new", "--tenant", "acme", "--out", str(out), "--format", output)
        text = read_secret(out).decode().strip()  # as `query --token-file` reads it
        assert Tokens(path).admit(text.encode(), "acme") and text[4:] not in said
        with pytest.raises(ConfigError, match="expected the name of a new file"):
            run(path, "new", "--tenant", "acme", "--out", str(out))
        out.unlink()
    with pytest.raises(ConfigError, match="expected the name of a new file"):
        run(path, "new", "--tenant", "acme", "--out", str(tmp_path / "absent" / "acme.token"))
    assert len(read_tokens(path)) == 2  # none was made in vain


def test_tokens_are_listed_by_tenant(path: Path) -> None:
    for tenant in ("acme", "acme", "other"):
        run(path, "new", "--tenant", tenant, "--days", "30")
    run(path, "new", "--operator")
    shown = json.loads(run(path, "list", "--format", "json"))
    assert [row["tenant"] for row in shown] == ["acme", "acme", "other", None]
    assert len(json.loads(run(path, "list", "--tenant", "acme", "--format", "json"))) == 2
    table = run(path, "list")
    assert all(row["expires"][:10] in table for row in shown)
    assert all(row["id"] in table for row in shown) and "(operator)" in table


def test_one_or_all_of_a_tenant_s_tokens_are_revoked(path: Path) -> None:
    first = json.loads(run(path, "new", "--tenant", "acme", "--format", "json"))
    for tenant in ("acme", "acme", "other"):
        run(path, "new", "--tenant", tenant)
    gone = run(path, "revoke", "--tenant", "acme", "--id", first["id"], "--format", "json")
    assert [(row["id"], row["state"]) for row in json.loads(gone)] == [(first["id"], "revoked")]
    assert not Tokens(path).admit(first["token"].encode(), "acme")
    assert len(json.loads(run(path, "revoke", "--tenant", "acme", "--format", "json"))) == 2
    assert [r["tenant"] for r in json.loads(run(path, "list", "--format", "json"))] == ["other"]
    with pytest.raises(ConfigError, match="no such token"):
        run(path, "revoke", "--operator")


@pytest.mark.parametrize(
    "args",
    [[], ["--tenant", "acme", "--operator"], ["--tenant", "Not A Name"], ["--tenant", ""]],
    ids=["neither", "both", "no-name", "empty"],
)
def test_whose_token_it_is_must_be_said(path: Path, args: list[str]) -> None:
    for verb in ("new", "revoke"):
        with pytest.raises(ConfigError):
            run(path, verb, *args)
    assert not path.exists()


def test_tokens_need_neither_torch_nor_ray() -> None:
    loaded = "{'torch', 'ray', 'grpc'} & set(sys.modules)"
    code = f"import sys, adapterdistill.cli.token; assert not {loaded}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_token_is_in_no_process_s_arguments(path: Path) -> None:
    """Neither command takes one: `query` reads a file, `token` prints."""
    root = [sys.executable, "-m", "adapterdistill"]
    for command in (["query"], ["serve"], ["token", "new"], ["token", "revoke"]):
        shown = subprocess.run(
            [*root, *command, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={"COLUMNS": "200", "PATH": "/usr/bin:/bin"},
        ).stdout
        assert "--token " not in shown and "--token=" not in shown
