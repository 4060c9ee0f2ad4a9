"""The scripts that start nodes: what they would have Ray do, and what they refuse."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.unit.deployment.manifests import CLUSTER, ROOT

SCRIPTS = sorted([*CLUSTER.rglob("*.sh"), ROOT / ".ci" / "run"])
NODES, SINGLE = CLUSTER / "nodes", CLUSTER / "single"
HEAD, OWN = "10.0.0.1", "10.0.0.2"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound_and_quotes_every_variable(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    options = ["--external-sources", "--enable=quote-safe-variables"]
    done = subprocess.run([shellcheck, *options, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    sourced = path.name == "environment.sh"
    assert sourced or "set -euo pipefail" in path.read_text()
    assert sourced != bool(path.stat().st_mode & 0o111)


class Node:
    """A machine with credentials, and with a `ray` that keeps what it was called with."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "cluster"
        self.folder.mkdir(parents=True)
        for name, mode in {
            "token": 0o600,
            "node.key": 0o600,
            "node.crt": 0o644,
            "ca.crt": 0o644,
        }.items():
            (self.folder / name).write_text("content")
            (self.folder / name).chmod(mode)
        self._called = home / "called.json"
        ray = home / "bin" / "ray"
        ray.parent.mkdir()
        ray.write_text(
            f"#!{sys.executable}\nimport json, os, sys\n"
            f"json.dump([sys.argv[1:], dict(os.environ)], open({str(self._called)!r}, 'w'))\n"
        )
        ray.chmod(0o755)
        self._environment = {
            "PATH": os.pathsep.join(
                [str(ray.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
            ),
            "PYTHONPATH": str(ROOT),
            "HOME": str(home),
            "ADAPTERDISTILL_CLUSTER": str(self.folder),
        }

    def run(self, script: Path, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [script, *args], env=self._environment, capture_output=True, text=True, check=False
        )

    def called(self, script: Path, *args: str) -> tuple[list[str], dict[str, str]]:
        """Arguments and environment of the `ray` that the script ended in."""
        done = self.run(script, *args)
        assert done.returncode == 0, done.stderr
        arguments, environment = json.loads(self._called.read_text())
        return arguments, environment

    def refuses(self, script: Path, *args: str) -> str:
        done = self.run(script, *args)
        assert done.returncode == 2 and not self._called.exists()
        return done.stderr


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def start_options(arguments: list[str]) -> dict[str, Any]:
    """As `ray start` itself reads them."""
    from ray.scripts.scripts import start

    assert arguments[0] == "start"
    options: dict[str, Any] = start.make_context("start", arguments[1:]).params
    return options


def test_a_head_runs_no_work_and_shows_its_dashboard_to_loopback_alone(node: Node) -> None:
    arguments, environment = node.called(NODES / "head.sh", HEAD, "--block")
    options = start_options(arguments)
    assert options["head"] and options["block"] and options["num_cpus"] == 0
    assert (options["node_ip_address"], options["dashboard_host"]) == (HEAD, "127.0.0.1")
    assert environment["RAY_AUTH_MODE"] == "token" and environment["RAY_USE_TLS"] == "1"
    assert environment["RAY_AUTH_TOKEN_PATH"] == str(node.folder / "token")
    for name in ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"):
        assert Path(environment[name]).parent == node.folder


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (NODES / "head.sh", [HEAD]),
        (NODES / "owner.sh", ["acme", HEAD, OWN]),
        (NODES / "worker.sh", [HEAD, OWN]),
        (SINGLE / "start.sh", ["acme"]),
    ],
    ids=lambda given: given.name if isinstance(given, Path) else None,
)
def test_every_node_has_a_token_and_a_folder_that_is_closed_to_other_users(
    node: Node, script: Path, arguments: list[str]
) -> None:
    called, environment = node.called(script, *arguments)
    folder = Path(start_options(called)["temp_dir"])
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    # Ray adds a session and a socket of about 64 characters, and such a path has at most 107.
    assert len(str(folder)) < 40
    assert environment["RAY_AUTH_MODE"] == "token" and environment["RAY_AUTH_TOKEN_PATH"]


def test_an_owner_s_node_alone_offers_its_resource(node: Node) -> None:
    arguments, environment = node.called(NODES / "owner.sh", "acme.co", HEAD, OWN)
    options = start_options(arguments)
    assert json.loads(options["resources"]) == {"owner:acme.co": 1}
    assert (options["address"], options["node_ip_address"]) == (f"{HEAD}:6379", OWN)
    assert environment["RAY_USE_TLS"] == "1"
    options = start_options(node.called(NODES / "worker.sh", HEAD, OWN)[0])
    assert json.loads(options["resources"]) == {"serving": 1}


