"""The script that closes HAProxy's statistics to others; a stand-in takes HAProxy's place."""

import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from adapterdistill.actors.cluster import free_port
from adapterdistill.serve.haproxy import TENANT_TABLE, closed_haproxy, find_haproxy, tenant_rules


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
    beside = tmp_path / "node"  # Ray puts its file into a folder of the node
    beside.mkdir()
    config = beside / "haproxy.cfg"
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
            "timeout tarpit 2s",
            f"bind unix@{beside}/exporter.sock",
            "frontend http_frontend",
            *limits,
            *(line.strip() for line in tenant_rules().splitlines()),
            "bind *:8000",
            "frontend grpc_frontend",
            *limits,
            "bind *:9000 proto h2",
            f"bind unix@{beside}/stats.sock",
            "",
            "backend adapterdistill_tenants",
            "stick-table type string len 64 size 100k expire 10m store conn_cur",
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


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_haproxy_refuses_a_tenant_s_requests_above_the_limit_and_no_other_tenant_s(
    tmp_path: Path,
) -> None:
    """The binary that Ray brings, in front of a server that answers when it is told to."""
    gate, asked = threading.Event(), []

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            assert "other" in self.path or gate.wait(30)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    binary = find_haproxy({})
    assert binary is not None
    server, port = ThreadingHTTPServer(("127.0.0.1", 0), Slow), free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\n mode http\n timeout client 30s\n timeout server 30s\n timeout connect 5s\n"
        " timeout tarpit 100ms\n"
        f"frontend http_frontend\n{tenant_rules(2)} bind 127.0.0.1:{port}\n"
        f" default_backend replicas\nbackend replicas\n server one 127.0.0.1:"
        f"{server.server_port}\n{TENANT_TABLE}"
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{port}/v1/tenants"
    with (
        subprocess.Popen([binary, "-db", "-f", config]) as process,
        ThreadPoolExecutor(3) as threads,
    ):
        try:
            while not answers(port):
                time.sleep(0.01)
            held = [threads.submit(httpx.get, f"{address}/acme/search") for _ in range(2)]
            while len(asked) < 2:
                time.sleep(0.01)
            for path in ("acme/search", "%61cme"):  # a name is the same in other letters
                refused = httpx.get(f"{address}/{path}")
                assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
                assert refused.json()["reason"] == "OVERLOADED"
            assert httpx.get(f"{address}/other/search").status_code == 200
            assert httpx.get(f"http://127.0.0.1:{port}/other").status_code == 200
            gate.set()
            assert [one.result().status_code for one in held] == [200, 200]
            assert httpx.get(f"{address}/acme/search").status_code == 200  # refusals do not count
        finally:
            gate.set()
            process.terminate()
    server.shutdown()
    server.server_close()
