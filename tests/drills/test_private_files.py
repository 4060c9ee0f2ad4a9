"""No file that a command leaves can be read or changed by another user, whatever the umask."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adapterdistill import cli
from adapterdistill.testbed.registry import registry_process
from tests.owner_runs import config_toml, run_of, write_shop
from tests.unit.cli.test_commands import COMMANDS

OTHERS = stat.S_IRWXG | stat.S_IRWXO
BY_HAND = {"source", "source/faqs.csv", "source/queries.csv", "run.toml", "again.toml", "keys"}
"""What a person put there; all else is a command's."""
OPEN_BEFORE = ("owners", "serving", "registry", "imported", "keys/acme", "keys/auditor", "source")
"""Folders that a person made beforehand, as open as the umask lets them be."""


def _published(home: Path) -> str:
    report = json.loads((home / "owners/acme/report.json").read_bytes())
    return str(report["publish"]["name"])


def _other_bundle(home: Path) -> str:
    """The bundle of the first run, which the second one replaced."""
    live = json.loads((home / "owners/acme/report.json").read_bytes())["bundle"]["bundle"]
    bundles = {path.stem for path in (home / "serving/bundles/acme").iterdir()}
    (other,) = bundles - {live}
    return other


STEPS: list[tuple[str, Callable[[Path], list[str]]]] = [
    ("data samples", lambda home: ["samples"]),
    ("data import", lambda home: ["source", "imported"]),
    ("data import", lambda home: ["source", "imported", "--overwrite"]),
    ("onboard", lambda home: ["--config", "run.toml", "--local", "--dry-run"]),
    ("onboard", lambda home: ["--config", "run.toml", "--local"]),
    ("onboard", lambda home: ["--config", "again.toml", "--local"]),
    (
        "submit",
        lambda home: ["--config", "run.toml", "--package", "sent/package.zip", "--dry-run"],
    ),
    ("registry fetch", lambda home: [_published(home), "fetched", "--address-file", "address"]),
    ("release canary", lambda home: ["acme", _other_bundle(home), "--store", "serving"]),
    ("release drop", lambda home: ["acme", "--store", "serving"]),
    ("release shadow", lambda home: ["acme", _other_bundle(home), "--store", "serving"]),
    ("release promote", lambda home: ["acme", "--store", "serving"]),
    ("release rollback", lambda home: ["acme", "--store", "serving"]),
    ("report", lambda home: ["acme", "--workspace", "owners", "--out", "shown.html"]),
    ("init", lambda home: ["begun"]),
    ("adapter export", lambda home: ["serving/acme", "exported"]),
    ("adapter import", lambda home: ["exported", "adapter.payload"]),
    ("feedback list", lambda home: ["serving/acme"]),
    ("feedback label", lambda home: ["serving/acme"]),
    ("feedback export", lambda home: ["serving/acme", "data/acme"]),
    ("registry backup", lambda home: ["registry", "backup"]),
    ("registry restore", lambda home: ["backup", "restored"]),
    ("registry reopen", lambda home: ["restored"]),
    ("registry init", lambda home: ["--root", "secured", "--host", "127.0.0.1"]),
    ("owner keygen", lambda home: ["keys/acme", "--tenant", "acme"]),
    ("registry keygen", lambda home: ["keys/auditor", "--role", "auditor", "--name", "auditor"]),
    (
        "registry enrol",
        lambda home: [
            *("acme", "--root", "secured", "--request", "keys/acme/request.pem"),
            *("--out", "issued.pem"),
        ],
    ),
    ("registry renew-server", lambda home: ["--root", "secured"]),
    ("owner renew", lambda home: ["secured/operator", "--offline"]),
    ("registry rotate-authority", lambda home: ["begin", "--root", "secured"]),
    ("registry revoke", lambda home: ["acme", "--root", "secured"]),
    ("token new", lambda home: ["--tokens", "hashes", "--tenant", "acme", "--out", "token"]),
    ("bundle key", lambda home: ["acme.key"]),
    ("token revoke", lambda home: ["--tokens", "hashes", "--tenant", "acme"]),
]
"""Commands and their arguments, in a folder of the test's, one after another."""
WRITE_NOTHING = {
    *(
        "adapter card",
        "data describe",
        "data validate",
        "encoder list",
        "owner show",
        "query",
        "registry audit show",
    ),
    *("registry audit verify", "registry certificates", "registry fsck", "registry list"),
    *(
        "registry receipt",
        "registry show",
        "registry watch",
        "release list",
        "release show",
        "token list",
    ),
}
NOT_RUN = {
    "encoder fetch": "puts together a public encoder from installed packages",
    "registry serve": "runs while the others do",
    "registry migrate": "needs a PostgreSQL server: tests/system/test_shared_registry.py looks",
    "registry alias": "changes only what the registry's process writes",
    "registry consent": "changes only what the registry's process writes",
    "registry release": "changes only what the registry's process writes",
    "registry release-from-quarantine": "changes only what the registry's process writes",
    "registry withdraw": "changes only what the registry's process writes",
    "up": "imports, onboards and serves, as the commands that are run here",
    "bundle push": "its deployment writes: tests/unit/serve/http/test_push.py looks",
    "serve": "starts Ray: tests/cluster/test_serve_command.py looks at what it leaves",
    "console owner": "serves until it is stopped, and writes what the commands write",
    "console operator": "serves until it is stopped, and writes nothing",
    "demo": "starts Ray, in a folder of mkdtemp, for the commands that are run here",
    "federation": "starts Ray, in a folder of mkdtemp, for the commands that are run here",
    "drill": "starts a deployment in a folder of mkdtemp, for the commands that are run here",
}


def test_every_command_is_run_here_or_says_why_not() -> None:
    measurements = {path for path in COMMANDS if path.startswith("bench ")}  # figures only
    assert {command for command, _ in STEPS} | WRITE_NOTHING | NOT_RUN.keys() == (
        COMMANDS.keys() - measurements
    )


@pytest.fixture(params=[0o000, 0o022], ids=["umask 000", "umask 022"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_what_every_command_leaves_is_closed_to_other_users(
    umask: int, tmp_path: Path, tiny_encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in OPEN_BEFORE:
        Path(name).mkdir(parents=True)
    Path("source/faqs.csv").write_text("faq_id,question\na,where is it?\nb,what is it?\n")
    Path("source/queries.csv").write_text("text,faq_id,split\nwhere,a,train\nwhat,b,train\n")
    os.umask(0o077)
    write_shop(tmp_path / "data" / "acme")
    os.umask(umask)
    with registry_process(tmp_path / "registry", address_file=tmp_path / "address") as server:
        for name, steps in (("run", 6), ("again", 4)):
            config = run_of(
                tmp_path,
                "acme",
                encoder=tiny_encoder_folder,
                registry=server.address,
                training={"extract_steps": steps},
            )
            Path(f"{name}.toml").write_text(config_toml(config))
        for command, arguments in STEPS:
            os.umask(umask)
            with pytest.raises(SystemExit) as ended:
                cli.main([*command.split(), *arguments(tmp_path)])
            assert ended.value.code == 0, command
    made = {str(path.relative_to(tmp_path)): path.lstat().st_mode for path in tmp_path.rglob("*")}
    assert {f"{name} {mode:o}" for name, mode in made.items() if mode & OTHERS} == {
        f"{name} {mode:o}" for name, mode in made.items() if name in BY_HAND
    }
    names = {name.rpartition("/")[2] for name in made}
    assert {"faqs.parquet", "index.sqlite3", "manifest.json", "tls.key", "report.json"} <= names