def test_ports_of_a_node_are_fixed_and_differ(node: Node) -> None:
    options = start_options(node.called(NODES / "head.sh", HEAD)[0])
    ports = [value for name, value in options.items() if name.endswith("port") and value]
    named = sorted(map(int, ports))
    assert named == [6379, 6380, 6381, 6382, 6383, 6384, 8265, 10100, 10299, 52365]
    assert (options["min_worker_port"], options["max_worker_port"]) == (10100, 10299)


def test_a_node_starts_as_its_role_says(node: Node) -> None:
    (node.folder / "role").write_text(f"owner.sh acme {HEAD} {OWN}\n")
    options = start_options(node.called(NODES / "start.sh", "--num-cpus=3")[0])
    assert json.loads(options["resources"]) == {"owner:acme": 1} and options["num_cpus"] == 3


def test_a_shell_with_the_environment_reaches_the_cluster_as_its_nodes_do(node: Node) -> None:
    _, started = node.called(NODES / "worker.sh", HEAD, OWN)
    script = node.folder / "shell.sh"
    script.write_text(f"#!/bin/bash\nset -e\nsource {NODES / 'environment.sh'}\nexec ray status\n")
    script.chmod(0o755)
    arguments, environment = node.called(script)
    assert arguments == ["status"]
    names = {name for name in started if name.startswith("RAY_")}
    assert {name: environment.get(name) for name in names} == {n: started[n] for n in names}


def test_the_head_alone_deploys_what_its_operator_put_there(node: Node) -> None:
    serve = node.folder.parent / "bin" / "serve"
    serve.write_text(f'#!/bin/sh\necho "$*" > {node.folder / "deployed"}\n')
    serve.chmod(0o755)

    def deployed() -> bool:
        (node.folder / "deployed").unlink(missing_ok=True)
        assert node.run(NODES / "deploy.sh").returncode == 0
        return (node.folder / "deployed").exists()

    (node.folder / "role").write_text(f"head.sh {HEAD}\n")
    assert not deployed()
    (node.folder / "serve.yaml").write_text("applications: []\n")
    assert deployed()
    assert (node.folder / "deployed").read_text() == f"deploy {node.folder / 'serve.yaml'}\n"
    (node.folder / "role").write_text(f"worker.sh {HEAD} {OWN}\n")
    assert not deployed()


@pytest.mark.parametrize("role", ["", "onboard.sh acme x.toml", "../../bin/sh", "rm -rf"])
def test_another_role_is_refused(node: Node, role: str) -> None:
    (node.folder / "role").write_text(role)
    assert "role" in node.refuses(NODES / "start.sh")


def test_a_single_machine_stays_on_loopback_with_a_token_of_its_own(node: Node) -> None:
    (node.folder / "token").unlink()
    arguments, environment = node.called(SINGLE / "start.sh", "acme", "bolt-co")
    options = start_options(arguments)
    assert json.loads(options["resources"]) == {"owner:acme": 1, "owner:bolt-co": 1}
    assert options["node_ip_address"] == options["dashboard_host"] == "127.0.0.1"
    assert environment["RAY_AUTH_MODE"] == "token" and environment["RAY_USE_TLS"] == "1"
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    script = Path(environment["RAY_SERVE_HAPROXY_BINARY_PATH"])
    assert script.parent.stat().st_mode & 0o777 == 0o700
    assert "unix@" in script.read_text() and str(script) not in script.read_text()
    # Without it, Ray on Linux listens on all interfaces whatever address it is given.
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    token = node.folder / "token"
    assert len(token.read_text().strip()) == 64 and token.stat().st_mode & 0o077 == 0
    assert token.read_text() not in arguments  # no secret in the list of processes
    kept = token.read_text()
    (node.folder / "node.crt").unlink()  # usual on one machine: no certificates
    assert node.called(SINGLE / "start.sh", "acme")[1]["RAY_USE_TLS"] == "0"
    assert token.read_text() == kept


