"""The script that closes HAProxy's statistics to others; a stand-in takes HAProxy's place."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from adapterdistill.serve.haproxy import closed_haproxy, find_haproxy


def rendered(environment: dict[str, str]) -> str:
    """The lines of Ray's own template that open a port, for a deployment open to others."""
    ports = {
        "config.metrics_port": environment["RAY_SERVE_HAPROXY_METRICS_PORT"],
        "config.stats_port": environment["RAY_SERVE_HAPROXY_STATS_PORT"],
        "config.frontend_host": "*",
        "config.frontend_port": "8000",
        "config.grpc_frontend_host": "*",
        "config.grpc_frontend_port": "9000",
    }
    wanted = r"^(?: *bind .*|defaults|frontend (?:http|grpc)_frontend)$"
    lines = re.findall(wanted, HAPROXY_CONFIG_TEMPLATE, re.MULTILINE)
    return "".join(re.sub(r"{{ (.*?) }}", lambda m: ports[m[1]], line) + "\n" for line in lines)


@pytest.fixture
def made(tmp_path: Path) -> dict[str, str]:
    stand_in = tmp_path / "stand in"
    stand_in.write_text('#!/bin/sh\necho "started $@"\n')
    stand_in.chmod(0o700)
    return closed_haproxy(str(stand_in), tmp_path)


def start(environment: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    command = [environment["RAY_SERVE_HAPROXY_BINARY_PATH"], *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_statistics_are_on_sockets_and_the_service_s_ports_stay(
    made: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(rendered(made))
    for _ in range(2):  # Ray starts it again with the same file
        done = start(made, "-db", "-f", str(config), "-dR", "-sf", "1")
        assert (done.returncode, done.stdout) == (0, f"started -db -f {config} -dR -sf 1\n")
        limits = [
            "stick-table type ipv6 size 100k expire 10m store conn_cur",
            "tcp-request connection track-sc0 src",
            "tcp-request connection reject if { sc0_conn_cur gt 1024 }",
        ]
        assert [line.strip() for line in config.read_text().splitlines()] == [
            "defaults",
            "timeout http-request 10s",
            "timeout http-keep-alive 60s",
            f"bind unix@{tmp_path}/exporter.sock",
            "frontend http_frontend",
            *limits,
            "bind *:8000",
            "frontend grpc_frontend",
            *limits,
            "bind *:9000 proto h2",
            f"bind unix@{tmp_path}/stats.sock",
        ]


def test_nothing_starts_if_ray_opens_other_ports_than_it_did(
    made: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(rendered(made).replace("*:8404", "0.0.0.0:8404"))
    for args in (["-db", "-f", str(config)], [str(config)], []):
        done = start(made, *args)
        assert done.returncode == 1 and "open to all" in done.stderr and not done.stdout


def test_every_file_of_ray_s_haproxy_is_in_the_private_folder(
    made: dict[str, str], tmp_path: Path
) -> None:
    from ray.serve._private import constants, haproxy

    paths = {
        name
        for name, value in vars(haproxy).items()
        if name.startswith("RAY_SERVE_HAPROXY_") and "/tmp/" in str(value)
    }
    assert paths and paths <= made.keys()
    assert {name for name in made if not hasattr(constants, name)} == set()
    for name in paths | {"RAY_SERVE_HAPROXY_SERVER_STATE_BASE"}:
        assert made[name].startswith(str(tmp_path))


def test_the_named_haproxy_is_found_first_and_an_absent_one_is_none(tmp_path: Path) -> None:
    assert find_haproxy({"RAY_SERVE_HAPROXY_BINARY_PATH": "/bin/sh"}) == "/bin/sh"
    assert find_haproxy({"RAY_SERVE_HAPROXY_BINARY_PATH": str(tmp_path / "absent")}) is None
    assert find_haproxy({}) is not None  # ray[serve] brings one


def test_a_shell_may_take_the_settings_twice_and_haproxy_is_still_what_starts() -> None:
    setting = f'eval "$({shlex.quote(sys.executable)} -m adapterdistill.serve.haproxy)"; '
    command = setting + setting + "env"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    [script] = re.findall("^RAY_SERVE_HAPROXY_BINARY_PATH=(.*)$", done.stdout, re.MULTILINE)
    assert len(str(Path(script).parent)) <= 20
    assert script not in Path(script).read_text()
    assert "RAY_SERVE_ENABLE_HA_PROXY=1\n" in done.stdout


def test_haproxy_listens_on_an_address_of_ipv6_in_front_of_replicas_on_loopback(
    tmp_path: Path,
) -> None:
    made = closed_haproxy("true", tmp_path, "[::1]")
    config = tmp_path / "haproxy.cfg"
    config.write_text(rendered(made).replace("*:8000", "127.0.0.1:8000"))
    assert start(made, "-db", "-f", str(config)).returncode == 0
    assert "bind [::1]:8000\n" in config.read_text() and "127.0.0.1" not in config.read_text()