def test_a_run_is_submitted_from_the_owner_s_node(node: Node) -> None:
    from ray.dashboard.modules.job.cli import submit

    hostile = "/srv/a c/$(id).toml"
    done = node.run(NODES / "onboard.sh", "acme", hostile, "--promote", "--dry-run")
    assert done.returncode == 0, done.stderr
    said = shlex.split(done.stdout)
    assert said[:4] == ["$", "ray", "job", "submit"]
    options = submit.make_context("submit", said[4:]).params
    assert json.loads(options["entrypoint_resources"]) == {"owner:acme": 0.001}
    assert options["address"] == "http://127.0.0.1:8265"
    # Ray hands the command to a shell.
    command = done.stdout.rstrip("\n").partition(" -- ")[2]
    assert shlex.split(command) == (
        ["python", "-m", "adapterdistill", "onboard", "--config", hostile, "--promote"]
    )
    assert "'" in command


@pytest.mark.parametrize(
    "hostile",
    [
        "acme; reboot",
        "$(reboot)",
        '": 1, "x',
        "Acme",
        "../acme",
        "-acme",
        "a b",
        "",
        "acme\nb",
        "á",
    ],
)
def test_a_hostile_name_is_refused_before_ray_sees_it(node: Node, hostile: str) -> None:
    for script, args in (
        (NODES / "owner.sh", (hostile, HEAD, OWN)),
        (NODES / "onboard.sh", (hostile, "run.toml")),
        (SINGLE / "start.sh", ("acme", hostile)),
    ):
        assert "not the name of a tenant" in node.refuses(script, *args)


@pytest.mark.parametrize("hostile", ["--head", "$(id)", "10.0.0.1;id", "a b", "", "host\n--head"])
def test_a_hostile_address_is_refused(node: Node, hostile: str) -> None:
    for script, args in (
        (NODES / "head.sh", (hostile,)),
        (NODES / "owner.sh", ("acme", hostile, OWN)),
        (NODES / "owner.sh", ("acme", HEAD, hostile)),
        (NODES / "worker.sh", (HEAD, hostile)),
    ):
        assert "not an address" in node.refuses(script, *args)


def test_secrets_that_others_may_read_or_that_are_missing_are_refused(node: Node) -> None:
    for name in ("token", "node.key"):
        secret = node.folder / name
        secret.chmod(0o640)
        assert "others may read it (mode 0640)" in node.refuses(NODES / "head.sh", HEAD)
        secret.unlink()
        assert f"{name} is missing" in node.refuses(NODES / "head.sh", HEAD)
        secret.write_text("content")
        secret.chmod(0o600)
    (node.folder / "ca.crt").unlink()
    assert "ca.crt is missing" in node.refuses(NODES / "worker.sh", HEAD, OWN)


def test_too_few_arguments_show_what_is_wanted(node: Node) -> None:
    for script in SCRIPTS:
        if script.name in ("environment.sh", "run"):
            continue
        if script.name == "deploy.sh":
            assert "usage: deploy.sh" in node.refuses(script, "more")
            continue
        expected = (
            "role is missing" if script.name == "start.sh" and script.parent == NODES else "usage: "
        )
        assert expected in node.refuses(script)


def test_certificates_are_of_one_authority_and_for_one_address_each(
    node: Node, tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    assert node.run(NODES / "certificates.sh", str(folder), HEAD).returncode == 0
    ca, token = (folder / "ca.crt").read_bytes(), (folder / "token").read_bytes()
    done = node.run(NODES / "certificates.sh", str(folder), OWN, "serving.example.org")
    assert done.returncode == 0, done.stderr
    assert ((folder / "ca.crt").read_bytes(), (folder / "token").read_bytes()) == (ca, token)
    authority = x509.load_pem_x509_certificate(ca)
    for address in (HEAD, OWN, "serving.example.org"):
        of_node = folder / address
        assert {p.name for p in of_node.iterdir()} == {"ca.crt", "node.crt", "node.key", "token"}
        assert all(p.stat().st_mode & 0o077 == 0 for p in of_node.iterdir())
        certificate = x509.load_pem_x509_certificate((of_node / "node.crt").read_bytes())
        certificate.verify_directly_issued_by(authority)
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = {str(name.value) for name in extension.value}
        assert names == {address, "127.0.0.1", "localhost"}
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        assert (of_node / "token").read_bytes() == token


UNITS = sorted((CLUSTER / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.stem)
def test_a_unit_names_programs_that_exist_and_starts_them_again(unit: Path) -> None:
    text = unit.read_text("utf-8")
    assert "\nRestart=always\n" in text and "\nStartLimitIntervalSec=0\n" in text
    programs = re.findall(
        r"^Exec\w+=-?/home/adapterdistill/adapterdistill/(\S+)", text, re.MULTILINE
    )
    assert programs
    for program in programs:
        assert program == ".venv/bin/adapterdistill" or (ROOT / program).stat().st_mode & 0o111
